-- built_by.sql: what says of itself that a derivation built it. Nix has no index
-- for this; it is for derivations that Nix does not know, such as those that a
-- remote builder is told to build, and content-addressed ones.
select path
  from ValidPaths
 where deriver = :drv
 order by path;
