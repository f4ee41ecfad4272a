//go:build race

package mls

const raced = true
