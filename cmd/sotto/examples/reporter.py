#!/usr/bin/env python3
"""Writes how many messages each conversation has had, a file for each day.

    sotto token create --name reporter --read > reporter.token
    SOTTO_TOKEN_FILE=reporter.token ./reporter.py reports/

It takes nothing but Python's standard library. What it has counted and the number of the
last event are in one file, replaced as a whole after each event: whatever is killed,
itself or the node, each message is counted once. Days are those of UTC.
"""

import http.client
import json
import os
import socket
import sys
import time
import urllib.parse

PAUSE = 0.25  # seconds before a node that is away is asked again


class Gone(Exception):
    """The node refuses, and will again."""


class Node(http.client.HTTPConnection):
    """A connection to the node's socket."""

    def __init__(self, home, token):
        super().__init__("sotto")
        self.home, self.headers = home, {"Authorization": "Bearer " + token}

    def connect(self):
        path = os.path.join(self.home, "run", "api.sock")
        try:
            with open(os.path.join(self.home, "api.addr")) as note:
                path = note.read().strip()
        except FileNotFoundError:
            pass
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(path)

    def get(self, path):
        self.request("GET", path, headers=self.headers)
        answer = self.getresponse()
        if answer.status != 200:
            problem = json.load(answer)
            if answer.status < 500:
                raise Gone(problem["detail"])
            raise OSError(problem["detail"])
        return answer


def events(node, after):
    """Yields events behind the one numbered after, until the node is away."""
    kind = data = ""
    for line in node.get("/v1/events?after=%d" % after):
        line = line.decode().rstrip("\r\n")
        if line.startswith("event: "):
            kind = line[len("event: "):]
        elif line.startswith("data: "):
            data = line[len("data: "):]
        elif not line and data:
            event = json.loads(data)
            if kind == "problem":
                raise Gone(event["detail"]) if event["status"] < 500 else OSError(event["detail"])
            yield event
            kind = data = ""


def replace(path, text):
    """Writes a file so that it is either as it was or as it is to be."""
    with open(path + ".new", "w") as f:
        f.write(text)
        f.flush()
        os.fsync(f.fileno())
    os.replace(path + ".new", path)


def report(folder, state):
    """Writes the summary of the state's day."""
    lines = ["%6d  %s\n" % (n, name) for name, n in sorted(state["counts"].items())]
    replace(os.path.join(folder, state["day"] + ".txt"), "".join(lines))


def count(state, names, event, folder):
    """Takes in one event."""
    state["seq"] = event["seq"]
    if event["type"] == "conversation":
        names[event["conversation"]["id"]] = event["conversation"]["name"]
    message = event.get("message")
    if not message or message["kind"] != "text" or not message.get("seq"):
        return
    # A message has an event for each change of it. Those of others come in the order of
    # their positions, and so do one's own: what is not behind the last was counted.
    chat = message["conversation"]
    counted = state["last"].setdefault(chat, {"mine": 0, "theirs": 0})
    whose = "mine" if message["mine"] else "theirs"
    if message["seq"] <= counted[whose]:
        return
    counted[whose] = message["seq"]
    if event["time"][:10] != state["day"]:
        state.update(day=event["time"][:10], counts={})
    name = names.get(chat, chat[:12])
    state["counts"][name] = state["counts"].get(name, 0) + 1
    report(folder, state)


def main():
    folder = sys.argv[1] if len(sys.argv) > 1 else "."
    data = os.environ.get("XDG_DATA_HOME") or os.path.expanduser("~/.local/share")
    home = os.environ.get("SOTTO_HOME") or os.path.join(data, "sotto")
    with open(os.environ["SOTTO_TOKEN_FILE"]) as f:
        token = f.read().strip()
    os.makedirs(folder, exist_ok=True)
    place = os.path.join(folder, "state.json")
    state = None
    if os.path.exists(place):
        with open(place) as f:
            state = json.load(f)
    while True:
        try:
            if state is None:
                last = json.load(Node(home, token).get("/v1/events/last"))
                state = {"seq": last["seq"], "day": "", "counts": {}, "last": {}}
                replace(place, json.dumps(state))
            chats = json.load(Node(home, token).get("/v1/conversations"))["conversations"]
            names = {c["id"]: c["name"] for c in chats}
            for event in events(Node(home, token), state["seq"]):
                count(state, names, event, folder)
                replace(place, json.dumps(state))
        except Gone as problem:
            sys.exit("reporter: %s" % problem)
        except (OSError, http.client.HTTPException):
            pass  # the node is away, or was: again in a while
        time.sleep(PAUSE)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
