package main

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"
)

// helpWidth is what fits beside other windows.
const helpWidth = 96

// The library's own help has one line for each flag, however long.
func init() {
	cli.FlagStringer = describeFlag
	cli.HelpPrinter = func(w io.Writer, text string, data any) {
		cli.HelpPrinterCustom(w, text, data, map[string]any{"wrapAt": func() int { return helpWidth }})
	}
}

// describeFlag returns a flag on one line, and what it means below that.
func describeFlag(f cli.Flag) string {
	doc := f.(cli.DocGenerationFlag)
	var names []string
	for _, name := range f.Names() {
		names = append(names, strings.Repeat("-", min(2, len(name)))+name)
	}
	usage := doc.GetUsage()
	head := strings.Join(names, ", ")
	if before, rest, ok := strings.Cut(usage, "`"); ok {
		value, after, _ := strings.Cut(rest, "`")
		head, usage = head+" "+value, before+value+after
	}
	if slice, ok := f.(cli.DocGenerationSliceFlag); ok && slice.IsSliceFlag() {
		usage += " (may be repeated)"
	}
	if text := strings.Trim(doc.GetDefaultText(), `"`); !slices.Contains([]string{"", "false"}, text) {
		usage += fmt.Sprintf(" (default: %s)", text)
	}
	for _, name := range doc.GetEnvVars() {
		usage += " [$" + name + "]"
	}
	return head + "\n" + usage // which the library folds and indents
}
