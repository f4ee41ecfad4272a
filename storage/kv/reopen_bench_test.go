package kv

import "testing"

// BenchmarkReopen is what a doubt costs.
func BenchmarkReopen(b *testing.B) {
	d, err := Open(Options{Dir: b.TempDir(), Small: true, Key: make([]byte, 32)})
	if err != nil {
		b.Fatal(err)
	}
	defer d.Close()
	set(d, "k", "v")
	for b.Loop() {
		if err := d.Reopen(); err != nil {
			b.Fatal(err)
		}
	}
}
