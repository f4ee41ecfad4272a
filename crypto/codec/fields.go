package codec

// Fields writes a structure or reads one: a type names its fields once, in a
// method that takes a *Fields, and so cannot be written in one way and read in
// another.
//
//	func (m *Mark) fields(f *codec.Fields) { f.U64(&m.Era); f.U64(&m.Seq) }
//
//	b := codec.Write(m.fields)
//	err := codec.Read(b, m.fields)
//
// When reading, what comes out as slices is part of the input.
type Fields struct {
	out []byte
	in  *Reader // nil when writing
}

// Write returns the bytes of a structure.
func Write(fields func(*Fields)) []byte { return Append(nil, fields) }

// Append appends the bytes of a structure.
func Append(b []byte, fields func(*Fields)) []byte {
	f := &Fields{out: b}
	fields(f)
	return f.out
}

// Read reads a structure that makes up all of b.
func Read(b []byte, fields func(*Fields)) error {
	r := NewReader(b)
	ReadFrom(r, fields)
	return r.Done()
}

// ReadFrom reads a structure off the front of what r holds.
func ReadFrom(r *Reader, fields func(*Fields)) { fields(&Fields{in: r}) }

// Reading reports whether the structure is being read.
func (f *Fields) Reading() bool { return f.in != nil }

// Fail refuses what is being read; see [Reader.Fail]. When writing it panics: we
// do not write what we would not read.
func (f *Fields) Fail(format string, args ...any) {
	if f.in == nil {
		panic("codec: writing what cannot be read: " + format)
	}
	f.in.Fail(format, args...)
}

// OK reports whether there has been no error.
func (f *Fields) OK() bool { return f.in == nil || f.in.err == nil }

// More reports whether there is more to read.
func (f *Fields) More() bool { return f.in != nil && f.in.Len() > 0 }

// U8 is one byte.
func (f *Fields) U8(v *uint8) {
	if f.in != nil {
		*v = f.in.U8()
	} else {
		f.out = AppendU8(f.out, *v)
	}
}

// Flag is one byte, 0 or 1.
func (f *Fields) Flag(v *bool) {
	var b uint8
	if *v {
		b = 1
	}
	f.U8(&b)
	if b > 1 {
		f.Fail("a flag of %d", b)
	}
	*v = b == 1
}

// U16 is two bytes.
func (f *Fields) U16(v *uint16) {
	if f.in != nil {
		*v = f.in.U16()
	} else {
		f.out = AppendU16(f.out, *v)
	}
}

// U32 is four bytes.
func (f *Fields) U32(v *uint32) {
	if f.in != nil {
		*v = f.in.U32()
	} else {
		f.out = AppendU32(f.out, *v)
	}
}

// U64 is eight bytes.
func (f *Fields) U64(v *uint64) {
	if f.in != nil {
		*v = f.in.U64()
	} else {
		f.out = AppendU64(f.out, *v)
	}
}

// Array is exactly len(v) bytes.
func (f *Fields) Array(v []byte) {
	if f.in != nil {
		f.in.Copy(v)
	} else {
		f.out = append(f.out, v...)
	}
}

// Vec is a vector of at most limit bytes. One that would be longer is a mistake
// of the writer's, and panics.
func (f *Fields) Vec(limit int, v *[]byte) {
	if f.in != nil {
		*v = f.in.Vec(limit)
		return
	}
	if len(*v) > limit {
		f.Fail("a vector over its limit")
	}
	f.out = AppendVec(f.out, *v)
}

// Text is a vector that holds a string.
func (f *Fields) Text(limit int, v *string) {
	b := []byte(*v)
	f.Vec(limit, &b)
	*v = string(b)
}

// Rest is everything that is left.
func (f *Fields) Rest(v *[]byte) {
	if f.in != nil {
		*v = f.in.Rest()
	} else {
		f.out = append(f.out, *v...)
	}
}

// List is a vector of structures of at most limit bytes and most elements, each
// named by its fields.
func List[T any](f *Fields, limit, most int, list *[]T, fields func(*T, *Fields)) {
	if f.in != nil {
		*list = nil
		f.in.Each(limit, func(r *Reader) {
			if len(*list) == most {
				r.Fail("more than %d elements", most)
				return
			}
			var v T
			fields(&v, &Fields{in: r})
			*list = append(*list, v)
		})
		return
	}
	if len(*list) > most {
		f.Fail("a list over its limit")
	}
	f.out = AppendVecFunc(f.out, func(b []byte) []byte {
		sub := &Fields{out: b}
		for i := range *list {
			fields(&(*list)[i], sub)
		}
		return sub.out
	})
}
