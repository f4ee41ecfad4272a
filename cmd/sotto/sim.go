package main

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"sotto/node/sim"
)

func (a *app) simCommand() *cobra.Command {
	o := sim.Options{}
	c := a.lasting("sim [--devices N] [--seed N]", "Play a world of devices through bad days, and see whether it heals", 0, 0, func(ctx context.Context, c *cobra.Command, _ []string) error {
		if o.Devices < 2 || o.Devices > sim.MaxDevices {
			return usage(c, "--devices %d: between 2 and %d", o.Devices, sim.MaxDevices)
		}
		o.Say = func(words string) { fmt.Fprintln(a.err, words) }
		r, err := sim.Run(ctx, o)
		if err != nil {
			return err
		}
		return a.print(r, func(w io.Writer) {
			f := r.Faults
			fmt.Fprintf(w, "Every device of every conversation has the same messages in the same order: none lost, none doubled.\n\n")
			table(w, []string{"WHAT", "HOW MUCH"}, [][]string{
				{"devices", fmt.Sprint(r.Devices)},
				{"conversations", fmt.Sprint(r.Conversations)},
				{"messages", fmt.Sprint(r.Messages)},
				{"commits", fmt.Sprint(r.Commits)},
				{"time that passed in the world", r.Virtual.Round(time.Second).String()},
				{"deposits lost", fmt.Sprint(f.Lost)},
				{"deposits without an answer", fmt.Sprint(f.Unanswered)},
				{"deposits doubled", fmt.Sprint(f.Doubled)},
				{"deposits held back", fmt.Sprint(f.Late)},
				{"readings that failed", fmt.Sprint(f.Unread)},
				{"writes of vaults that failed", fmt.Sprint(f.Writes)},
				{"partitions", fmt.Sprint(f.Partitions)},
				{"crashes of relays", fmt.Sprint(f.Crashes)},
				{"restarts of devices", fmt.Sprint(f.Restarts)},
			})
			fmt.Fprintf(w, "\nseed %d, digest %s\n", r.Seed, r.Digest)
		})
	})
	c.Flags().IntVar(&o.Devices, "devices", 20, "`number` of devices, 2 to 200")
	c.Flags().Uint64Var(&o.Seed, "seed", 1, "`number` that decides everything: the same one is the same world")
	return c
}
