package closurefile

import (
	"context"
	"hash"
	"io"
	"sync/atomic"
)

// hashedNar passes a NAR on and hashes it.
type hashedNar struct {
	ctx  context.Context
	hash hash.Hash
	to   io.Writer
	read *atomic.Int64
}

func (h *hashedNar) Write(b []byte) (int, error) {
	if err := h.ctx.Err(); err != nil {
		return 0, err
	}
	h.hash.Write(b)
	h.read.Add(int64(len(b)))
	return h.to.Write(b)
}
