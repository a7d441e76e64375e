// Package bincache is the format of a binary cache in a directory: what is where,
// how it is read, and how one file is published, or taken over from another cache.
//
//	nix-cache-info            the store directory; every file is made with its mode
//	<hash>.narinfo            one per store path; its presence is the promise
//	nar/<filehash>.nar.zst    compressed contents, named by their own hash
//	<hash>.ls                 what is in the NAR, if that was asked for
//	log/<drv>                 the log of a derivation's build, as plain text
//	realisations/  build-trace-v2/
//	                          which store path an output is: see Realisation. Some
//	                          Nix makes these and log/ when it opens a cache, and
//	                          fails without where it may not write
//	.larder/tmp/              unfinished files, each flocked by its writer
//	.larder/runs/             one record per run: which entries it used
//	.larder/settings          what those who write to the cache agree on
//	.larder/recompressed      which NARs were replaced by smaller ones
//	.larder/trash/            what is being removed
//	.larder/lock              for what changes entries, never for adding
//	CACHEDIR.TAG, .gitignore, .keep in every directory
//
// The layout is Nix's (src/libstore/binary-cache-store.cc). Any number of
// processes may add to a cache at the same time: a file is written below tmp and
// appears under its name complete, by link(2).
//
// A cache in which nothing is missing is opened, and found writable, without a
// change to any file or time: CI providers need not save again what is unchanged.
//
// # Run records
//
// When an entry was last used is told by run records alone: those who copy a cache
// rewrite the times of its files. A record is text, and never changed:
//
//	larder-run 1
//	ended 2026-11-21T08:00:00Z
//	added <hash>-<name> 12.5       with the seconds that its build took, if known
//	used <hash>-<name>             it was there already
//	end
//
// Lines of another kind are skipped, so whatever a record says without them must be
// true. What would mislead a larder that does not know it has a higher version: that
// record can't be read, and nobody may conclude from the others that an entry is
// unused.
//
// # Settings
//
// What all who write to a cache have to agree on, it remembers itself, as text that a
// person may edit:
//
//	larder-settings 1
//	compression zstd:19
//
// Lines of another kind stay when it is rewritten. A higher version can't be read.
//
// # Recompressed NARs
//
// An entry may be given another NAR, with the same in it. The old one stays for a while,
// since those who read the cache over HTTP remember what an entry said. A list of such
// NARs, to which lines are added with the lock held, says since when they wait, and which
// NARs were compressed in vain:
//
//	larder-recompressed 1
//	replaced 2026-11-21T08:00:00Z nar/<filehash>.nar.zst
//	tried zstd:19 nar/<filehash>.nar.zst
//
// Lines that are cut off, or of another kind, are skipped. A higher version can't be read.
// A NAR that goes is moved to the trash first, where nobody can get at it any more, and
// comes back if it is another file than the one that nobody named.
package bincache
