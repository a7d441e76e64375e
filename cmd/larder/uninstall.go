package main

import "github.com/urfave/cli/v2"

func uninstallCommand() *cli.Command {
	return &cli.Command{Name: "uninstall"}
}
