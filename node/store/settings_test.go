package store

import "testing"

// A setting that was written as bare text, as at first, is read.
func TestSettingOfOldHomes(t *testing.T) {
	for _, text := range []string{"/ip4/127.0.0.1/tcp/4655/p2p/12D3KooW", "dGlja2V0", "-_"} {
		if s, err := decodeSetting([]byte(text)); err != nil || s != (Setting{Value: text, Set: true}) {
			t.Errorf("%q is read as %+v, %v", text, s, err)
		}
	}
	want := Setting{Value: "on", Set: true, Lamport: 3, Device: [16]byte{1}}
	if s, err := decodeSetting(encode(&want)); err != nil || s != want {
		t.Errorf("%+v is read as %+v, %v", want, s, err)
	}
	for _, bad := range [][]byte{{}, {1}, append(encode(&want), 0)} {
		if s, err := decodeSetting(bad); err == nil {
			t.Errorf("%x is read as %+v", bad, s)
		}
	}
}

func TestSettingAfter(t *testing.T) {
	older, newer := Setting{Lamport: 1, Device: [16]byte{2}}, Setting{Lamport: 2, Device: [16]byte{1}}
	same := Setting{Lamport: 2, Device: [16]byte{2}}
	if !newer.After(&older) || older.After(&newer) || !same.After(&newer) || newer.After(&same) || same.After(&same) {
		t.Error("two devices would not agree")
	}
}
