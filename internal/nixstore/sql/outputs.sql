-- outputs.sql: the valid outputs of a derivation that Nix knows.
select o.path
  from DerivationOutputs o
  join ValidPaths d on d.id = o.drv
  join ValidPaths v on v.path = o.path
 where d.path = :drv
 order by o.path;
