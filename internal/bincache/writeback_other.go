//go:build !linux

package bincache

import "os"

func startSync(*os.File) {}
