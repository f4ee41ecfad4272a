package api

import "sotto/node"

// What a node takes and gives beside the types of package node's surface.
type (
	// InviteOptions are the wishes for an invite.
	InviteOptions = node.InviteOptions
	// Setting is one line of the configuration.
	Setting = node.Setting
)
