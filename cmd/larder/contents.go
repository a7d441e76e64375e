package main

import (
	"strconv"

	"github.com/urfave/cli/v2"

	"github.com/nix-larder/larder/cachewriter"
	"github.com/nix-larder/larder/internal/bincache"
	"github.com/nix-larder/larder/queue"
)

// contentFlags say what entries have besides their NARs. Each replaces what the queue
// remembers.
func contentFlags() []cli.Flag {
	return []cli.Flag{
		&cli.BoolFlag{Name: "listings", EnvVars: []string{"LARDER_LISTINGS"}, Usage: "list the files of every entry in a <hash>.ls beside its narinfo, as Nix's write-nar-listing does"},
		&cli.BoolFlag{Name: "logs", Value: true, EnvVars: []string{"LARDER_LOGS"}, Usage: "keep the logs of builds, for nix log --store file://…; --logs=false does not"},
	}
}

// failedLogsFlag is for those who see builds that fail.
func failedLogsFlag() cli.Flag {
	return &cli.BoolFlag{Name: "failed-logs", EnvVars: []string{"LARDER_FAILED_LOGS"}, Usage: "also keep the logs of builds that fail meanwhile, whoever started them"}
}

// setContents changes settings as the command line says.
func setContents(c *cli.Context, s *queue.Settings) {
	for flag, setting := range map[string]*string{"listings": &s.Listings, "logs": &s.Logs, "failed-logs": &s.FailedLogs} {
		if c.IsSet(flag) {
			*setting = strconv.FormatBool(c.Bool(flag))
		}
	}
}

// extrasOf returns what the command line or the settings want of entries.
func extrasOf(c *cli.Context, s queue.Settings) cachewriter.Extras {
	setContents(c, &s)
	return cachewriter.Extras{Listings: s.Listings == "true", Logs: s.Logs != "false"}
}

// lacking tells whether an entry lacks what could be added to it.
func (v *view) lacking(have bincache.Found) bool {
	listing, log := v.extras.Missing(have, v.store.Dirs())
	return (listing || log != "") && v.sameInStore(have.Entry)
}
