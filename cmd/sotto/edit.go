package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"sotto/node"
	"sotto/node/api"
	"sotto/node/setting"
)

// editConfig lets a person change settings in an editor. A line is KEY = VALUE; one that is
// made a comment or removed is unset. Nothing is changed unless every line can be read.
func (a *app) editConfig(ctx context.Context, c *cobra.Command, chat string) error {
	list, err := a.settings(ctx, chat)
	if err != nil {
		return err
	}
	before := configText(list)
	after, err := a.edit(ctx, before)
	if err != nil {
		return err
	}
	wanted, err := parseConfig(after, list)
	if err != nil {
		return usage(c, "%v; nothing was changed", err)
	}
	cl := a.client()
	defer cl.Close()
	changed := []api.Setting{}
	for _, s := range list {
		to, set := wanted[s.Key]
		var now api.Setting
		switch was := setHere(s); {
		case set && (!was || to != s.Value):
			now, err = cl.SetConfig(ctx, chat, s.Key, to)
		case !set && was:
			now, err = cl.UnsetConfig(ctx, chat, s.Key)
		default:
			continue
		}
		if err != nil {
			if len(changed) > 0 {
				err = fmt.Errorf("%w: %s: %w", errPartly, s.Key, err)
			}
			return err
		}
		changed = append(changed, now)
	}
	return a.print(map[string][]api.Setting{"settings": changed}, func(io.Writer) {
		a.say("%s changed.", count(len(changed), "setting", "settings"))
	})
}

// setHere reports whether a setting was set where it is shown.
func setHere(s api.Setting) bool {
	return s.From == node.FromConversation || s.From == node.FromUser && s.Conversation == ""
}

// configText writes settings for an editor; what is not set is a comment.
func configText(list []api.Setting) string {
	var b strings.Builder
	b.WriteString("# Settings. Remove the # in front of a line to set it; put one there to unset it.\n")
	for _, s := range list {
		fmt.Fprintf(&b, "\n# %s\n", s.Words)
		if len(s.Allowed) > 0 {
			fmt.Fprintf(&b, "# One of %s.\n", strings.Join(s.Allowed, ", "))
		}
		mark := "#"
		if setHere(s) {
			mark = ""
		}
		fmt.Fprintf(&b, "%s%s = %s\n", mark, s.Key, s.Value)
	}
	return b.String()
}

// parseConfig reads what an editor has left: the value of each key that is set.
func parseConfig(text string, list []api.Setting) (map[string]string, error) {
	known := map[string]setting.Definition{}
	for _, s := range list {
		known[s.Key] = s.Definition
	}
	out := map[string]string{}
	number := 0
	for line := range strings.Lines(text) {
		number++
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		key, value, ok := strings.Cut(line, "=")
		key = strings.TrimSpace(key)
		d, is := known[key]
		switch {
		case !ok:
			return nil, fmt.Errorf("line %d is not KEY = VALUE", number)
		case !is:
			_, err := setting.Lookup(key)
			if err == nil {
				err = fmt.Errorf("%s is no setting of one conversation", key)
			}
			return nil, fmt.Errorf("line %d: %w", number, err)
		}
		if _, twice := out[key]; twice {
			return nil, fmt.Errorf("line %d: %s is there twice", number, key)
		}
		value, err := d.Parse(value)
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", number, err)
		}
		out[key] = value
	}
	return out, nil
}

// edit shows a text in the person's editor and returns what they have made of it. The file
// is theirs alone, and gone afterwards.
func (a *app) edit(ctx context.Context, text string) (string, error) {
	dir, err := os.MkdirTemp("", "sotto-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(dir)
	file := filepath.Join(dir, "settings.conf")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		return "", err
	}
	editor := firstOf(firstOf(a.env("VISUAL"), a.env("EDITOR")), "vi")
	// As everywhere, it may have arguments.
	cmd := exec.CommandContext(ctx, "/bin/sh", "-c", editor+` "$1"`, "sh", file)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = a.in, a.err, a.err
	if err := cmd.Run(); err != nil {
		return "", hint(fmt.Errorf("the editor %s: %w", editor, errors.Join(err, ctx.Err())), "nothing was changed; set EDITOR to another")
	}
	b, err := os.ReadFile(file)
	return string(b), err
}
