-- How far Nix's registrations have been looked at.
create table cursor (
  only  integer primary key check (only = 1),
  last  integer not null,
  start integer not null,
  epoch text    not null
) strict;

create table seen (
  id   integer primary key,
  path text    not null
) strict;
