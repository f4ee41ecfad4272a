//go:build unix

package main

import "syscall"

// ownSession keeps a detached node from the terminal and its signals.
func ownSession() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setsid: true} }
