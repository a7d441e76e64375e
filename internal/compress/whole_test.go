package compress

import (
	"bytes"
	"errors"
	"testing"
)

func TestWholeReadsToTheEnd(t *testing.T) {
	for _, method := range []Method{{Name: "zstd", Level: 3}, {Name: "none"}} {
		var packed bytes.Buffer
		w := method.NewWriter()
		w.Reset(&packed)
		_, err := w.Write(bytes.Repeat([]byte("a line\n"), 10000))
		if err == nil {
			err = w.Flush()
		}
		if err != nil {
			t.Fatal(err)
		}
		is := MethodOf(packed.Bytes()[:min(packed.Len(), BeginningSize)])
		if is != method.Name {
			t.Errorf("%s is taken for %s", method.Name, is)
		}
		if err := Whole(is, bytes.NewReader(packed.Bytes()), 70000); err != nil {
			t.Errorf("%s: %v", is, err)
		}
		if err := Whole(is, bytes.NewReader(packed.Bytes()), 69999); !errors.Is(err, ErrCorrupt) {
			t.Errorf("%s that is too large: %v", is, err)
		}
		if err := Whole(is, bytes.NewReader(packed.Bytes()[:packed.Len()-3]), 70000); (err == nil) != (is == "none") {
			t.Errorf("%s that is cut off: %v", is, err)
		}
	}
	if err := Whole("lzop", new(bytes.Reader), 1); !errors.Is(err, ErrUnsupported) {
		t.Errorf("without a decoder: %v", err)
	}
}
