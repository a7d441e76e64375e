package main

import (
	"slices"
	"strings"

	"github.com/urfave/cli/v2"
)

// flagsFirst returns a command line with the command's flags before its arguments, and --
// between them: the library takes what is behind the first argument for arguments. Those of
// larder run are another command's, which has flags of its own.
func flagsFirst(app *cli.App, args []string) []string {
	at := 1 // of the command's name
	for at < len(args) && isFlag(args[at]) && args[at] != "--" {
		at++
		if takesNext(app.Flags, args[at-1]) {
			at++
		}
	}
	if at >= len(args) {
		return args
	}
	command := app.Command(args[at])
	if command == nil || command.Name == "run" {
		return args
	}
	var flags, arguments []string
	for rest := args[at+1:]; len(rest) > 0; {
		arg := rest[0]
		rest = rest[1:]
		switch {
		case arg == "--":
			arguments, rest = append(arguments, rest...), nil
		case !isFlag(arg):
			arguments = append(arguments, arg)
		case takesNext(command.Flags, arg) && len(rest) == 0:
			arguments, flags = nil, append(flags, arg) // the library says what it lacks
		case takesNext(command.Flags, arg):
			flags, rest = append(flags, arg, rest[0]), rest[1:]
		default: // also one that is unknown, of which the library tells
			flags = append(flags, arg)
		}
	}
	if len(arguments) > 0 {
		flags = append(append(flags, "--"), arguments...)
	}
	return slices.Concat(args[:at+1], flags)
}

// isFlag tells whether a word is a flag, and not an argument, as - is.
func isFlag(word string) bool { return len(word) > 1 && word[0] == '-' }

// takesNext tells whether the word behind a flag is its value.
func takesNext(flags []cli.Flag, word string) bool {
	name := strings.TrimPrefix(strings.TrimPrefix(word, "-"), "-")
	return slices.ContainsFunc(flags, func(f cli.Flag) bool {
		return slices.Contains(f.Names(), name) && f.(cli.DocGenerationFlag).TakesValue()
	})
}
