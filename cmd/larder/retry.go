package main

import (
	"fmt"

	"github.com/urfave/cli/v2"
)

func retryCommand() *cli.Command {
	return &cli.Command{
		Name:        "retry",
		Usage:       "try failed jobs again, now",
		ArgsUsage:   "[PATH…]",
		Description: "Without a PATH: all dead letters, and all jobs that wait for their next attempt.",
		Flags:       []cli.Flag{queueFlag()},
		Action:      retry,
	}
}

func retry(c *cli.Context) error {
	paths, err := parsePaths(c.Args().Slice())
	if err != nil {
		return err
	}
	q, _, err := openQueue(c, false)
	if err != nil {
		return err
	}
	defer q.Close()
	n, err := q.Retry(c.Context, paths...)
	if err != nil {
		return err
	}
	if n < int64(len(paths)) {
		return withHint(fmt.Errorf("only %d of %d paths have a job that can be retried", n, len(paths)), "larder status lists the jobs")
	}
	_, err = fmt.Fprintf(c.App.Writer, "%d jobs are due now\n", n)
	return err
}
