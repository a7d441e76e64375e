-- derivers.sql: which derivations in the store have a path as an output.
select d.path
  from DerivationOutputs o
  join ValidPaths d on d.id = o.drv
 where o.path = :path
 order by d.path;
