package node

import (
	"context"
	"math/rand/v2"
	"slices"
	"sync"
	"time"
)

// Retries of a task wait so long, doubling, each jittered by half.
const (
	firstBackoff = 20 * time.Millisecond
	lastBackoff  = time.Minute
)

// tasks keeps work going that must get done some time: each task is run until it
// returns nil, with growing pauses between. What a task does it must be able to
// do again; that it is still to be done stands in the vault.
type tasks struct {
	ctx   context.Context
	done  sync.WaitGroup
	after func(time.Duration) <-chan time.Time

	mu      sync.Mutex // guards the following fields
	running map[string]*task
	closed  bool
	byHand  bool       // nothing runs but by step
	held    []heldTask // that wait for step, in the order in which they were started
}

type heldTask struct {
	name string
	run  func(context.Context) error
}

type task struct {
	kick  chan struct{} // holds one: run again now
	again bool          // asked for while it ran
}

func newTasks(ctx context.Context) *tasks {
	return &tasks{ctx: ctx, after: time.After, running: map[string]*task{}}
}

// start runs a task unless one of that name is under way; then that one is hurried,
// and runs once more behind its present run.
func (t *tasks) start(name string, run func(context.Context) error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return
	}
	if t.byHand {
		if !slices.ContainsFunc(t.held, func(h heldTask) bool { return h.name == name }) {
			t.held = append(t.held, heldTask{name, run})
		}
		return
	}
	if at, ok := t.running[name]; ok {
		at.again = true
		at.hurry()
		return
	}
	at := &task{kick: make(chan struct{}, 1)}
	t.running[name] = at
	t.done.Add(1)
	go t.keep(name, at, run)
}

func (at *task) hurry() {
	select {
	case at.kick <- struct{}{}:
	default:
	}
}

func (t *tasks) keep(name string, at *task, run func(context.Context) error) {
	defer t.done.Done()
	for wait := firstBackoff; ; {
		t.mu.Lock()
		at.again = false
		t.mu.Unlock()
		err := run(t.ctx)

		t.mu.Lock()
		if t.ctx.Err() != nil || err == nil && !at.again {
			delete(t.running, name)
			t.mu.Unlock()
			return
		}
		t.mu.Unlock()
		if err == nil {
			wait = firstBackoff
			continue
		}
		select {
		case <-t.ctx.Done():
		case <-at.kick:
			wait = firstBackoff
		case <-t.after(jitter(wait)):
			wait = min(wait*2, lastBackoff)
		}
	}
}

// hurry makes every task that waits for its next try run now: a relay is back.
func (t *tasks) hurry() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, at := range t.running {
		at.hurry()
	}
}

// step runs each task that is held once, and keeps those that fail. It reports
// whether there were any.
func (t *tasks) step() bool {
	t.mu.Lock()
	held := t.held
	t.held = nil
	t.mu.Unlock()
	for _, h := range held {
		if h.run(t.ctx) != nil {
			t.start(h.name, h.run)
		}
	}
	return len(held) > 0
}

// close waits for all tasks; their context must be over.
func (t *tasks) close() {
	t.mu.Lock()
	t.closed = true
	t.mu.Unlock()
	t.done.Wait()
}

// jitter returns a time between half of d and one and a half of it.
func jitter(d time.Duration) time.Duration { return d/2 + rand.N(d) }
