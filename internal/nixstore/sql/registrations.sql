-- registrations.sql: what was registered after a row, in the order of commits.
-- (Nix has an index on DerivationOutputs.path.)
select id, path, deriver, narSize, ultimate, sigs, ca,
       exists (select 1 from DerivationOutputs o where o.path = v.path)
  from ValidPaths v
 where id > :after
 order by id
 limit :limit;
