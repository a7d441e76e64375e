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
//	.larder/recompressed      which NARs need not be compressed once more
//	.larder/retired           until when files stay that nobody needs
//	.larder/removals          a word that changes when entries are removed
//	.larder/pins/             what is kept whatever its use
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
// rewrite the times of its files. A record is text, and has one writer. It is never changed,
// but for one of a daemon's day, which is replaced by a longer one now and then:
//
//	larder-run 1
//	ended 2026-11-21T08:00:00Z
//	bytes 1234567                  of the files of what was added, if known
//	added <hash>-<name> 12.5       with the seconds that its build took, if known
//	used <hash>-<name>             it was there already, with all that it needs
//	end
//
// A line "summary" says that it is no run, but what tells of runs whose own records are
// gone, and lines "gone <hash>-<name>" what entries were removed. Lines of another kind are skipped, so whatever a record says without them must be
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
// # What goes
//
// NARs that no entry names any more, since their entries were removed or name others, and
// what else belonged to entries, stay for a while: those who read the cache, over HTTP above
// all, remember what an entry said. Lists to which lines are added with the lock held say
// until when, and what was compressed once more, or in vain:
//
//	larder-retired 1
//	until 2026-11-21T08:00:00Z nar/<filehash>.nar.zst
//
//	larder-recompressed 1
//	tried zstd:19 nar/<filehash>.nar.zst
//
// Lines that are cut off, or of another kind, are skipped. A higher version can't be read.
// Times of files mean nothing in a cache that is copied to and fro.
//
// # Removing beside those who add
//
// Adding takes no lock. So that nobody relies on what is being removed, this is the order:
//
//  1. the word of removals is another one, and says that some are under way,
//  2. narinfos, or NARs, are moved to the trash, referrers first,
//  3. the word is another one again,
//  4. narinfos that are new since before 1 are read, and what those need is moved back,
//  5. the word says that nothing is under way.
//
// Whoever adds reads that word before he looks at the first entry, and again when his
// entries are in place. If it is the same, and nothing is under way, either nothing that he
// saw was moved, or his entries were there before 4. If not, he looks at all of them once
// more. Who is killed before 5 leaves a word that has others finish what he began.
//
// So an entry may lack something for the moment from 2 to 4, if it was added in that
// moment, and for longer if then both are killed: the one who adds before his second look,
// and the one who removes before 4.
//
// On a disk without any room the word is overwritten where it is, and if nobody else reads the
// cache, the first narinfos are not moved to the trash but to unfinished files, which the one
// who removes deletes after 4, with their NARs. So nothing has them back then for one who is
// killed between, and a sweeper has what is left if the one who removes is killed.
//
// # Pins
//
// A pin is a file of text whose name is that of the pin. It has what the name stood for,
// oldest first:
//
//	larder-pin 1
//	since 2026-11-21T08:00:00Z
//	path <hash>-<name>
//	end
package bincache
