// Package cachegc decides which entries of a binary cache go, and removes them.
//
// # What goes
//
// An entry was used when a run ended that names it, or something that needs it; ages count
// back from the newest run, and not from today, so that a cache that nobody uses for a year
// is as it was. What no record tells of counts as used by the newest run, from the first
// collection on that sees it. Pins, and the newest runs if the policy says so, keep
// closures whatever the limits are. An entry whose NAR is lost is one like any other: who
// mends it needs what it refers to, and if nobody does, it gets old. While a narinfo is
// there that may not be read, nothing goes, since it may need anything.
//
// Of what is left, that goes first which was not used for the longest time, and whoever
// refers to others before them. So what is there is whole at every moment.
//
// # How it goes
//
//	survey ──▶ plan ──▶ dates ──▶ evict ──▶ fold ──▶ sweep
//
// All of it is done with the cache's lock held, which those who add do not need. Dates that
// only the records of entries told that go are put down first. Then narinfos are moved to
// the trash, and files that nobody needs any more are retired: NARs, listings, logs,
// realisations. The package comment of bincache says how those who add entries meanwhile
// come to know of it. Old records of runs are folded into one for each day; where no runs are
// recorded, what collections have put down themselves is, as it was if that makes few of them.
// What has been in the trash or retired for the time of grace is removed.
//
// It takes a little room to note what goes. If there is none, the logs and listings of what is
// to go make some, and what waits; and with no grace, as the last resort, what goes first goes
// at once, with nothing noted. So it ends with an error on a full disk only if others may be
// reading.
//
// Killed at any moment, the cache is whole, and the next collection goes on. If it was
// killed while others added entries that refer to what it was removing, these may lack
// something until [Heal] or the next collection.
package cachegc
