package main

import (
	"fmt"
	"os"

	"sotto/storage/kv"
)

// freeAsTold reads how many bytes are free from a file, where there is one.
func freeAsTold(file string) func(string) (uint64, error) {
	return func(dir string) (uint64, error) {
		b, err := os.ReadFile(file)
		if err != nil {
			return kv.FreeAt(dir)
		}
		var n uint64
		_, err = fmt.Sscan(string(b), &n)
		return n, err
	}
}
