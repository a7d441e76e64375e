package integration

import (
	"encoding/json"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// A cacheStatus is what larder status --cache --json prints.
type cacheStatus struct {
	Cache         string `json:"cache"`
	Entries       int    `json:"entries"`
	Damaged       int    `json:"damaged"`
	Bytes         int64  `json:"bytes"`
	NarBytes      int64  `json:"nar_bytes"`
	Shared        int    `json:"shared"`
	SharedBytes   int64  `json:"shared_bytes"`
	WaitingFiles  int    `json:"waiting_files"`
	WaitingBytes  int64  `json:"waiting_bytes"`
	PinnedEntries int    `json:"pinned_entries"`
	PinnedBytes   int64  `json:"pinned_bytes"`
	Pins          []struct {
		Name            string `json:"name"`
		Versions, Paths int
	} `json:"pins"`
	OldestUse *time.Time `json:"oldest_use"`
	NewestUse *time.Time `json:"newest_use"`
	Undated   int        `json:"undated"`
	Runs      []struct {
		Ended   time.Time `json:"ended"`
		Added   int       `json:"added"`
		Bytes   int64     `json:"bytes"`
		Used    int       `json:"used"`
		HitRate *float64  `json:"hit_rate"`
	} `json:"runs"`
	GC *struct {
		Evicted      int   `json:"evicted"`
		EvictedBytes int64 `json:"evicted_bytes"`
		Pinned       int   `json:"pinned"`
		Recent       int   `json:"recent"`
		Short        int64 `json:"short"`
	} `json:"gc"`
}

func (m *machine) cacheStatus(t *testing.T, cache string, args ...string) (s cacheStatus) {
	t.Helper()
	out := m.run(t, append([]string{"larder", "status", "--json", "--cache", cache}, args...)...)
	d := json.NewDecoder(strings.NewReader(out))
	d.DisallowUnknownFields()
	must(t, d.Decode(&s))
	return s
}

// fileBytes returns how large the files of a cache are that belong to entries.
func fileBytes(t *testing.T, cache string) (sum int64) {
	t.Helper()
	must(t, filepath.WalkDir(cache, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			if d != nil && d.Name() == ".larder" {
				return fs.SkipDir
			}
			return err
		}
		name := strings.TrimPrefix(path, cache+"/")
		if dir := filepath.Dir(name); d.Name() != ".keep" && (dir == "nar" || dir == "log" || strings.HasSuffix(name, ".narinfo")) {
			info, err := d.Info()
			must(t, err)
			sum += info.Size()
		}
		return nil
	}))
	return sum
}

