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

-- Claim reads the first index and nothing else, however many rows there are.
-- Few rows are in the second; it finds the claims of a dead worker, and the
-- dead letters, without a scan.
create index jobs_due  on jobs (due, id) where state = 'waiting';
create index jobs_held on jobs (state, id) where state <> 'waiting';
