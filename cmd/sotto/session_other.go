//go:build !unix

package main

import "syscall"

// ownSession: there are no sessions to be kept apart here.
func ownSession() *syscall.SysProcAttr { return nil }
