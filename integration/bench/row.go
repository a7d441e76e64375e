package main

import (
	"context"
	"fmt"
	"slices"
)

// rows are all that can be measured, in the order in which it is done and told.
// A row's variable, its function and its goals lie together in a file of its own.
var rows = []row{
	coldRow, fullRow, smallRow, bigRow, hookRow, crowdRow, jobIdleRow, jobBusyRow,
	roundtripRow, idleRow, startRow, upkeepRow, queueRow, entriesRow, partsRow,
}

// A row is one thing that is measured: a table, and the goals that it decides.
type row struct {
	Name  string // what --rows calls it
	Title string // what stands over its table
	Milli bool   // times are told in milliseconds, not in seconds

	// Measure runs what is to be compared, in turns. What b.Contenders lacks is
	// left out; where nothing is left to measure it returns no results.
	Measure func(ctx context.Context, b *bench) ([]result, error)

	Goals []goal
}

// A bench is what the rows share.
type bench struct {
	config
	w          *workshop
	corpus     *corpus
	contenders []contender // those that are there and asked for
}

// pick returns those contenders that are there and that keys names.
func (b *bench) pick(keys ...string) []contender {
	return slices.DeleteFunc(slices.Clone(b.contenders), func(c contender) bool {
		return !slices.Contains(keys, c.Key)
	})
}

// pickRuns is how often rows that take long are measured.
func (b *bench) pickRuns() int {
	if b.Quick {
		return 1
	}
	return b.Runs
}

// hasLarder tells whether larder is to be measured: who measures Nix alone may
// not have built it.
func (b *bench) hasLarder() bool { return len(b.pick("larder")) > 0 }

func rowNames() []string {
	var names []string
	for _, r := range rows {
		names = append(names, r.Name)
	}
	return names
}

// quickRows are those that --quick has: the others take as long as all of these, and say
// little where everything is small.
func quickRows() []string {
	return slices.DeleteFunc(rowNames(), func(name string) bool {
		return slices.Contains([]string{"job-busy", "roundtrip", "idle", "upkeep", "parts"}, name)
	})
}

// measureRows measures every row that was asked for, and judges its goals.
func measureRows(ctx context.Context, b *bench, rep *report) error {
	for _, r := range rows {
		if !slices.Contains(b.Rows, r.Name) {
			continue
		}
		status("row %s", r.Name)
		results, err := r.Measure(ctx, b)
		if err != nil {
			return fmt.Errorf("measure row %s: %w", r.Name, err)
		}
		for i := range results {
			results[i].Row = r.Name
		}
		rep.Results = append(rep.Results, results...)
		for _, g := range r.Goals {
			rep.Goals = append(rep.Goals, g.judge(r.Name, results))
		}
	}
	return nil
}
