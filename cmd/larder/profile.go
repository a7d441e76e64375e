package main

import (
	"fmt"
	"os"
	"runtime/pprof"

	"github.com/urfave/cli/v2"
)

var cpuProfileFlag = &cli.StringFlag{
	Name:      "cpuprofile",
	Usage:     "write to `FILE` where the time goes; go tool pprof shows it",
	TakesFile: true,
}

// startProfile begins the profile, if one is wanted.
func startProfile(c *cli.Context) error {
	name := c.String(cpuProfileFlag.Name)
	if name == "" {
		return nil
	}
	f, err := os.Create(name)
	if err != nil {
		return fmt.Errorf("write profile: %w", err)
	}
	// It is open until the process ends.
	if err := pprof.StartCPUProfile(f); err != nil {
		return fmt.Errorf("write profile: %w", err)
	}
	return nil
}

// stopProfile writes what is left of the profile, if there is one.
func stopProfile(*cli.Context) error {
	pprof.StopCPUProfile()
	return nil
}
