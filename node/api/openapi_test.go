package api_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"testing"
)

var rewrite = flag.Bool("rewrite", false, "write spec/openapi.json anew")

// spec/openapi.json is the document that a node serves, but for the program's version.
func TestOpenAPICopy(t *testing.T) {
	const name = "../../spec/openapi.json"
	s := serve(t)
	_, _, body, _ := raw(t, s.home, "GET /v1/openapi.json HTTP/1.1\r\nHost: sotto\r\nConnection: close\r\n\r\n")
	var doc map[string]any
	if err := json.Unmarshal([]byte(body), &doc); err != nil {
		t.Fatal(err)
	}
	doc["info"].(map[string]any)["version"] = "1"
	var want bytes.Buffer
	enc := json.NewEncoder(&want)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", " ")
	if err := enc.Encode(doc); err != nil { // in the order of their names
		t.Fatal(err)
	}
	if *rewrite {
		if err := os.WriteFile(name, want.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want.Bytes()) {
		t.Errorf("%s is not what the node serves; look at the difference that this makes: go test ./node/api -run %s -rewrite", name, t.Name())
	}
}
