package main

import (
	"context"
	"encoding/base64"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"sotto/node"
)

func (a *app) evidenceCommand() *cobra.Command {
	return a.named(a.command("evidence NAME", "What the relay has contradicted itself by", 1, 1, func(ctx context.Context, _ *cobra.Command, args []string) error {
		cl := a.client()
		defer cl.Close()
		all, err := cl.Evidence(ctx, args[0])
		if err != nil {
			return err
		}
		return a.print(map[string][]node.Evidence{"evidence": all}, func(w io.Writer) {
			if len(all) == 0 {
				a.say("None: the relay has not contradicted itself here.")
				return
			}
			for _, e := range all {
				proof := "two things that the relay has signed and that cannot both be true: they convince anybody who has its address"
				if e.Status {
					proof = "what the relay has signed before and what it answered later, which cannot both be true: proof to this device, which has asked"
				}
				if !e.Holds {
					proof = "what does not hold any more: it was changed after it was kept"
				}
				fmt.Fprintf(w, "%s  %s\n", when(e.Time), safe(e.What))
				fmt.Fprintf(w, "  This is %s.\n  relay   %s\n  first   %s\n  second  %s\n", proof, safe(e.Relay),
					base64.StdEncoding.EncodeToString(e.First), base64.StdEncoding.EncodeToString(e.Second))
			}
		})
	}), false)
}
