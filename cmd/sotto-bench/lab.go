package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// A lab is where measuring happens: a folder, and what was made there.
type lab struct {
	dir   string
	run   *scope // lasts as long as the lab
	round *scope // ends with each round
}

func newLab(under string) (*lab, error) {
	if err := os.MkdirAll(under, 0o755); err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp(under, "lab-")
	if err != nil {
		return nil, err
	}
	return &lab{dir: dir, run: &scope{}, round: &scope{}}, nil
}

// close stops all processes and removes the folder.
func (l *lab) close() error {
	l.round.close()
	l.run.close()
	return os.RemoveAll(l.dir)
}

func (l *lab) path(name string) string { return filepath.Join(l.dir, name) }

// A scope holds what is made once, and how to undo it.
type scope struct {
	made map[string]any
	undo []func()
}

// once returns what do made the first time that it succeeded in this scope.
func once[T any](s *scope, name string, do func() (T, error)) (T, error) {
	if v, ok := s.made[name]; ok {
		return v.(T), nil
	}
	v, err := do()
	if err == nil {
		if s.made == nil {
			s.made = map[string]any{}
		}
		s.made[name] = v
	}
	return v, err
}

// later has undo called when the scope ends, the last first.
func (s *scope) later(undo func()) { s.undo = append(s.undo, undo) }

// close ends the scope; it may be used again.
func (s *scope) close() {
	for len(s.undo) > 0 {
		last := s.undo[len(s.undo)-1]
		s.undo = s.undo[:len(s.undo)-1]
		last()
	}
	s.made = nil
}

// build makes a program of the checkout, as make build does, and returns its path.
func (l *lab) build(ctx context.Context, name string) (string, error) {
	return once(l.run, "build "+name, func() (string, error) {
		path := l.path(name)
		return path, goTool(ctx, "build", "-trimpath", "-o", path, "sotto/cmd/"+name)
	})
}

func goTool(ctx context.Context, args ...string) error {
	c := exec.CommandContext(ctx, "go", args...)
	c.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := c.CombinedOutput(); err != nil {
		return fmt.Errorf("go %s: %w\n%s", strings.Join(args, " "), err, out)
	}
	return nil
}

// process is a program that runs beside us.
type process struct {
	cmd     *exec.Cmd
	started time.Time
	out     *bufio.Reader
	log     bytes.Buffer  // what it said on standard error; read it when it has ended
	ended   chan struct{} // closed when it has ended
}

// patience is how long anything may take that is started or waited for.
const patience = 2 * time.Minute

// start runs a program until the scope ends.
func (l *lab) start(s *scope, path string, env []string, args ...string) (*process, error) {
	p := &process{cmd: exec.Command(path, args...), ended: make(chan struct{})}
	p.cmd.Env = append(append(os.Environ(), "XDG_RUNTIME_DIR="+l.dir), env...)
	p.cmd.Stderr = &p.log
	out, in, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	p.cmd.Stdout, p.out = in, bufio.NewReader(out)
	p.started = time.Now()
	err = p.cmd.Start()
	in.Close()
	if err != nil {
		out.Close()
		return nil, err
	}
	go func() {
		p.cmd.Wait()
		close(p.ended)
	}()
	s.later(func() {
		p.stop()
		out.Close()
	})
	return p, nil
}

// stop asks the process to end, and makes it if it does not.
func (p *process) stop() {
	p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.ended:
	case <-time.After(15 * time.Second):
		p.cmd.Process.Kill()
		<-p.ended
	}
}

// line returns the first line that the process writes to standard output.
func (p *process) line(ctx context.Context) (string, error) {
	type answer struct {
		line string
		err  error
	}
	read := make(chan answer, 1)
	go func() {
		line, err := p.out.ReadString('\n')
		read <- answer{strings.TrimSpace(line), err}
	}()
	select {
	case a := <-read:
		if a.err != nil {
			return "", p.failed(a.err)
		}
		return a.line, nil
	case <-ctx.Done():
		return "", ctx.Err()
	case <-time.After(patience):
		return "", fmt.Errorf("%s says nothing for %v", filepath.Base(p.cmd.Path), patience)
	}
}

// wait waits for a process that ends by itself.
func (p *process) wait(ctx context.Context) error {
	select {
	case <-p.ended:
		if !p.cmd.ProcessState.Success() {
			return p.failed(errors.New(p.cmd.ProcessState.String()))
		}
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// failed adds to err what the process said, once it has ended.
func (p *process) failed(err error) error {
	p.stop()
	return fmt.Errorf("%s: %w\n%s", strings.Join(p.cmd.Args, " "), err, strings.TrimSpace(p.log.String()))
}

// rss returns how much of the process lies in memory, in MiB, once it has run so long.
func (p *process) rss(ctx context.Context, after time.Duration) (float64, error) {
	if err := sleep(ctx, time.Until(p.started.Add(after))); err != nil {
		return 0, err
	}
	b, err := p.proc("status")
	if err != nil {
		return 0, err
	}
	return parseRSS(b)
}

// cpu returns how much processor time the process has used.
func (p *process) cpu() (time.Duration, error) {
	b, err := p.proc("stat")
	if err != nil {
		return 0, err
	}
	return parseCPU(b)
}

// proc returns what Linux says of the process.
func (p *process) proc(name string) (string, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", p.cmd.Process.Pid, name))
	if err != nil {
		return "", fmt.Errorf("look at a process, as it can be done on Linux: %w", err)
	}
	return string(b), nil
}

// parseCPU reads the processor time, user and system, out of /proc/PID/stat. Its unit
// is a hundredth of a second on every Linux that Go runs on.
func parseCPU(stat string) (time.Duration, error) {
	// The second field is the program's name, in parentheses, and may hold anything.
	f := strings.Fields(stat[strings.LastIndexByte(stat, ')')+1:])
	if len(f) < 13 {
		return 0, fmt.Errorf("/proc tells no processor time: %q", stat)
	}
	user, err1 := strconv.Atoi(f[11])
	system, err2 := strconv.Atoi(f[12])
	return time.Duration(user+system) * 10 * time.Millisecond, errors.Join(err1, err2)
}

// parseRSS reads the resident memory out of /proc/PID/status, in MiB.
func parseRSS(status string) (float64, error) {
	for line := range strings.Lines(status) {
		if rest, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			kib, err := strconv.ParseFloat(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 64)
			return kib / 1024, err
		}
	}
	return 0, errors.New("/proc tells no VmRSS: the process has ended")
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// repeat calls do(i) again and again for i below n, each in a goroutine of its own,
// for a time. It returns how many calls ended, in a second and in all.
func repeat(ctx context.Context, n int, d time.Duration, do func(i int) error) (rate float64, calls int, err error) {
	var wg sync.WaitGroup
	counts, errs := make([]int, n), make([]error, n)
	start := time.Now()
	for i := range n {
		wg.Go(func() {
			for time.Since(start) < d && ctx.Err() == nil {
				if errs[i] = do(i); errs[i] != nil {
					return
				}
				counts[i]++
			}
		})
	}
	wg.Wait()
	took := time.Since(start)
	for i := range n {
		calls += counts[i]
		if err == nil {
			err = errs[i] // one stands for all: they tend to fail together
		}
	}
	return float64(calls) / took.Seconds(), calls, errors.Join(ctx.Err(), err)
}
