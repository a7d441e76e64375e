//go:build !linux

package bincache

import (
	"errors"
	"os"
)

func linkFile(_, _ *os.File, _ string) error { return errors.ErrUnsupported }

func cloneFile(_, _ *os.File) error { return errors.ErrUnsupported }
