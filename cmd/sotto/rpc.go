package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"sotto/node"
)

// maxRequest is the longest line that rpc reads: the API's largest body, escaped.
const maxRequest = 1 << 20

// rpcRequest is a line of rpc's input: a request to the local API.
type rpcRequest struct {
	ID     json.RawMessage `json:"id"`
	Method string          `json:"method"`
	Path   string          `json:"path"`
	Body   json.RawMessage `json:"body"`
}

// rpcAnswer is a line of its output. There was no answer if Error is set.
type rpcAnswer struct {
	ID     json.RawMessage `json:"id,omitempty"`
	Status int             `json:"status,omitempty"`
	Body   json.RawMessage `json:"body,omitempty"`
	Error  *remote         `json:"error,omitempty"`
}

func (a *app) rpcCommand() *cobra.Command {
	openapi := false
	c := a.lasting("rpc [--openapi]", "Requests to the local API from stdin, a JSON object a line, answered in their order on stdout", 0, 0,
		func(ctx context.Context, _ *cobra.Command, _ []string) error {
			cl := a.client()
			defer cl.Close()
			if openapi {
				status, doc, err := cl.Do(ctx, "GET", "/v1/openapi.json", nil)
				if err != nil {
					return err
				}
				if status != 200 {
					return fmt.Errorf("the node answers %d: %s", status, doc)
				}
				return a.line(doc)
			}
			in := bufio.NewScanner(a.in)
			in.Buffer(nil, maxRequest)
			for in.Scan() {
				var r rpcRequest
				out := rpcAnswer{}
				err := json.Unmarshal(in.Bytes(), &r)
				if err != nil {
					err = fmt.Errorf("the request is %w: %w", node.ErrInvalid, err)
				} else {
					out.ID = r.ID
					ctx, cancel := context.WithTimeout(ctx, patience)
					out.Status, out.Body, err = cl.Do(ctx, firstOf(r.Method, "GET"), r.Path, r.Body)
					cancel()
				}
				if err != nil {
					if ctx.Err() != nil {
						return ctx.Err()
					}
					why := tell(err)
					out.Error = &why
				}
				if err := a.line(out); err != nil {
					return err
				}
			}
			if errors.Is(in.Err(), bufio.ErrTooLong) {
				return fmt.Errorf("a request of more than %d bytes is %w", maxRequest, node.ErrTooLarge)
			}
			if err := in.Err(); err != nil && !errors.Is(err, io.EOF) {
				return fmt.Errorf("read a request: %w", err)
			}
			return nil
		})
	c.Long = c.Short + ".\n\nA request is {\"id\": …, \"method\": \"POST\", \"path\": \"/v1/…\", \"body\": {…}}: GET if there is no method, and the id comes back\n" +
		"with the answer, {\"id\": …, \"status\": 200, \"body\": {…}}, or with an error if there was none. Events are a stream: sotto events."
	c.Flags().BoolVar(&openapi, "openapi", false, "print the OpenAPI document of the local API instead")
	return c
}
