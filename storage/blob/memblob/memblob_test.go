package memblob

import (
	"testing"

	"sotto/storage/blob"
	"sotto/storage/blob/blobtest"
)

func TestStore(t *testing.T) {
	blobtest.TestStore(t, blobtest.Harness{
		Open: func(t *testing.T, c *blobtest.Clock, quota map[blob.Class]int64) blob.Store { return New(c.Now, quota) },
	})
}
