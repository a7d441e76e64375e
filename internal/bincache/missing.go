package bincache

// ReaderDirs are the directories that some version of Nix makes when it opens a cache,
// be it to read: where it may not, all of the cache is of no use to it.
var ReaderDirs = []string{"nar", logsDir, realisationsDir, buildTraceDir}

// Missing returns the directories that the cache has lost, and that some version of Nix
// can't read it without.
func (c *Cache) Missing() []string {
	var missing []string
	for _, dir := range ReaderDirs {
		if info, err := c.root.Stat(dir); err != nil || !info.IsDir() {
			missing = append(missing, dir)
		}
	}
	return missing
}
