package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"sotto/node"
	"sotto/node/api"
	"sotto/node/setting"
)

// bugReport is what a person may show to others: nothing in it tells who they are, whom
// they know or what they wrote. What goes in is chosen, not what is left out.
type bugReport struct {
	Version  string            `json:"version"`
	System   string            `json:"system"`
	Checks   []node.Check      `json:"checks"`
	Counts   map[string]int    `json:"counts,omitempty"`
	Settings map[string]string `json:"settings,omitempty"`
	Log      []string          `json:"log,omitempty"`
}

func (a *app) bugReportCommand() *cobra.Command {
	return a.command("bug-report", "What somebody who helps you needs; it names nobody. Read it before you send it", 0, 0, func(ctx context.Context, _ *cobra.Command, _ []string) error {
		r := bugReport{Version: version, System: runtime.GOOS + "/" + runtime.GOARCH + ", " + runtime.Version(), Checks: []node.Check{a.checkHome()}}
		cl := a.client()
		defer cl.Close()
		if err := r.ask(ctx, cl); err != nil {
			r.Checks = append(r.Checks, node.Check{Name: "node", Detail: "it did not answer: " + api.CodeOf(err)})
		}
		for _, name := range []string{logName + ".1", logName} {
			lines, err := logTail(filepath.Join(a.home, name))
			if err != nil && !errors.Is(err, os.ErrNotExist) {
				r.Log = append(r.Log, name+" cannot be read")
			}
			r.Log = append(r.Log, lines...)
		}
		if len(r.Log) > maxLines {
			r.Log = r.Log[len(r.Log)-maxLines:]
		}
		return a.print(r, r.show)
	})
}

// ask takes in what the node says.
func (r *bugReport) ask(ctx context.Context, cl *api.Client) error {
	checks, err := cl.Doctor(ctx)
	if err != nil {
		return err
	}
	r.Checks = append(r.Checks, checks...)
	s, err := cl.Status(ctx)
	if err != nil {
		return err
	}
	r.Counts = map[string]int{"relays": len(s.Relays), "queued": s.Queued, "contacts": s.Contacts, "pending": s.Pending, "frozen": s.Frozen}
	chats, err := cl.Conversations(ctx)
	if err != nil {
		return err
	}
	for _, c := range chats {
		r.Counts["conversations "+c.Kind+" "+c.State]++
		r.Counts["missing"] += c.Missing
		r.Counts["unreadable"] += c.Unreadable
	}
	config, err := cl.Config(ctx, "")
	if err != nil {
		return err
	}
	r.Settings = map[string]string{}
	for _, s := range config {
		switch {
		case s.From == node.FromDefault:
		case s.Type == setting.TypeRelay || s.Type == setting.TypeTicket:
			r.Settings[s.Key] = "(set)"
		default:
			r.Settings[s.Key] = s.Value
		}
	}
	return nil
}

// show writes it for a person.
func (r *bugReport) show(w io.Writer) {
	fmt.Fprintf(w, "sotto %s on %s\n", r.Version, r.System)
	for _, c := range r.Checks {
		mark := "ok   "
		if !c.OK {
			mark = "WRONG"
		}
		fmt.Fprintf(w, "%s  %s: %s\n", mark, safe(c.Name), safe(c.Detail))
	}
	for _, name := range slices.Sorted(keys(r.Counts)) {
		fmt.Fprintf(w, "count  %s: %d\n", safe(name), r.Counts[name])
	}
	for _, key := range slices.Sorted(keys(r.Settings)) {
		fmt.Fprintf(w, "set    %s: %s\n", safe(key), safe(r.Settings[key]))
	}
	for _, line := range r.Log {
		fmt.Fprintf(w, "log    %s\n", safe(line))
	}
}

func keys[V any](m map[string]V) func(yield func(string) bool) {
	return func(yield func(string) bool) {
		for k := range m {
			if !yield(k) {
				return
			}
		}
	}
}

const (
	maxLines = 200     // of the logs, in a report
	maxTail  = 1 << 20 // bytes of a log that are looked at
)

// logTail returns what may be shown of the end of a log.
func logTail(name string) (out []string, err error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if info, err := f.Stat(); err == nil && info.Size() > maxTail {
		if _, err := f.Seek(-maxTail, io.SeekEnd); err != nil {
			return nil, err
		}
	}
	b, err := io.ReadAll(io.LimitReader(f, maxTail))
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(string(b)) {
		if shown := redact(strings.TrimSuffix(line, "\n")); shown != "" {
			out = append(out, shown)
		}
	}
	return out[max(0, len(out)-maxLines):], nil
}

var (
	logLine   = regexp.MustCompile(`^time=(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)\S* level=(DEBUG|INFO|WARN|ERROR) msg="([^"\\]*)"(.*)$`)
	stackLine = regexp.MustCompile(`^\t\S*/([a-z_0-9]{1,40}\.go:\d{1,6})\b`)
)

// logged are the messages of our logs, which are the same whatever they are about. One
// that is not here is not shown: others' may have anything in them.
var logged = []string{
	"a blob is damaged",
	"a client did not take an answer",
	"a conversation does not get on",
	"a conversation is not read",
	"a device that was added cannot be written to",
	"a device that was added has an inbox that cannot be reached",
	"a letter is passed over",
	"a message does not open",
	"a request failed",
	"a subscription failed",
	"a task is tried again later",
	"a welcome is passed over",
	"a write to the index of blobs is in doubt; it is read back",
	"an entry is sent again later",
	"an event stream ended",
	"erased data is not yet unreadable",
	"idle devices are not looked for",
	"key packages are passed over",
	"keys that were used up are not erased yet",
	"looking after blobs; it is tried again",
	"old events are not trimmed",
	"removing a file of a blob",
	"removing an upload; it goes when the store is opened again",
	"removing what was not stored",
	"sweeping blobs",
	"the end of typing is not told",
	"the inbox is not read",
	"the index of blobs could not be read back",
	"the node has stopped",
	"the node works",
	"the search index is damaged, and made anew",
	"used-up keys are not erased yet",
	"what a contact waits for is not shown",
	"what an entry names is stored later",
	"what is due is done later",
	"when a token was used is not noted",
	"why a conversation does not get on is not told",
}

// redact returns what of a line of a log may be shown: when, how bad, which of our
// messages and which of our errors it has. Of a stack it is where in the source.
func redact(line string) string {
	if m := stackLine.FindStringSubmatch(line); m != nil {
		return "  " + m[1]
	}
	m := logLine.FindStringSubmatch(line)
	if m == nil {
		return ""
	}
	message := m[3]
	if !slices.Contains(logged, message) {
		message = "(a message that is not shown)"
	}
	out := m[1] + " " + m[2] + " " + message
	for _, e := range answers {
		if text := e.err.Error(); strings.Contains(m[4], text) {
			out += " (" + text + ")"
		}
	}
	return out
}
