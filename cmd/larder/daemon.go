package main

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"os/signal"
	"slices"
	"sync"
	"syscall"
	"time"

	sd "github.com/coreos/go-systemd/v22/daemon"
	"github.com/urfave/cli/v2"
	"golang.org/x/sync/errgroup"

	"github.com/nix-larder/larder/internal/bincache"
	"github.com/nix-larder/larder/internal/cachegc"
	"github.com/nix-larder/larder/internal/worker"
	"github.com/nix-larder/larder/queue"
	"github.com/nix-larder/larder/watcher"
)

func daemonCommand() *cli.Command {
	return &cli.Command{
		Name:  "daemon",
		Usage: "copy what comes into the store to the cache, and go on doing so",
		Description: "Stops at SIGTERM or ^C: what it has in hand is finished within --stop-timeout, the rest stays queued. " +
			"A second signal ends the waiting. While the cache's disk is full, or has less free than --min-free, it pauses, and goes on by itself when there is room.",
		Flags: slices.Concat([]cli.Flag{
			cacheFlag(), queueFlag(), compressionFlag(), workersFlag(), minFreeFlag(),
			timeFlag("stop-timeout", "30s", "LARDER_STOP_TIMEOUT", "finish what is in hand for at most `TIME`"),
			timeFlag("poll", "10s", "", "look at the queue and the store every `TIME`, also without being woken"),
			&cli.BoolFlag{Name: "json", Usage: "log in JSON"},
			failedLogsFlag(), granularityFlag(),
			timeFlag("gc-interval", "24h", "LARDER_GC_INTERVAL", "remove what the limits below do not keep every `TIME`, such as 7d, if there are any"),
		}, gcFlags(gcGrace), contentFlags(), keyFlags(), modeFlags()),
		Action: daemon,
	}
}

func daemon(c *cli.Context) error {
	goOnUnread()
	if err := noArgs(c); err != nil {
		return err
	}
	if _, err := modeOf(c, queue.Settings{}); err != nil {
		return err
	}
	if _, _, err := gcOptions(c); err != nil {
		return err
	}
	if timeOf(c, "poll") == 0 {
		return usageError("--poll leaves no time between two looks", "for example --poll 10s")
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
	d := &daemonRun{cli: c, queue: q, settings: settings, lock: lock, hurry: hurry, log: log, begin: time.Now()}
	return d.run(c.Context)
}

// A daemonRun is one run of the daemon.
type daemonRun struct {
	cli      *cli.Context
	queue    *queue.Queue
	settings queue.Settings
	lock     *queue.Lock
	hurry    <-chan struct{}
	log      *slog.Logger
	begin    time.Time
	ready    bool
	watched  watcher.Config // what the last watcher was told, if there was one
	collect  time.Time      // when the cache is to be collected next
}

// run works until ctx ends. Should the cache's directory be taken away, it waits
// for another one: a disk that is mounted anew, or a cache that was deleted and
// made again, is not the one whose entries are remembered. Settings that change are
// followed in the same way.
func (d *daemonRun) run(ctx context.Context) error {
	for ctx.Err() == nil {
		t, err := openTarget(d.cli, d.settings, targetOptions{background: true, log: d.log})
		if err != nil {
			if !d.ready {
				return err
			}
			d.log.Error("cache is unavailable", "err", err)
			if err := d.lookWithout(ctx); err != nil {
				d.log.Warn("registrations could not be looked at, will retry", "err", err)
			}
			d.wait(ctx)
			continue
		}
		err = d.runWith(ctx, t)
		t.close()
		if err != nil {
			return err
		}
		if s, err := d.queue.Settings(context.WithoutCancel(ctx)); err == nil {
			d.settings = s
		} // (ignored) with those we have it goes on
	}
	return nil
}

// lookWithout queues what comes while there is no cache, so that it is kept from the
// garbage collector.
func (d *daemonRun) lookWithout(ctx context.Context) error {
	if d.watched.Queue == nil {
		return nil // nobody is to look
	}
	store, err := openStore()
	if err != nil {
		return err
	}
	defer store.Close()
	cfg := d.watched
	cfg.Store = store
	cfg.Present = func(_ context.Context, paths []string) []bool { return make([]bool, len(paths)) }
	_, err = watcher.Look(ctx, cfg)
	return err
}

// runWith works until ctx ends, or the cache or the settings are others.
func (d *daemonRun) runWith(ctx context.Context, t *target) error {
	cfg, err := workerConfig(d.queue, d.lock, t, d.log)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	cfg.StopTimeout = timeOf(d.cli, "stop-timeout")
	cfg.Poll = d.poll()
	cfg.Hurry = d.hurry
	cfg.Alive = d.alive(ctx, t, cancel)
	if !d.ready {
		d.ready = true
		d.log.Info("ready", "version", version, "queue", d.queue.File(), "cache", t.cache.Path())
		notify(d.log, sd.SdNotifyReady)
	}
	r := newRecorder(t, useGranularity(d.cli), recordAfter*d.poll(), d.log)
	t.tell = r.tell
	watch, err := d.watching(ctx, t)
	if err != nil {
		return err
	}
	var recording sync.WaitGroup // until the worker is done with what it has in hand
	defer recording.Wait()
	working, worked := context.WithCancel(context.WithoutCancel(ctx))
	defer worked()
	recording.Go(func() { r.keepUntil(working) })
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return worker.Run(ctx, cfg) })
	g.Go(func() error { return watch(ctx) })
	g.Go(func() error { return d.collectAll(ctx, t.cache) })
	g.Go(func() error {
		newFailedLogs(d.cli, d.settings, t, d.begin, d.log).keepUntil(ctx)
		return nil
	})
	g.Go(func() error { return realiseAlways(ctx, t, d.poll(), d.log) })
	if err := g.Wait(); !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// collectAll collects every now and then, if there are limits: first when what comes at
