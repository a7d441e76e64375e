package main

import (
	"bytes"
	"io"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/nix-larder/larder/internal/hooktest"
)

// trouble makes sure that the hook has something to say.
func (s *site) trouble() { s.env["LARDER_QUEUE"] = "/nowhere/queue.db" }

func TestReaderMayBeGone(t *testing.T) {
	eachProgram(t, func(t *testing.T) {
		s, _ := newSiteWithQueue(t)
		s.trouble()
		reader, writer, err := os.Pipe()
		must(t, err)
		must(t, reader.Close())
		defer writer.Close()
		cmd := s.command(t)
		cmd.Stdout, cmd.Stderr = writer, writer
		finish(t, cmd)

		// So may he be when time is up.
		delete(s.env, "LARDER_HOOK_DEADLINE")
		s.env["DRV_PATH"] = s.Path("x.drv")
		must(t, syscall.Mkfifo(s.env["DRV_PATH"], 0o644))
		s.env["LARDER_QUEUE"] = s.File
		cmd = s.command(t)
		cmd.Stdout, cmd.Stderr = writer, writer
		finish(t, cmd)
	})
}

func TestReaderMayHaveStoppedReading(t *testing.T) {
	s, _ := newSiteWithQueue(t)
	reader, writer, err := os.Pipe()
	must(t, err)
	defer reader.Close()
	defer writer.Close()
	must(t, writer.SetWriteDeadline(time.Now().Add(100*time.Millisecond)))
	if _, err := writer.Write(bytes.Repeat([]byte("x"), 1<<20)); err == nil {
		t.Fatal("the pipe takes everything")
	}
	// Nix's pipe is a blocking one.
	must(t, syscall.SetNonblock(int(writer.Fd()), false))
	for name, drv := range map[string]string{"at the end": "", "when time is up": s.Path("x.drv")} {
		t.Run(name, func(t *testing.T) {
			s.trouble()
			delete(s.env, "LARDER_HOOK_DEADLINE") // it waits as long for somebody to read
			if s.env["DRV_PATH"] = drv; drv != "" {
				must(t, syscall.Mkfifo(drv, 0o644))
				s.env["LARDER_QUEUE"] = s.File
			}
			cmd := s.command(t)
			cmd.Stdout, cmd.Stderr = writer, writer
			finish(t, cmd)
		})
	}
}

// Standard input may be Nix's own connection.
func TestStandardInputIsNotRead(t *testing.T) {
	eachProgram(t, func(t *testing.T) {
		s, _ := newSiteWithQueue(t)
		reader, writer, err := os.Pipe()
		must(t, err)
		defer reader.Close()
		const protocol = "what Nix has to say"
		_, err = writer.WriteString(protocol)
		must(t, err)
		must(t, writer.Close())
		cmd := s.command(t)
		cmd.Stdin = reader
		hooktest.WantSays(t, finish(t, cmd), "")
		if left, err := io.ReadAll(reader); string(left) != protocol {
			t.Errorf("standard input has %q, %v left, want all of it", left, err)
		}
	})
}

func TestStandardFilesMayBeClosed(t *testing.T) {
	s, _ := newSiteWithQueue(t)
	for _, redirections := range []string{"<&- >&- 2>&-", "2>&-", "<&-", ">&- 2>/dev/full", "</dev/null >/dev/null"} {
		cmd := s.command(t)
		cmd.Path, cmd.Args = "/bin/sh", []string{"sh", "-c", `exec "$0" --wrong ` + redirections, program}
		finish(t, cmd) // it has something to say, and must not say it into the queue
	}
	s.WantRows(t, s.Path("a"))
	var result string
	must(t, s.raw(t).QueryRow("pragma integrity_check").Scan(&result))
	if result != "ok" {
		t.Errorf("SQLite says of the queue: %s", result)
	}
	for _, suffix := range []string{"", "-wal", "-lock"} {
		data, err := os.ReadFile(s.File + suffix)
		must(t, err)
		if bytes.Contains(data, []byte("--wrong")) {
			t.Errorf("the hook wrote its complaint into %s", s.File+suffix)
		}
	}
}

// A limit on the size of files is announced by a signal.
func TestFileSizeLimitIsNoFailure(t *testing.T) {
	s, q := newSiteWithQueue(t)
	must(t, q.Close())
	hooktest.WantSays(t, s.run(t), "")
	s.env["OUT_PATHS"] = s.Path("b")
	cmd := s.command(t)
	cmd.Path, cmd.Args = "/bin/sh", []string{"sh", "-c", `ulimit -f 0; exec "$0"`, program}
	hooktest.WantSays(t, finish(t, cmd), "file too large")
	s.WantRoots(t, s.Path("a"), s.Path("b"))
	s.WantRows(t, s.Path("a"))
}

func TestNothingIsLeftRunning(t *testing.T) {
	eachProgram(t, func(t *testing.T) {
		s, _ := newSiteWithQueue(t)
		// Whoever has the pipe's other end keeps Nix waiting.
		reader, writer, err := os.Pipe()
		must(t, err)
		defer reader.Close()
		cmd := s.command(t)
		cmd.Stdout, cmd.Stderr = writer, writer
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
		finish(t, cmd)
		must(t, writer.Close())
		must(t, reader.SetReadDeadline(time.Now().Add(patience)))
		if n, err := reader.Read(make([]byte, 1)); n != 0 || os.IsTimeout(err) {
			t.Errorf("read %d bytes, %v, want the end", n, err)
		}
		if err := syscall.Kill(-cmd.Process.Pid, 0); err != syscall.ESRCH {
			t.Errorf("the hook's process group is still there: %v", err)
		}
	})
}
