package bincache

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"path"
	"slices"
	"strings"
	"time"
)

// A Pin keeps the closures of some store paths, under a name. It may have a history: what
// the name stood for before is kept as well, so that one can go back to it.
type Pin struct {
	Name    string
	History []Pinned // oldest first, at least one
}

// Pinned is what a pin stood for from some time on.
type Pinned struct {
	Since time.Time // to the second
	Paths []string  // store paths
}

const (
	pinsDir    = ".larder/pins"
	pinVersion = 1
	pinHeader  = "larder-pin "
	maxPin     = 64 << 20
)

// ErrNoPin says that there is no pin of a name.
var ErrNoPin = errors.New("there is no such pin")

var pinName = pattern(`^[0-9A-Za-z_][0-9A-Za-z._+-]{0,199}$`)

// CheckPinName returns an error if a pin can't have a name: it is that of a file.
func CheckPinName(name string) error {
	if !pinName().MatchString(name) {
		return fmt.Errorf("%q can't be a pin's name: want letters, digits, and . _ + - between them", name)
	}
	return nil
}

// Pin makes a name stand for some store paths, from now on. Of what it stood for before,
// the newest are kept, so that the history has at most keep; at least one is.
func (c *Cache) Pin(ctx context.Context, name string, now time.Time, keep int, paths ...string) error {
	if err := CheckPinName(name); err != nil {
		return err
	}
	for _, p := range paths {
		if err := checkBaseName(path.Base(p)); err != nil {
			return err
		}
	}
	unlock, err := c.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	pin, err := c.readPin(name)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("pin %s: %w", name, err)
	}
	paths = slices.Compact(slices.Sorted(slices.Values(paths)))
	keep = max(1, keep)
	if last := len(pin.History) - 1; last < 0 || !slices.Equal(pin.History[last].Paths, paths) {
		pin.History = append(pin.History, Pinned{now, paths})
	} else if len(pin.History) <= keep {
		return nil // it is as it was, and those who save the directory need not do it again
	}
	pin.History = pin.History[max(0, len(pin.History)-keep):]
	if err := c.makeDir(pinsDir); err != nil {
		return fmt.Errorf("pin %s: %w", name, err)
	}
	if err := c.replaceText(path.Join(pinsDir, name), []byte(pin.format())); err != nil {
		return fmt.Errorf("pin %s: %w", name, err)
	}
	return nil
}

// Unpin removes a pin, with its history. The error wraps [ErrNoPin] if there is none.
func (c *Cache) Unpin(ctx context.Context, name string) error {
	if err := CheckPinName(name); err != nil {
		return err
	}
	unlock, err := c.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	err = c.root.Remove(path.Join(pinsDir, name))
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("unpin %s: %w", name, ErrNoPin)
	}
	if err == nil {
		err = c.SyncDir(pinsDir)
	}
	if err != nil {
		return fmt.Errorf("unpin %s: %w", name, err)
	}
	return nil
}

// Pins returns all pins, by name. One that can't be read is an error that names it: who
// removes entries must not think that it keeps nothing.
func (c *Cache) Pins() ([]Pin, error) {
	var pins []Pin
	for p, err := range c.EachPin() {
		if err != nil {
			return nil, err
		}
		pins = append(pins, p)
	}
	return pins, nil
}

// EachPin yields all pins, by name. One that can't be read is a [FileError], and the others
// follow.
func (c *Cache) EachPin() iter.Seq2[Pin, error] {
	return func(yield func(Pin, error) bool) {
		names, err := c.readDir(pinsDir)
		if err = ignoreNotExist(err); err != nil {
			yield(Pin{}, fmt.Errorf("list pins: %w", err))
			return
		}
		slices.Sort(names)
		for _, name := range names {
			if CheckPinName(name) != nil {
				continue // .keep, or not ours
			}
			p, err := c.readPin(name)
			if errors.Is(err, fs.ErrNotExist) {
				continue // removed meanwhile
			}
			if err != nil {
				err = &FileError{path.Join(pinsDir, name), err}
			}
			if !yield(p, err) {
				return
			}
		}
	}
}

// Paths returns everything that the pin keeps, of all its history.
func (p *Pin) Paths() []string {
	var all []string
	for _, h := range p.History {
		all = append(all, h.Paths...)
	}
	slices.Sort(all)
	return slices.Compact(all)
}

func (p *Pin) format() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s%d\n", pinHeader, pinVersion)
	for _, h := range p.History {
		fmt.Fprintf(&b, "since %s\n", h.Since.UTC().Format(runTime))
		for _, p := range h.Paths {
			fmt.Fprintf(&b, "path %s\n", path.Base(p))
		}
	}
	b.WriteString("end\n")
	return b.String()
}

func (c *Cache) readPin(name string) (Pin, error) {
	p := Pin{Name: name}
	text, err := c.readFile(path.Join(pinsDir, name), maxPin)
	if err != nil {
		return p, err
	}
	body, err := checkHeader(string(text), pinHeader, pinVersion)
	if err != nil {
		return p, err
	}
	body, ok := strings.CutSuffix("\n"+body, "\nend\n")
	if !ok {
		return p, errors.New("its end is missing")
	}
	for line := range strings.SplitSeq(strings.TrimPrefix(body, "\n"), "\n") {
		kind, value, _ := strings.Cut(line, " ")
		switch {
		case kind == "since":
			since, err := time.Parse(runTime, value)
			if err != nil {
				return p, err
			}
			p.History = append(p.History, Pinned{Since: since})
		case kind == "path" && len(p.History) > 0:
			if err := checkBaseName(value); err != nil {
				return p, err
			}
			last := &p.History[len(p.History)-1]
			last.Paths = append(last.Paths, c.storeDir+"/"+value)
		}
	}
	if len(p.History) == 0 {
		return p, errors.New("it does not say what it keeps")
	}
	return p, nil
}
