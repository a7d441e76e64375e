-- The first schema. See ../README.md for what the columns mean.
create table settings (
  name  text primary key,
  value text not null
) strict, without rowid;

create table jobs (
  id       integer primary key,
  path     text    not null unique,
  drv      text    not null default '',
  state    text    not null default 'waiting'
           check (state in ('waiting', 'claimed', 'dead')),
  again    integer not null default 0,
  attempts integer not null default 0,
  added    integer not null,
  due      integer not null,
  error    text    not null default ''
) strict;

-- Everything but a list of all jobs reads this index, however many rows there
-- are. (Partial indexes would not do: SQLite can't tell that what is dead is not
-- waiting.)
create index jobs_by_state on jobs (state, due);
