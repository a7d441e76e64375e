package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/nix-larder/larder/queue"
)

// Nix has one post-build-hook. If that is larder's, it calls the next one after
// itself, which may be larder's, too: package hookmain says how.

// hookQueue returns the queue that an installed hook is for, or "".
func hookQueue(hook string) string { return besideHook(hook, ".queue") }

// hookNext returns the hook that an installed hook calls after itself, or "".
func hookNext(hook string) string { return besideHook(hook, ".next") }

func besideHook(hook, suffix string) string {
	if !filepath.IsAbs(hook) {
		return ""
	}
	text, err := os.ReadFile(hook + suffix)
	if err != nil {
		return "" // (ignored) not one that init has laid down
	}
	return string(bytes.TrimSuffix(text, []byte("\n")))
}

// chainOf returns the hooks that are called one after the other, from the one that
// Nix calls.
func chainOf(hook string) (chain []string) {
	for hook != "" && !slices.Contains(chain, hook) {
		chain = append(chain, hook)
		hook = hookNext(hook)
	}
	return chain
}

// ownHook returns the hook of a queue that is called where this one is: it is that
// one, or a script that names it. If there is none it returns "".
func ownHook(hook, queueFile string) string {
	if hookQueue(hook) == queueFile {
		return hook
	}
	text, err := os.ReadFile(hook)
	if err != nil || !bytes.HasPrefix(text, []byte("#!")) {
		return "" // (ignored) Nix will complain of it
	}
	names := regexp.MustCompile(`/[^\s"'=;]*/`+hookName+`\b`).FindAllString(string(text), -1)
	for _, name := range names {
		if hookQueue(name) == queueFile {
			return name
		}
	}
	return ""
}

// A chaining says how Nix comes to call a queue's hook, and what that calls.
type chaining struct {
	next  string // the hook to call afterwards, or ""
	where string // what names that one until now, if the queue's hook takes its place
	first string // the hook that nix.conf names and goes on naming, if that leads to the queue's
}

// chain returns where the hook of the queue belongs among the hooks that there are.
func chain(c *cli.Context) (chaining, error) {
	if c.IsSet("next") {
		next := c.String("next")
		if next != "" && !filepath.IsAbs(next) {
			return chaining{}, usageError(fmt.Sprintf("--next is %q, want an absolute path", next), "--next '' calls no other hook")
		}
		return chaining{next: next}, nil
	}
	file, err := queueFile(c)
	if err == nil {
		file, err = queue.Resolve(file)
	}
	if err != nil {
		return chaining{}, err
	}
	settings, _, err := hookSettings(os.Getenv)
	if errors.Is(err, fs.ErrPermission) {
		return chaining{}, withHint(err, "say with --next HOOK which post-build-hook there is, or --next '' if there is none")
	}
	if err != nil || len(settings) == 0 {
		return chaining{}, err
	}
	// The last one counts.
	now := settings[len(settings)-1]
	for i, hook := range chainOf(now.hook) {
		if own := ownHook(hook, file); own != "" {
			ch := chaining{next: hookNext(own)}
			if i > 0 || own != hook {
				ch.first = now.hook
			}
			return ch, nil
		}
	}
	if now.hook != "" && !filepath.IsAbs(now.hook) {
		return chaining{}, withHint(fmt.Errorf("chain hook: %s has post-build-hook = %s, which is no absolute path", now.where, now.hook),
			"say with --next HOOK where that is")
	}
	next := stillWanted(now.hook)
	if next == "" {
		return chaining{}, nil
	}
	return chaining{next: next, where: now.where}, nil
}

// stillWanted returns the first hook of a chain that has something to do, or "". One of
// ours that somebody has removed has not, and builds fail for want of it; nor has one
// whose queue has ended, such as a shell has from an earlier larder start.
func stillWanted(hook string) string {
	for _, hook := range chainOf(hook) {
		gone := filepath.Base(hook) == hookName && !isThere(hook)
		if q := hookQueue(hook); !gone && (q == "" || !queue.Ended(q)) {
			return hook
		}
	}
	return ""
}

// errStillCalled returns the error of uninstall that Nix may call the queue's hook, if
// a setting leads to it.
func errStillCalled(s hookSetting, queueFile string) error {
	const again = ", restart nix-daemon if there is one, and run this again"
	hooks := chainOf(s.hook)
	for i, hook := range hooks {
		own := ownHook(hook, queueFile)
		if own == "" {
			continue
		}
		next := hookNext(own)
		if i == 0 && own == hook {
			hint := "remove that line"
			if next != "" {
				hint = "put post-build-hook = " + next + " in its place, which it calls"
			}
			return withHint(fmt.Errorf("uninstall: %s still has post-build-hook = %s", s.where, s.hook), hint+again)
		}
		hint := "take it out of " + hook
		if own == hook {
			hint = fmt.Sprintf("put the line of larder init --queue %s --next '%s' in its place", hookQueue(hooks[i-1]), next)
		}
		return withHint(fmt.Errorf("uninstall: %s still has post-build-hook = %s, which calls %s", s.where, s.hook, own), hint+again)
	}
	return nil
}

// said returns what people have to know of the chain.
func (ch chaining) said() string {
	if ch.where == "" || ch.next == "" {
		return ""
	}
	return fmt.Sprintf("larder: %s has post-build-hook = %s, which larder's hook calls after itself from now on\n", ch.where, ch.next)
}

// lastWords returns what uninstall says of the hooks that are not called any more.
func lastWords(nexts []string) (string, error) {
	settings, _, err := hookSettings(os.Getenv)
	if err != nil {
		return "", err
	}
	var words strings.Builder
	for _, next := range nexts {
		called := func(s hookSetting) bool { return slices.Contains(chainOf(s.hook), next) }
		if !slices.ContainsFunc(settings, called) {
			fmt.Fprintf(&words, "it called %s: to have that called, put post-build-hook = %s into nix.conf\n", next, next)
		}
	}
	return words.String(), nil
}
