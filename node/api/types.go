package api

import "time"

// InviteOptions are the wishes for an invite.
type InviteOptions struct {
	Expires time.Duration // from now; 0 means the node's default
	Name    string        // what to call who opens it; empty: by their profile name
}

// Setting is one line of the configuration.
type Setting struct {
	Key     string `json:"key"`
	Value   string `json:"value"`
	Default string `json:"default"`
	Words   string `json:"words,omitempty" doc:"what it does, and when a change takes effect"`
}
