//go:build !race

package dirblob

const race = false
