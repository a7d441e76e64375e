package main

import (
	"context"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"time"

	sd "github.com/coreos/go-systemd/v22/daemon"
	"github.com/urfave/cli/v2"

	"github.com/nix-larder/larder/internal/worker"
	"github.com/nix-larder/larder/queue"
)

func daemonCommand() *cli.Command {
	return &cli.Command{
		Name:  "daemon",
		Usage: "copy what is in the queue to the cache, and go on doing so",
		Description: "Stops at SIGTERM or ^C: what it has in hand is finished within --stop-timeout, the rest stays queued. " +
			"A second signal ends the waiting.",
		Flags: []cli.Flag{
			cacheFlag(), queueFlag(), compressionFlag(), workersFlag(),
			&cli.DurationFlag{Name: "stop-timeout", Value: 30 * time.Second, EnvVars: []string{"LARDER_STOP_TIMEOUT"}, Usage: "how long to finish what is in hand"},
			&cli.DurationFlag{Name: "poll", Value: 10 * time.Second, Usage: "how often to look at the queue without being woken"},
			&cli.BoolFlag{Name: "json", Usage: "log in JSON"},
		},
		Action: daemon,
	}
}

func daemon(c *cli.Context) error {
	if err := noArgs(c); err != nil {
		return err
	}
	q, settings, err := openQueue(c, c.String("cache") != "")
	if err != nil {
		return err
	}
	defer q.Close()
	lock, err := q.Lock()
	if err != nil {
		return err
	}
	defer lock.Unlock()

	log := newLog(c.Bool("json"))
	hurry, stopListening := secondSignal(c.Context, log)
	defer stopListening()
	// Those who wait for the end should know that it has begun.
	stopNotifying := context.AfterFunc(c.Context, func() { notify(log, sd.SdNotifyStopping) })
	defer stopNotifying()
	d := &daemonRun{cli: c, queue: q, settings: settings, lock: lock, hurry: hurry, log: log}
	return d.run(c.Context)
}

// forgetEvery is how long a daemon remembers what is in the cache.
const forgetEvery = time.Minute

// A daemonRun is one run of the daemon.
type daemonRun struct {
	cli      *cli.Context
	queue    *queue.Queue
	settings queue.Settings
	lock     *queue.Lock
	hurry    <-chan struct{}
	log      *slog.Logger
	ready    bool
}

// run works until ctx ends. Should the cache's directory be taken away, it waits
// for another one: a disk that is mounted anew, or a cache that was deleted and
// made again, is not the one whose entries are remembered.
func (d *daemonRun) run(ctx context.Context) error {
	for ctx.Err() == nil {
		t, err := openTarget(d.cli, d.settings, true, d.log)
		if err != nil {
			if !d.ready {
				return err
			}
			d.log.Error("cache is unavailable", "err", err)
			d.wait(ctx)
			continue
		}
		err = d.runWith(ctx, t)
		t.close()
		if err != nil {
			return err
		}
	}
	return nil
}

// runWith works until ctx ends or the cache is another one.
func (d *daemonRun) runWith(ctx context.Context, t *target) error {
	cfg, err := workerConfig(d.queue, d.lock, t, d.log)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	forgot := time.Now()
	cfg.StopTimeout = d.cli.Duration("stop-timeout")
	cfg.Poll = d.poll()
	cfg.Hurry = d.hurry
	cfg.Alive = func() {
		notify(d.log, sd.SdNotifyWatchdog)
		if t.cache.Replaced() {
			d.log.Warn("cache was replaced, opening it again", "cache", t.cache.Path())
			cancel()
		}
		if time.Since(forgot) > forgetEvery {
			t.writer.Forget()
			forgot = time.Now()
		}
	}
	if !d.ready {
		d.ready = true
		d.log.Info("ready", "version", version, "queue", d.queue.File(), "cache", t.cache.Path())
		notify(d.log, sd.SdNotifyReady)
	}
	err = worker.Run(ctx, cfg)
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// poll returns how often to look: as often as the flag says, and as systemd's
// watchdog wants to hear of us.
func (d *daemonRun) poll() time.Duration {
	poll := d.cli.Duration("poll")
	watchdog, err := sd.SdWatchdogEnabled(false)
	if err != nil {
		d.log.Warn("systemd's watchdog is set in a way that can't be read", "err", err)
	}
	if watchdog > 0 {
		poll = min(poll, watchdog/3)
	}
	return poll
}

func (d *daemonRun) wait(ctx context.Context) {
	notify(d.log, sd.SdNotifyWatchdog)
	select {
	case <-ctx.Done():
	case <-time.After(d.poll()):
	}
}

// notify tells systemd, where NOTIFY_SOCKET says that it listens.
func notify(log *slog.Logger, state string) {
	if _, err := sd.SdNotify(false, state); err != nil {
		log.Warn("systemd could not be told", "state", state, "err", err)
	}
}

// secondSignal returns a channel that is closed at the second signal to stop.
func secondSignal(ctx context.Context, log *slog.Logger) (hurry <-chan struct{}, stop func()) {
	closed := make(chan struct{})
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM)
	go func() {
		<-ctx.Done()
		if _, ok := <-signals; !ok { // the first
			return
		}
		if s, ok := <-signals; ok {
			log.Warn("hurrying", "signal", s)
			close(closed)
		}
	}()
	return closed, func() {
		signal.Stop(signals)
		close(signals)
	}
}
