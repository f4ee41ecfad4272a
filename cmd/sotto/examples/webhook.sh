#!/bin/sh
# Posts what arrives on stdin to a conversation: for alerts, cron, hooks of a repository.
#
#   sotto token create --name webhook --post --chat Hikers > webhook.token
#   df -h | SOTTO_TOKEN_FILE=webhook.token ./webhook.sh Hikers
#
# It needs curl and what every system has. A node that is away, or that was stopped before
# it answered, is asked again, for a minute; the key sees to it that the text is sent once.
set -eu

chat=${1:?usage: webhook.sh CONVERSATION < TEXT}
home=${SOTTO_HOME:-${XDG_DATA_HOME:-$HOME/.local/share}/sotto}

# What others may not see is in files that they cannot read, and in no argument.
umask 077
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
trap 'exit 130' INT TERM
printf 'Authorization: Bearer %s\nContent-Type: application/json\n' "$(cat "${SOTTO_TOKEN_FILE:?names the file with the token}")" > "$tmp/head"

hex() { od -An -v -tx1 | tr -d ' \n'; }
key=$(head -c 16 /dev/urandom | hex)

# The text as JSON, without control characters but line ends and tabs.
tab=$(printf '\t')
{
	printf '{"key":"%s","text":"' "$key"
	LC_ALL=C tr -d '\000-\010\013-\037\177' | LC_ALL=C sed "s/\\\\/\\\\\\\\/g; s/\"/\\\\\"/g; s/$tab/\\\\t/g" |
		LC_ALL=C awk '{ printf "%s%s", (NR > 1 ? "\\n" : ""), $0 }'
	printf '"}'
} > "$tmp/body"

# The name in the path, every byte of it escaped.
path=$(printf %s "$chat" | hex | sed 's/../%&/g')

tries=0
while :; do
	socket=$home/run/api.sock
	if [ -f "$home/api.addr" ]; then socket=$(cat "$home/api.addr"); fi
	status=$(curl -sS -o "$tmp/answer" -w '%{http_code}' --max-time 10 --unix-socket "$socket" \
		-H "@$tmp/head" --data-binary "@$tmp/body" "http://sotto/v1/conversations/$path/messages" 2> "$tmp/error") || status=000
	case $status in
	200) exit 0 ;;
	000 | 500 | 503 | 504) ;; # not there, or it may or may not have worked
	*)
		echo "webhook: the node answers $status: $(cat "$tmp/answer")" >&2
		exit 1
		;;
	esac
	tries=$((tries + 1))
	if [ "$tries" -ge 60 ]; then
		echo "webhook: given up: $(cat "$tmp/error" "$tmp/answer" 2> /dev/null)" >&2
		exit 1
	fi
	sleep 1
done
