package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"time"

	"golang.org/x/crypto/argon2"

	"sotto/node"
	"sotto/node/api"
	"sotto/storage/vault"
)

// messages is how many a round sends, one after the other.
const messages = 100

const passphrase = "correct horse battery staple"

// person is a node that works.
type person struct {
	*process
	home   string
	client *api.Client
}

func (l *lab) env(home string) ([]string, error) {
	pass, err := once(l.run, "passphrase", func() (string, error) {
		return l.path("passphrase"), os.WriteFile(l.path("passphrase"), []byte(passphrase+"\n"), 0o600)
	})
	return []string{"SOTTO_HOME=" + home, "SOTTO_PASSPHRASE_FILE=" + pass}, err
}

// sotto runs a command to its end.
func (l *lab) sotto(ctx context.Context, home string, args ...string) error {
	bin, err := l.build(ctx, "sotto")
	if err != nil {
		return err
	}
	env, err := l.env(home)
	if err != nil {
		return err
	}
	var s scope
	defer s.close()
	p, err := l.start(&s, bin, env, args...)
	if err != nil {
		return err
	}
	return p.wait(ctx)
}

// startNode runs the node of a home and returns when it answers.
func (l *lab) startNode(ctx context.Context, s *scope, home string, args ...string) (*person, error) {
	bin, err := l.build(ctx, "sotto")
	if err != nil {
		return nil, err
	}
	env, err := l.env(home)
	if err != nil {
		return nil, err
	}
	p := &person{home: home, client: api.NewClient(home)}
	if p.process, err = l.start(s, bin, env, append([]string{"up"}, args...)...); err != nil {
		return nil, err
	}
	s.later(p.client.Close)
	for {
		_, err := p.client.Status(ctx)
		switch {
		case err == nil:
			return p, nil
		case !errors.Is(err, api.ErrNotRunning) || time.Since(p.started) > patience:
			return nil, p.failed(err)
		}
		select {
		case <-p.ended:
			return nil, p.failed(err)
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(time.Millisecond):
		}
	}
}

// pair is two people who have met at a relay.
type pair struct {
	ana, ben *person
	events   chan arrival // of messages, at Ben's
}

type arrival struct {
	text string
	at   time.Time
	err  error
}

func meet(ctx context.Context, l *lab) (*pair, error) {
	return once(l.run, "pair", func() (*pair, error) {
		r, err := l.startRelay(ctx, l.run, "relay-e2e")
		if err != nil {
			return nil, err
		}
		var people [2]*person
		for i, name := range []string{"Ana", "Ben"} {
			home := l.path(name)
			if err := l.sotto(ctx, home, "init", "--name", name, "--relay", r.address.String()); err != nil {
				return nil, err
			}
			if people[i], err = l.startNode(ctx, l.run, home, "--embedded-relay=false"); err != nil {
				return nil, err
			}
		}
		p := &pair{people[0], people[1], make(chan arrival, 16)}
		in, err := p.ana.client.Invite(ctx, node.InviteOptions{Name: "Ben"})
		if err != nil {
			return nil, err
		}
		if _, err := p.ben.client.Accept(ctx, in.Link, "Ana"); err != nil {
			return nil, err
		}
		for name, of := range map[string]*person{"Ben": p.ana, "Ana": p.ben} {
			if err := of.established(ctx, name); err != nil {
				return nil, err
			}
		}
		last, err := p.ben.client.LastEvent(ctx)
		if err != nil {
			return nil, err
		}
		listening, stop := context.WithCancel(ctx)
		l.run.later(stop)
		go func() {
			for e, err := range p.ben.client.Events(listening, last) {
				a := arrival{at: time.Now(), err: err}
				if e.Message != nil {
					a.text = e.Message.Text
				}
				select {
				case p.events <- a:
				case <-listening.Done():
					return
				}
			}
		}()
		return p, nil
	})
}

