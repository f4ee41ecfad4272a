package api

import (
	"context"
	"net/http"

	"sotto/node"
)

type (
	devices struct {
		Devices []node.Device `json:"devices" nullable:"false"`
	}
	fingerprintBody struct {
		Fingerprint string `json:"fingerprint" maxLength:"64" doc:"what the device itself shows"`
	}
	passphraseBody struct {
		Passphrase []byte `json:"passphrase" maxLength:"1368" doc:"of this device's vault, base64: it opens the account key"`
	}
	confirmBody struct {
		Digits     string `json:"digits" maxLength:"32" doc:"what the new device shows"`
		Passphrase []byte `json:"passphrase" maxLength:"1368" doc:"of this device's vault, base64: it opens the account key"`
	}
	deviceInput struct {
		Ref string `path:"ref" maxLength:"256" doc:"name, id, a prefix of the id that fits no other, or this"`
	}
	deviceBody[T any] struct {
		Ref  string `path:"ref" maxLength:"256" doc:"name, id, a prefix of the id that fits no other, or this"`
		Body T
	}
)

func (s *Server) deviceRoutes() {
	n := s.node
	route(s, http.MethodGet, "/v1/devices", "devices", "The account's devices, the oldest first",
		func(ctx context.Context, _ *none) (devices, error) {
			d, err := n.Devices(ctx)
			return devices{list(d)}, err
		})
	route(s, http.MethodPut, "/v1/devices/{ref}/name", "rename-device", "Call a device otherwise",
		func(ctx context.Context, in *deviceBody[nameBody]) (node.Device, error) {
			return n.RenameDevice(ctx, in.Ref, in.Body.Name)
		})
	route(s, http.MethodPut, "/v1/devices/{ref}/fingerprint", "verify-device", "Mark a device as verified, if this is its fingerprint",
		func(ctx context.Context, in *deviceBody[fingerprintBody]) (node.Device, error) {
			return n.VerifyDevice(ctx, in.Ref, in.Body.Fingerprint)
		})
	route(s, http.MethodPost, "/v1/devices/{ref}/suspend", "suspend-device", "Stop a device at once; the account key can end that",
		func(ctx context.Context, in *deviceInput) (node.Device, error) { return n.SuspendDevice(ctx, in.Ref) })
	route(s, http.MethodPost, "/v1/devices/{ref}/revoke", "revoke-device", "End a device for good",
		func(ctx context.Context, in *deviceBody[passphraseBody]) (node.Device, error) {
			defer clear(in.Body.Passphrase)
			return n.RevokeDevice(ctx, in.Ref, in.Body.Passphrase)
		})
	route(s, http.MethodPost, "/v1/devices/{ref}/restore", "restore-device", "End a suspension",
		func(ctx context.Context, in *deviceBody[passphraseBody]) (node.Device, error) {
			defer clear(in.Body.Passphrase)
			return n.RestoreDevice(ctx, in.Ref, in.Body.Passphrase)
		})

	route(s, http.MethodPost, "/v1/link", "link-device", "Make a link to enter at a new device",
		func(ctx context.Context, _ *none) (node.DeviceLink, error) { return n.LinkDevice(ctx) })
	route(s, http.MethodGet, "/v1/link", "link", "The device that is being linked, or was last",
		func(ctx context.Context, _ *none) (node.DeviceLink, error) { return n.Link(ctx) })
	route(s, http.MethodPost, "/v1/link/confirm", "confirm-link", "Make the device that shows these digits one of the account; others end the link",
		func(ctx context.Context, in *struct{ Body confirmBody }) (node.DeviceLink, error) {
			defer clear(in.Body.Passphrase)
			return n.ConfirmLink(ctx, in.Body.Digits, in.Body.Passphrase)
		})
	route(s, http.MethodDelete, "/v1/link", "cancel-link", "End the link that is under way",
		func(ctx context.Context, _ *none) (none, error) { return none{}, n.CancelLink(ctx) })
}

// Devices returns the account's devices.
func (c *Client) Devices(ctx context.Context) ([]node.Device, error) {
	out, err := get[devices](ctx, c, "/v1/devices")
	return out.Devices, err
}

// RenameDevice calls a device otherwise.
func (c *Client) RenameDevice(ctx context.Context, ref, name string) (node.Device, error) {
	return put[node.Device](ctx, c, http.MethodPut, "/v1/devices/%s/name", ref, nameBody{name})
}

// VerifyDevice marks a device as verified if that is its fingerprint.
func (c *Client) VerifyDevice(ctx context.Context, ref, fingerprint string) (node.Device, error) {
	return put[node.Device](ctx, c, http.MethodPut, "/v1/devices/%s/fingerprint", ref, fingerprintBody{fingerprint})
}

// SuspendDevice stops a device at once.
func (c *Client) SuspendDevice(ctx context.Context, ref string) (node.Device, error) {
	return put[node.Device](ctx, c, http.MethodPost, "/v1/devices/%s/suspend", ref, nil)
}

// RevokeDevice ends a device for good.
func (c *Client) RevokeDevice(ctx context.Context, ref string, passphrase []byte) (node.Device, error) {
	return put[node.Device](ctx, c, http.MethodPost, "/v1/devices/%s/revoke", ref, passphraseBody{passphrase})
}

// RestoreDevice ends a suspension.
func (c *Client) RestoreDevice(ctx context.Context, ref string, passphrase []byte) (node.Device, error) {
	return put[node.Device](ctx, c, http.MethodPost, "/v1/devices/%s/restore", ref, passphraseBody{passphrase})
}

// LinkDevice makes a link to enter at a new device.
func (c *Client) LinkDevice(ctx context.Context) (out node.DeviceLink, err error) {
	return out, c.call(ctx, http.MethodPost, "/v1/link", nil, &out)
}

// Link returns the device that is being linked, or was last.
func (c *Client) Link(ctx context.Context) (node.DeviceLink, error) {
	return get[node.DeviceLink](ctx, c, "/v1/link")
}

// ConfirmLink makes the device that shows these digits one of the account.
func (c *Client) ConfirmLink(ctx context.Context, digits string, passphrase []byte) (out node.DeviceLink, err error) {
	return out, c.call(ctx, http.MethodPost, "/v1/link/confirm", confirmBody{digits, passphrase}, &out)
}

// CancelLink ends the link that is under way.
func (c *Client) CancelLink(ctx context.Context) error {
	return c.call(ctx, http.MethodDelete, "/v1/link", nil, nil)
}
