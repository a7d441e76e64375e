package main

import (
	"errors"
	"strconv"
	"strings"
	"time"

	"github.com/urfave/cli/v2"
)

// timeFlag is a flag that takes a time, in days as well. Without a default there is none.
func timeFlag(name, value, variable, usage string) *cli.GenericFlag {
	f := &cli.GenericFlag{Name: name, Value: &span{text: value, orNone: value == ""}, Usage: usage}
	if variable != "" {
		f.EnvVars = []string{variable}
	}
	return f
}

// timeOf returns what a flag says, or 0 if the command has no such flag.
func timeOf(c *cli.Context, flag string) time.Duration {
	s, ok := c.Generic(flag).(*span)
	if !ok {
		return 0
	}
	d, _ := parseTime(s.text) // (ignored) Set has looked, and a default is right
	return d
}

// A span is the value of a flag that takes a time, as somebody has written it.
type span struct {
	text   string
	orNone bool // it may be empty
}

func (s *span) String() string { return s.text }

func (s *span) Set(text string) error {
	if text != "" || !s.orNone {
		if _, err := parseTime(text); err != nil {
			return err
		}
	}
	s.text = text
	return nil
}

// parseTime reads a time as Go writes it, or a number of days.
func parseTime(text string) (time.Duration, error) {
	if digits, ok := strings.CutSuffix(text, "d"); ok {
		if days, err := strconv.ParseUint(digits, 10, 16); err == nil {
			return time.Duration(days) * 24 * time.Hour, nil
		}
	} else if d, err := time.ParseDuration(text); err == nil && d >= 0 {
		return d, nil
	}
	return 0, errors.New("want a time, such as 90s, 36h or 30d")
}
