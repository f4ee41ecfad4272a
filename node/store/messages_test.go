package store

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"sotto/storage/vault"
)

func open(t *testing.T) DB {
	t.Helper()
	v, err := vault.Create(t.TempDir(), vault.Options{Keys: map[string][]byte{"test": make([]byte, 32)}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { v.Close() })
	return DB{Vault: v}
}

func update(t *testing.T, db DB, f func(tx *Tx) error) {
	t.Helper()
	if err := db.Update(f); err != nil {
		t.Fatal(err)
	}
}

func testID(n int) (id [32]byte) {
	copy(id[:], fmt.Sprintf("\x01%07d", n))
	return id
}

// A bucket of many messages is emptied in steps, while messages are written: also one that
// moves from behind the place where the step stopped to before it. All that lives is
// there in the end, with its versions and what was said about it, and the bucket is gone.
func TestBucketIsEmptiedWhileMessagesMove(t *testing.T) {
	db, group, at := open(t), []byte("group"), time.Unix(1764000000, 0).UTC()
	const many = 600
	before := at.AddDate(0, 0, -1)
	queued := Message{ID: testID(many), Arrived: at, Kind: KindText, Text: "on its way"}
	for n := 1; n < many; n++ {
		arrived := at
		if n >= 10 && n <= 20 {
			arrived = before
		}
		update(t, db, func(tx *Tx) error {
			m := &Message{ID: testID(n), Seq: uint64(2 * n), Arrived: arrived, Kind: KindText, Text: fmt.Sprint("text ", n)}
			if err := tx.PutMessage(group, m); err != nil || n > 3 {
				return err
			}
			return errors.Join(tx.PutVersion(group, m, &Version{ID: testID(1000 + n), Text: "version"}), tx.PutAbout(group, m, &About{Closed: uint64(n)}))
		})
	}
	day := uint64(0)
	update(t, db, func(tx *Tx) error {
		if err := tx.PutMessage(group, &queued); err != nil {
			return err
		}
		day = queued.Bucket
		for _, n := range []int{7, 300, 599} {
			m, err := tx.Message(group, testID(n))
			if err != nil {
				return err
			}
			if err := tx.RemoveMessage(group, &m); err != nil {
				return err
			}
		}
		return nil
	})
	update(t, db, func(tx *Tx) error { // read, say: what is said about it must come along
		m, err := tx.Message(group, testID(2))
		if err != nil {
			return err
		}
		return tx.PutMessage(group, &m)
	})
	update(t, db, func(tx *Tx) error { // edited, before it moves
		m, err := tx.Message(group, testID(590))
		if err != nil {
			return err
		}
		return errors.Join(tx.PutVersion(group, &m, &Version{ID: testID(2000), Text: "early"}), tx.PutAbout(group, &m, &About{Closed: 590}))
	})
	erased, steps := uint64(0), 0
	var e Emptying
	for done := false; !done; steps++ {
		update(t, db, func(tx *Tx) (err error) {
			done, err = tx.Empty(group, &e)
			return err
		})
		if steps == 0 { // something of another day is erased, of which more stands in front
			update(t, db, func(tx *Tx) error {
				m, err := tx.Message(group, testID(20))
				if err != nil {
					return err
				}
				return tx.RemoveMessage(group, &m)
			})
		}
		if steps == 0 { // stored now, in a place that was passed
			queued.Seq, queued.Text = 3, "stored"
			update(t, db, func(tx *Tx) error { return tx.PutMessage(group, &queued) })
		}
	}
	e = Emptying{} // the other day's turn
	for done := false; !done; {
		update(t, db, func(tx *Tx) (err error) { done, err = tx.Empty(group, &e); return err })
	}
	if steps < 3 {
		t.Errorf("%d messages move in %d steps", many, steps)
	}
	err := db.View(func(tx *Tx) error {
		var err error
		if erased, _, err = tx.Unerased(); err != nil {
			return err
		}
		buckets, err := tx.tx.Buckets(vault.Messages, string(group))
		if err != nil {
			return err
		}
		if len(buckets) != 2 || slices.Contains(buckets, day) {
			t.Errorf("the buckets are %d; that of the day was %d", buckets, day)
		}
		living := 0
		for m, err := range tx.Messages(group, [32]byte{}, false) {
			if err != nil {
				return err
			}
			living++
			if m.ID != queued.ID && m.Text != fmt.Sprint("text ", m.Seq/2) {
				t.Errorf("message %d says %q", m.Seq, m.Text)
			}
		}
		if living != many-4 {
			t.Errorf("%d messages live, want %d", living, many-4)
		}
		if m, err := tx.Message(group, queued.ID); err != nil || m.Text != "stored" {
			t.Errorf("what was stored meanwhile is %+v, %v", m, err)
		}
		for n := 1; n <= 3; n++ {
			v, err := tx.Versions(group, testID(n))
			if a, aboutErr := tx.About(group, testID(n)); err != nil || aboutErr != nil || len(v) != 1 || a.Closed != uint64(n) {
				t.Errorf("about message %d is left %+v, %+v, %v, %v", n, v, a, err, aboutErr)
			}
		}
		v, err := tx.Versions(group, testID(590))
		if a, aboutErr := tx.About(group, testID(590)); err != nil || aboutErr != nil || len(v) != 1 || a.Closed != 590 {
			t.Errorf("of what was edited before it moved is left %+v, %+v, %v, %v", v, a, err, aboutErr)
		}
		if gone, err := tx.Gone(group, testID(7)); err != nil || !gone {
			t.Errorf("a message that was removed is not known as that: %v", err)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if erased == 0 {
		t.Error("nothing asks for the erasure key to be rotated")
	}
}

// An id names the one message that begins so.
func TestMessageIDs(t *testing.T) {
	db, group := open(t), []byte("group")
	update(t, db, func(tx *Tx) error {
		var err error
		for _, id := range [][32]byte{{1, 0xab, 0xcd}, {1, 0xab, 0xce}, {1, 0xff}} {
			err = errors.Join(err, tx.PutMessage(group, &Message{ID: id, Arrived: time.Unix(1, 0), Kind: KindText}))
		}
		return err
	})
	err := db.View(func(tx *Tx) error {
		for prefix, want := range map[string]int{"01abcd": 1, "01abc": 2, "01ab": 2, "01": 2, "01f": 1, "02": 0, "": 2, "01abcdef": 0} {
			if ids, err := tx.MessageIDs(group, prefix); err != nil || len(ids) != want {
				t.Errorf("%q names %d messages, want %d (%v)", prefix, len(ids), want, err)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
