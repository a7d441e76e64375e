package compress

import (
	"bytes"
	"errors"
	"fmt"
	"io"
)

// beginnings are what files begin with that are compressed, and texts are not.
var beginnings = map[string]string{
	"xz":    "\xfd7zXZ\x00",
	"zstd":  "\x28\xb5\x2f\xfd",
	"gzip":  "\x1f\x8b\x08",
	"lz4":   "\x04\x22\x4d\x18",
	"bzip2": "BZh91AY&SY", // as Nix writes its logs
}

// BeginningSize is how much of a file MethodOf looks at.
const BeginningSize = 16

// MethodOf returns how a file is compressed that begins like this, or "none".
func MethodOf(beginning []byte) string {
	for method, with := range beginnings {
		if bytes.HasPrefix(beginning, []byte(with)) {
			return method
		}
	}
	return "none"
}

// Whole reads what is compressed in r, to its end. The error wraps [ErrCorrupt] if it has none,
// or more than limit bytes come out. Errors of r are returned as they are.
func Whole(method string, r io.Reader, limit int64) error {
	from := &reader{method: method, open: decoders[method], source: source{r: r}}
	if from.open == nil {
		return fmt.Errorf("%w: %s", ErrUnsupported, method)
	}
	defer from.Close()
	buf := make([]byte, sourceBuffer)
	for size := int64(0); ; {
		n, err := from.decode(buf)
		if size += int64(n); err == nil && size > limit {
			err = fmt.Errorf("more than %d bytes come out", limit)
		}
		switch {
		case err == nil:
		case from.source.err != nil:
			return from.source.err
		case errors.Is(err, io.EOF):
			return nil
		default:
			return fmt.Errorf("%w: %s: %w", ErrCorrupt, method, err)
		}
	}
}
