package nixclient

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/nix-community/go-nix/pkg/wire"
)

// The numbers of Nix's protocol (src/libstore/worker-protocol.hh) as far as a greeting
// goes.
const (
	workerMagic1 = 0x6e697863
	workerMagic2 = 0x6478696f
	stderrLast   = 0x616c7473

	// ourProtocol is 1.35: the first in which a daemon says whom it trusts.
	ourProtocol = 0x123

	greetingTimeout = 2 * time.Second
	maxVersion      = 1000 // bytes
)

// A greeting is what a daemon says to a client before it is asked for anything, and what
// the kernel says of it.
type greeting struct {
	version string // "" if it does not say, as before 2.7
	trusted *bool  // nil if it does not say, as before 2.15
	pid     int    // 0 if it can't be seen
	apart   bool   // which is so because it is in another container
}

// greet connects to a daemon, as far as to be told by it who we are. (To ask Nix's own
// client would take ten times as long, and to hang up before the end makes the daemon
// complain in its log.)
func greet(socket string) (g greeting, err error) {
	conn, err := net.DialTimeout("unix", socket, greetingTimeout)
	if err != nil {
		return g, err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(greetingTimeout)); err != nil {
		return g, err
	}
	pid, ok := listener(conn.(*net.UnixConn))
	g.pid, g.apart = pid, ok && pid == 0
	if err := g.shakeHands(conn); err != nil {
		return g, fmt.Errorf("greet nix-daemon: %w", err)
	}
	return g, nil
}

func (g *greeting) shakeHands(conn io.ReadWriter) error {
	if err := send(conn, workerMagic1); err != nil {
		return err
	}
	magic, err := wire.ReadUint64(conn)
	if err != nil {
		return err
	}
	if magic != workerMagic2 {
		return errors.New("it speaks another protocol")
	}
	protocol, err := wire.ReadUint64(conn)
	if err != nil {
		return err
	}
	// Our version, no CPU affinity, no space to reserve.
	if err := send(conn, ourProtocol, 0, 0); err != nil {
		return err
	}
	if protocol >= 0x121 {
		if g.version, err = wire.ReadString(conn, maxVersion); err != nil {
			return err
		}
	}
	if protocol >= 0x123 {
		trust, err := wire.ReadUint64(conn)
		if err != nil {
			return err
		}
		if trust != 0 { // it knows
			is := trust == 1
			g.trusted = &is
		}
	}
	last, err := wire.ReadUint64(conn)
	if err == nil && last != stderrLast {
		err = errors.New("it has something to say that is not expected")
	}
	return err
}

// send writes some numbers.
func send(w io.Writer, numbers ...uint64) error {
	var b []byte
	for _, n := range numbers {
		b = binary.LittleEndian.AppendUint64(b, n)
	}
	_, err := w.Write(b)
	return err
}
