package main

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
)

// upkeepCommands are what looks at all of a cache.
var upkeepCommands = []struct {
	key  string
	args []string
}{
	{"list", []string{"list"}},
	{"list-long", []string{"list", "--long"}},
	{"gc", []string{"gc", "--dry-run", "--json", "--max-size", "50M"}},
	{"verify", []string{"verify", "--quiet"}},
	{"status", []string{"status"}},
}

var upkeepRow = row{
	Name:    "upkeep",
	Title:   "commands that look at all of a cache of 200,000 entries (--quick: 20,000)",
	Measure: measureUpkeep,
	Goals:   upkeepGoals(),
}

func upkeepGoals() (goals []goal) {
	for _, c := range upkeepCommands {
		goals = append(goals, goal{What: "larder " + c.key, Limit: 10, Unit: "s", Is: valueOf(medianWall, c.key+" of 200000")})
	}
	return goals
}

// measureUpkeep measures whole processes, one after the other in turns.
func measureUpkeep(ctx context.Context, b *bench) ([]result, error) {
	if !b.hasLarder() {
		return nil, nil
	}
	many := 200_000
	if b.Quick {
		many = 20_000
	}
	cache, err := openEntries(ctx, b, many)
	if err != nil {
		return nil, err
	}
	var results []result
	for _, c := range upkeepCommands {
		results = append(results, newResult(contender{Key: fmt.Sprintf("%s of %d", c.key, many), Label: "larder " + c.key}))
	}
	for n := range b.pickRuns() + 1 {
		for i, c := range upkeepCommands {
			cmd := exec.CommandContext(ctx, filepath.Join(b.Bin, "larder"), append(c.args, "--cache", cache)...)
			cmd.Env = env(b.w.dir)
			s, err := measure(cmd, b.w)
			if err != nil {
				return nil, err
			}
			if n > 0 { // the first is the warm-up
				results[i].add(s)
			}
		}
	}
	return results, nil
}
