package codec

import (
	"reflect"
	"testing"
)

type inner struct {
	N uint16
	S string
}

func (i *inner) fields(f *Fields) { f.U16(&i.N); f.Text(10, &i.S) }

type outer struct {
	A    uint8
	B    uint32
	C    uint64
	D    [3]byte
	E    []byte
	F    bool
	List []inner
	Rest []byte
}

func (o *outer) fields(f *Fields) {
	f.U8(&o.A)
	f.U32(&o.B)
	f.U64(&o.C)
	f.Array(o.D[:])
	f.Vec(5, &o.E)
	f.Flag(&o.F)
	List(f, 100, 3, &o.List, (*inner).fields)
	f.Rest(&o.Rest)
}

func TestFields(t *testing.T) {
	want := &outer{1, 2, 3, [3]byte{4, 5, 6}, []byte{7}, true, []inner{{8, "nine"}, {10, ""}}, []byte("rest")}
	b := Write(want.fields)
	got := &outer{}
	if err := Read(b, got.fields); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("read %+v, %v", got, err)
	}
	for i := range len(b) - len("rest") {
		if err := Read(b[:i], got.fields); err == nil {
			t.Errorf("cut off at byte %d it is read", i)
		}
	}
	many := &outer{List: make([]inner, 3)}
	b = Write(many.fields)
	b = append(b[:18], AppendVec(nil, make([]byte, 12))...) // four elements in place of three
	if err := Read(b, got.fields); err == nil {
		t.Error("a list over its limit is read")
	}
	bad := Write((&outer{}).fields)
	bad[17] = 2
	if err := Read(bad, got.fields); err == nil {
		t.Error("a flag of 2 is read")
	}
}

func TestWritingOverTheLimitPanics(t *testing.T) {
	for name, o := range map[string]*outer{"vector": {E: make([]byte, 6)}, "list": {List: make([]inner, 4)}} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("a %s over its limit was written", name)
				}
			}()
			Write(o.fields)
		}()
	}
}