// established waits until a contact is complete.
func (p *person) established(ctx context.Context, name string) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		c, err := p.client.Contact(ctx, name)
		if err != nil && !errors.Is(err, node.ErrNotFound) || c.State == node.ContactFailed {
			return fmt.Errorf("meet %s: %w %s", name, err, c.Reason)
		}
		if c.State == node.ContactEstablished {
			return nil
		}
		if err := sleep(ctx, 20*time.Millisecond); err != nil {
			return fmt.Errorf("meet %s: %w", name, err)
		}
	}
}

// say sends a text and returns how long it took until the other side's event.
func (p *pair) say(ctx context.Context, text string) (time.Duration, error) {
	start := time.Now()
	if _, err := p.ana.client.Send(ctx, "Ben", text); err != nil {
		return 0, err
	}
	late := time.After(patience)
	for {
		select {
		case a := <-p.events:
			if a.err != nil {
				return 0, a.err
			}
			if a.text == text {
				return a.at.Sub(start), nil
			}
		case <-ctx.Done():
			return 0, ctx.Err()
		case <-late:
			return 0, fmt.Errorf("a message has not arrived in %v", patience)
		}
	}
}

// latencies are those of one round, in milliseconds.
type latencies struct{ values, floors []float64 }

// latency measures a quantile of the time from the send call to the other side's
// event. The floor is what must be durable on the way, once at each of the three.
func latency(q float64) func(context.Context, *lab) (sample, error) {
	return func(ctx context.Context, l *lab) (sample, error) {
		p, err := meet(ctx, l)
		if err != nil {
			return sample{}, err
		}
		log, err := l.log()
		if err != nil {
			return sample{}, err
		}
		all, err := once(l.round, "latencies", func() (all latencies, err error) {
			entry := make([]byte, appendSize)
			for range messages {
				start := time.Now()
				for range 3 {
					if err := log.append(entry); err != nil {
						return all, err
					}
				}
				all.floors = append(all.floors, time.Since(start).Seconds()*1e3)
				took, err := p.say(ctx, "a message, as long as people write: "+rand.Text())
				if err != nil {
					return all, err
				}
				all.values = append(all.values, took.Seconds()*1e3)
			}
			return all, nil
		})
		if err != nil {
			return sample{}, err
		}
		return sample{quantile(all.values, q), quantile(all.floors, q)}, nil
	}
}

// idleNode is a node that nobody uses, started anew in each round.
type idleNode struct {
	*person
	start, stretch time.Duration
}

func startIdleNode(ctx context.Context, l *lab) (idleNode, error) {
	home, err := once(l.run, "node-idle", func() (string, error) {
		home := l.path("node-idle")
		if err := l.sotto(ctx, home, "init", "--name", "Ana"); err != nil {
			return "", err
		}
		var s scope
		defer s.close()
		_, err := l.startNode(ctx, &s, home, "--listen", "/ip4/127.0.0.1/tcp/0")
		return home, err
	})
	if err != nil {
		return idleNode{}, err
	}
	return once(l.round, "node-idle", func() (n idleNode, err error) {
		n.stretch = stretch()
		if n.person, err = l.startNode(ctx, l.round, home); err != nil {
			return n, err
		}
		n.start = time.Since(n.started)
		return n, nil
	})
}

// stretch returns how long a vault's key stretch takes with the default parameters.
func stretch() time.Duration {
	defer debug.FreeOSMemory()
	start := time.Now()
	p := vault.DefaultParams
	argon2.IDKey([]byte(passphrase), make([]byte, 16), p.Time, p.Memory, p.Lanes, 32)
	return time.Since(start)
}

func nodeStart(ctx context.Context, l *lab) (sample, error) {
	n, err := startIdleNode(ctx, l)
	return sample{n.start.Seconds() * 1e3, n.stretch.Seconds() * 1e3}, err
}

func nodeRSS(ctx context.Context, l *lab) (sample, error) {
	n, err := startIdleNode(ctx, l)
	if err != nil {
		return sample{}, err
	}
	mib, err := n.rss(ctx, idleTime)
	return sample{value: mib}, err
}