// What status says of a cache is what is in the directory, and what gc does.
func TestStatusOfACacheIsTrue(t *testing.T) {
	eachNix(t, func(t *testing.T, n nix) {
		l, top := pusher(t, n)
		all := l.closure(t, top)
		l.push(t, top)
		l.ageRuns(t, 40*24*time.Hour)
		same := l.build(t, "--expr", `let d = import /larder/graphs/derive.nix; in map (name: d name { } "echo the same > $out") [ "same-a" "same-b" ]`)
		l.push(t, append(same, top)...)
		l.run(t, "larder", "pin", "--cache", l.cache, "kept", same[0])
		before := everything(t, l.cache)
		nowhere := withoutStore(t, n)
		s := nowhere.cacheStatus(t, l.cache)
		unchanged(t, "cache", before, everything(t, l.cache))

		if s.Cache != "file://"+l.cache || s.Entries != len(all)+2 || s.Damaged != 0 || s.Bytes != fileBytes(t, l.cache) || s.NarBytes != l.size(t, append(slices.Clone(all), same...)...) {
			t.Errorf("status is %+v, want %d entries of %d bytes", s, len(all)+2, fileBytes(t, l.cache))
		}
		sizes := make(map[string][]int64) // by NAR, of each entry
		shared, sharedBytes := 0, int64(0)
		for _, e := range entries(t, l.cache) {
			sizes[e.nar] = append(sizes[e.nar], e.size)
		}
		for _, of := range sizes {
			if len(of) > 1 {
				shared, sharedBytes = shared+len(of), sharedBytes+int64(len(of)-1)*of[0]
			}
		}
		if shared < 2 || s.Shared != shared || s.SharedBytes != sharedBytes {
			t.Errorf("status is %+v, want %d shared, which saves %d bytes", s, shared, sharedBytes)
		}
		if len(s.Pins) != 1 || s.Pins[0].Name != "kept" || s.PinnedEntries != 1 || s.PinnedBytes <= 0 {
			t.Errorf("status is %+v", s)
		}
		if len(s.Runs) != 2 {
			t.Fatalf("runs are %+v", s.Runs)
		}
		if r := s.Runs[0]; r.Added != len(all) || r.Used != 0 || *r.HitRate != 0 || r.Bytes == 0 {
			t.Errorf("first run is %+v", r)
		}
		if r := s.Runs[1]; r.Added != 2 || r.Used != len(all) || *r.HitRate < 0.5 || r.Bytes == 0 {
			t.Errorf("second run is %+v", r)
		}
		if s.Undated != 0 || !s.NewestUse.Equal(s.Runs[1].Ended) || !s.OldestUse.Equal(s.Runs[1].Ended) || s.GC != nil {
			t.Errorf("status is %+v", s)
		}

		// What gc would do is what it does.
		l.forgetRuns(t)
		l.push(t, "--use-granularity", "0s", top)
		l.ageRuns(t, 40*24*time.Hour)
		other := l.buildOne(t, "other")
		l.push(t, other)
		if s := nowhere.cacheStatus(t, l.cache); s.Undated != 2 || s.NewestUse.Sub(*s.OldestUse) < 39*24*time.Hour {
			t.Errorf("status is %+v", s)
		}
		s = nowhere.cacheStatus(t, l.cache, "--max-age", "30d")
		if s.GC == nil || s.GC.Evicted == 0 || s.GC.Pinned != 1 {
			t.Fatalf("status is %+v", s)
		}
		l.run(t, "larder", "gc", "--cache", l.cache, "--max-age", "30d")
		after := nowhere.cacheStatus(t, l.cache, "--max-age", "30d")
		if after.Entries != s.Entries-s.GC.Evicted || after.Bytes != s.Bytes-s.GC.EvictedBytes || after.GC.Evicted != 0 || after.WaitingFiles == 0 || after.WaitingBytes == 0 {
			t.Errorf("status is %+v, want %d entries less than in %+v", after, s.GC.Evicted, s)
		}
		if text := nowhere.run(t, "larder", "status", "--cache", l.cache, "--max-size", "1k"); !strings.Contains(text, "would remove") || !strings.Contains(text, "recorded") || !strings.Contains(text, "waiting") {
			t.Errorf("it says %s", text)
		}
	})
}

func TestStatusOfACacheOfOthers(t *testing.T) {
	eachNix(t, func(t *testing.T, n nix) {
		m := newMachine(t, n)
		one, two := m.buildOne(t, "one"), m.buildOne(t, "two")
		cache := filepath.Join(tempDir(t), "cache")
		m.run(t, "nix", "copy", "--to", "file://"+cache, one, two)
		must(t, os.Remove(filepath.Join(cache, entries(t, cache)[two].nar)))
		before := everything(t, cache)
		s := m.cacheStatus(t, cache, "--max-size", "10")
		if s.Entries != 1 || s.Damaged != 1 || s.NarBytes != m.size(t, one) || s.Undated != 1 || len(s.Runs) != 0 || s.OldestUse != nil || s.GC.Evicted != 2 { // what is damaged takes room as well
			t.Errorf("status is %+v", s)
		}
		m.run(t, "larder", "status", "--cache", cache)
		unchanged(t, "cache", before, everything(t, cache))
		refusal{1, "no such file", "larder init"}.of(t, m, "larder", "status", "--cache", cache+".not")
		refusal{2, "--max-size is for a cache", "larder status --cache"}.of(t, m, "larder", "status", "--max-size", "5G")
		refusal{2, "no cache is named", "name one"}.of(t, m, "larder", "status", "--cache", "")
	})
}