// the start is over.
func (d *daemonRun) collectAll(ctx context.Context, cache *bincache.Cache) error {
	o, limited, err := gcOptions(d.cli)
	if err != nil || !limited {
		return err
	}
	interval := timeOf(d.cli, "gc-interval")
	if interval == 0 {
		return nil
	}
	if d.collect.IsZero() {
		d.collect = time.Now().Add(min(interval, firstCollection))
	}
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Until(d.collect)):
		}
		d.collect = time.Now().Add(interval)
		r, err := cachegc.Collect(ctx, cache, o)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err != nil:
			d.log.Error("nothing was removed from the cache", "err", err)
		case len(r.Evict)+r.Removed > 0 || r.Short > 0:
			d.log.Info("collected", "evicted", len(r.Evict), "bytes", r.Freed, "removed_bytes", r.RemovedBytes, "short", r.Short)
		}
	}
}

const firstCollection = time.Minute

// recordAfter is after how many polls what was used is put down.
const recordAfter = 6

// alive returns what is done in every round of the worker. What somebody waits for is
// not done in the background. Should the run be based on what is no longer so, it ends
// it.
func (d *daemonRun) alive(ctx context.Context, t *target, end func()) func() {
	var looked time.Time
	return func() {
		notify(d.log, sd.SdNotifyWatchdog)
		t.forget()
		if awaited, err := d.queue.Awaited(); err == nil {
			t.writer.SetBackground(!awaited)
		} // (ignored) as it was it goes on
		// In every round: what is copied on the word of another cache is not whole.
		if dir := t.replaced(); dir != "" {
			d.log.Warn("cache was replaced, opening it again", "cache", dir)
			end()
		}
		if time.Since(looked) < time.Second {
			return // a busy worker has many rounds
		}
		looked = time.Now()
		if s, err := d.queue.Settings(ctx); err == nil && s != d.settings {
			d.log.Info("settings have changed")
			end()
		} // (ignored) if the queue is in trouble, that shows elsewhere
	}
}

// watching returns the watcher, if there is to be one.
func (d *daemonRun) watching(ctx context.Context, t *target) (func(context.Context) error, error) {
	d.watched = watcher.Config{}
	mode, err := modeOf(d.cli, d.settings)
	if err != nil || mode == hookOnly {
		return func(context.Context) error { return nil }, err
	}
	cfg, err := watcherConfig(d.queue, t.view, d.settings, d.log)
	if err != nil {
		return nil, err
	}
	cfg.Poll = d.poll()
	d.watched = cfg
	looked, _ := lookedAt(ctx, d.queue, t.store) // (ignored) the watcher hears the same, and tells
	cfg.Observe = observer(t.tell, looked)
	return func(ctx context.Context) error { return watcher.Run(ctx, cfg) }, err
}

// poll returns how often to look: as often as the flag says, and as systemd's
// watchdog wants to hear of us.
func (d *daemonRun) poll() time.Duration {
	poll := timeOf(d.cli, "poll")
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
