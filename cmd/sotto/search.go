package main

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"sotto/node/api"
)

func (a *app) searchCommand() *cobra.Command {
	in, limit := "", 20
	c := a.command("search QUERY [--in NAME] [--limit N]", "Messages with these words, the newest first", 1, 1, func(ctx context.Context, c *cobra.Command, args []string) error {
		if limit < 1 || limit > maxRead {
			return usage(c, "--limit %d: from 1 to %d", limit, maxRead)
		}
		cl := a.client()
		defer cl.Close()
		partial, names := false, map[string]string{}
		if !a.json {
			list, err := cl.Conversations(ctx)
			if err != nil {
				return err
			}
			for _, conv := range list {
				names[conv.ID] = conv.Name
			}
		}
		found := 0
		for cursor := ""; ; {
			page, err := cl.Search(ctx, args[0], in, cursor, min(limit-found, api.MaxMessages))
			if err != nil {
				return a.whom(err)
			}
			for _, h := range page.Hits {
				found++
				err := a.print(h, func(w io.Writer) {
					a.show(w, h.Message)
					fmt.Fprintf(w, "                  in %s, id %s\n", safe(names[h.Message.Conversation]), h.Message.ID)
				})
				if err != nil {
					return err
				}
			}
			partial = partial || page.Partial
			if cursor = page.Next; cursor == "" || found >= limit {
				break
			}
		}
		if found == 0 && !a.json {
			a.say("Nothing was found.")
		}
		if partial && !a.json {
			a.say("The search index is still being made: older messages are not found yet. sotto status says how far it is.")
		}
		return nil
	})
	c.Long = `Messages with these words, the newest first.

  tea milk           both words         "green tea"     in this order
  photo*             words that begin so (three letters or more)
  tea -milk          without milk
  from:NAME in:NAME  who wrote it, where
  before:2026-03-01  older              after:2026-03   from then on
  has:link           also file, image, voice, poll

sotto chat read NAME --around ID shows what stands around one.`
	c.Flags().StringVar(&in, "in", "", "in the conversation with `name` alone")
	c.Flags().IntVar(&limit, "limit", limit, "at most so `many`")
	return c
}
