package api

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"reflect"
	"strconv"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"sotto/node"
)

// optional is a number in a query or header that may be absent.
type optional struct {
	Value uint64
	set   bool
}

// Schema describes the number alone.
func (optional) Schema(r huma.Registry) *huma.Schema {
	return huma.SchemaFromType(r, reflect.TypeFor[uint64]())
}

// Receiver returns where the number goes.
func (o *optional) Receiver() reflect.Value { return reflect.ValueOf(o).Elem().Field(0) }

// OnParamSet tells whether there was one.
func (o *optional) OnParamSet(set bool, _ any) { o.set = set }

type eventsInput struct {
	After optional `query:"after" doc:"number of the last event dealt with; 0 for all there are; without it only what comes"`
	Last  optional `header:"Last-Event-ID" doc:"the same, as readers of streams send it when they connect again; it wins"`
}

func (s *Server) streamRoute() {
	op := s.operation(http.MethodGet, "/v1/events", "events", "What happens, as server-sent events, until the node stops")
	op.Responses["200"] = &huma.Response{
		Description: "Each event's id is its seq, its event its type, its data the Event as JSON. An event of type problem ends the stream.",
		Content: map[string]*huma.MediaType{"text/event-stream": {
			Schema: s.api.OpenAPI().Components.Schemas.Schema(reflect.TypeFor[node.Event](), true, "Event"),
		}},
	}
	huma.Register(s.api, op, func(ctx context.Context, in *eventsInput) (*huma.StreamResponse, error) {
		after := in.After.Value
		switch {
		case in.Last.set:
			after = in.Last.Value
		case !in.After.set:
			last, err := s.node.LastEvent(ctx)
			if err != nil {
				return nil, problemOf(err)
			}
			after = last
		}
		select {
		case s.streams <- struct{}{}:
		default:
			return nil, problem(http.StatusServiceUnavailable, codeStreams, fmt.Sprintf("there are %d event streams already, and no more at once", maxStreams))
		}
		return &huma.StreamResponse{Body: func(hctx huma.Context) {
			defer func() { <-s.streams }()
			_, w := humago.Unwrap(hctx)
			if err := s.stream(hctx.Context(), w, after); err != nil {
				s.log.Debug("an event stream ended", "error", err)
			}
		}}, nil
	})
}

// stream writes events until ctx ends, the server stops or the client takes none.
func (s *Server) stream(ctx context.Context, w http.ResponseWriter, after uint64) error {
	request := ctx
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(s.stopping, cancel)()

	c := http.NewResponseController(w)
	w.Header().Set("Content-Type", "text/event-stream")
	w.WriteHeader(http.StatusOK)
	send := func(format string, args ...any) error {
		if err := c.SetWriteDeadline(time.Now().Add(writeTime)); err != nil {
			return err
		}
		if _, err := fmt.Fprintf(w, format, args...); err != nil {
			return err
		}
		return c.Flush()
	}
	fail := func(err error) error {
		data, _ := json.Marshal(problemOf(err)) // three strings and a number
		return errors.Join(err, send("event: problem\ndata: %s\n\n", data))
	}
	if err := send(": from here on\n\n"); err != nil {
		return err
	}
	b, hidden := bearerOf(ctx), 0
	if b != nil && !b.Expires.IsZero() {
		defer time.AfterFunc(time.Until(b.Expires), cancel).Stop()
	}
	for e, err := range s.node.Events(ctx, after) {
		if ctx.Err() != nil {
			break
		}
		if err == nil && b != nil {
			b, err = s.bearer(ctx, b.secret) // it may have been revoked meanwhile
		}
		if err != nil {
			return fail(err)
		}
		out, ok := b.sees(e)
		hidden++
		if !ok && hidden < maxHidden {
			continue
		}
		if !ok {
			// Its reader's position must not fall behind what is kept.
			out = node.Event{Seq: e.Seq, Time: e.Time, Type: node.EventSkipped}
		}
		hidden = 0
		data, err := json.Marshal(out)
		if err != nil {
			return err
		}
		if err := send("id: %d\nevent: %s\ndata: %s\n\n", out.Seq, out.Type, data); err != nil {
			return err
		}
	}
	if b != nil && request.Err() == nil && s.stopping.Err() == nil {
		if _, err := s.bearer(request, b.secret); err != nil {
			return fail(err) // its time is over
		}
	}
	return nil
}

// readStream calls yield with each event that r holds until it returns false or the
// stream ends; then it returns why. Lines end in LF or CRLF and are at most maxEvent
// bytes long. Events of a type that nobody knows are passed on, for the caller to
// ignore; fields that nobody knows are ignored here.
func readStream(r io.Reader, yield func(node.Event) bool) error {
	in := bufio.NewReaderSize(r, 16<<10)
	var kind string
	var data []byte
	for {
		line, err := readLine(in, maxEvent)
		if err != nil {
			if errors.Is(err, io.EOF) {
				return ErrStopped
			}
			return err
		}
		if line == "" {
			if data != nil {
				e, err := parseEvent(kind, data)
				if err != nil || !yield(e) {
					return err
				}
			}
			kind, data = "", nil
			continue
		}
		field, value, _ := strings.Cut(line, ":")
		value = strings.TrimPrefix(value, " ")
		switch field {
		case "event":
			kind = value
		case "data":
			if len(data)+len(value) > maxEvent {
				return fmt.Errorf("an event of more than %d bytes is %w", maxEvent, node.ErrTooLarge)
			}
			if data != nil {
				data = append(data, '\n')
			}
			data = append(data, value...)
			if data == nil {
				data = []byte{}
			}
		}
	}
}

func parseEvent(kind string, data []byte) (e node.Event, err error) {
	if kind == "problem" {
		var p Problem
		if err := json.Unmarshal(data, &p); err != nil {
			return e, fmt.Errorf("read a problem in the stream: %w", err)
		}
		return e, &p
	}
	if err := json.Unmarshal(data, &e); err != nil {
		return e, fmt.Errorf("read an event: %w", err)
	}
	return e, nil
}

// readLine returns the next line without its end. A last line without an end is
// none: the stream was cut in it.
func readLine(in *bufio.Reader, limit int) (string, error) {
	var line []byte
	for {
		part, err := in.ReadSlice('\n')
		if len(line)+len(part) > limit {
			return "", fmt.Errorf("a line of more than %d bytes is %w", limit, node.ErrTooLarge)
		}
		line = append(line, part...)
		switch {
		case err == nil:
			return strings.TrimSuffix(strings.TrimSuffix(string(line), "\n"), "\r"), nil
		case !errors.Is(err, bufio.ErrBufferFull):
			return "", err
		}
	}
}

// after returns the query for a stream.
func afterQuery(after uint64) string { return "?after=" + strconv.FormatUint(after, 10) }
