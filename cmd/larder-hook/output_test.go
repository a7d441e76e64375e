package main

import (
	"bytes"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
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
		s.env["DRV_PATH"] = s.path("x.drv")
		must(t, syscall.Mkfifo(s.env["DRV_PATH"], 0o644))
		s.env["LARDER_QUEUE"] = s.file
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
	for name, drv := range map[string]string{"at the end": "", "when time is up": s.path("x.drv")} {
		t.Run(name, func(t *testing.T) {
			s.trouble()
			if s.env["DRV_PATH"] = drv; drv != "" {
				must(t, syscall.Mkfifo(drv, 0o644))
				s.env["LARDER_QUEUE"] = s.file
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
		wantSays(t, finish(t, cmd), "")
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
	s.wantRows(t, s.path("a"))
	var result string
	must(t, s.raw(t).QueryRow("pragma integrity_check").Scan(&result))
	if result != "ok" {
		t.Errorf("SQLite says of the queue: %s", result)
	}
	for _, suffix := range []string{"", "-wal", "-lock"} {
		data, err := os.ReadFile(s.file + suffix)
		must(t, err)
		if bytes.Contains(data, []byte("--wrong")) {
			t.Errorf("the hook wrote its complaint into %s", s.file+suffix)
		}
	}
}

func TestFullDiskIsNoFailure(t *testing.T) {
	t.Run("of the queue", func(t *testing.T) {
		s := newSite(t)
		mount(t, filepath.Dir(s.file), "size=256k")
		must(t, s.open(t).Close())
		free := fill(t, s.file+".filler")
		wantSays(t, s.run(t), "no space left on device")
		s.wantRoots(t, s.path("a"))

		// Nothing is broken, and when there is space again it works.
		free()
		s.wantRows(t)
		wantSays(t, s.run(t), "")
		s.wantRows(t, s.path("a"))
	})
	// The log is there, and has no room to grow.
	t.Run("of the queue in use", func(t *testing.T) {
		s := newSite(t)
		mount(t, filepath.Dir(s.file), "size=256k")
		q := s.open(t)
		must(t, q.Add(t.Context(), "", s.path("b")))
		free := fill(t, s.file+".filler")
		for i := range 50 { // a page has room for some
			s.env["OUT_PATHS"] += " " + s.path(strings.Repeat("x", 150)+string(rune('0'+i)))
		}
		said := s.run(t)
		if !strings.Contains(said, "disk is full") && !strings.Contains(said, "no space left") {
			t.Errorf("hook says %q, want that the disk is full", said)
		}
		free()
		s.wantRows(t, s.path("b"))
	})
	t.Run("of the roots", func(t *testing.T) {
		s, _ := newSiteWithQueue(t)
		mount(t, s.state, "size=16k,nr_inodes=3")
		wantSays(t, s.run(t), "no space left on device")
		s.wantRows(t, s.path("a"))
	})
}

func TestReadOnlyDiskIsNoFailure(t *testing.T) {
	s := newSite(t)
	mount(t, filepath.Dir(s.file), "size=256k")
	must(t, s.open(t).Close())
	must(t, syscall.Mount("", filepath.Dir(s.file), "", syscall.MS_REMOUNT|syscall.MS_RDONLY, ""))
	wantSays(t, s.run(t), "open queue ")
	s.wantRoots(t, s.path("a"))
}

// A limit on the size of files is announced by a signal.
func TestFileSizeLimitIsNoFailure(t *testing.T) {
	s, q := newSiteWithQueue(t)
	must(t, q.Close())
	wantSays(t, s.run(t), "")
	s.env["OUT_PATHS"] = s.path("b")
	cmd := s.command(t)
	cmd.Path, cmd.Args = "/bin/sh", []string{"sh", "-c", `ulimit -f 0; exec "$0"`, program}
	wantSays(t, finish(t, cmd), "file too large")
	s.wantRoots(t, s.path("a"), s.path("b"))
	s.wantRows(t, s.path("a"))
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

// mount makes a small file system for the time of a test.
func mount(t *testing.T, dir, options string) {
	t.Helper()
	needRoot(t)
	must(t, os.MkdirAll(dir, 0o755))
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "mode=0755,"+options); err != nil {
		t.Skipf("can't mount: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
}

// fill leaves no space on a file's disk, until free is called.
func fill(t *testing.T, file string) (free func()) {
	t.Helper()
	if out, err := exec.Command("dd", "if=/dev/zero", "of="+file, "bs=4096").CombinedOutput(); err == nil {
		t.Fatalf("the disk takes everything: %s", out)
	}
	return func() { must(t, os.Remove(file)) }
}
