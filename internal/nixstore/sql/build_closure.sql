-- build_closure.sql: the closures of some paths, a JSON array, and of all valid outputs
-- of the derivations in them, as by nix-store -qR --include-outputs.
with recursive need(id) as (
         select v.id
           from json_each(:paths) p
           join ValidPaths v on v.path = p.value
         union
         select r.reference
           from need n
           join Refs r on r.referrer = n.id
         union
         select v.id
           from need n
           join DerivationOutputs o on o.drv = n.id
           join ValidPaths v on v.path = o.path
     )
select v.path
  from need n
  join ValidPaths v on v.id = n.id
 order by v.path;
