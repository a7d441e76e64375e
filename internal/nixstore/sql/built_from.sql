-- built_from.sql: for those of some paths, a JSON array, that were built here, the
-- derivation that built them, if it is valid.
select v.path, d.path
  from json_each(:paths) p
  join ValidPaths v on v.path = p.value
  join ValidPaths d on d.path = v.deriver
 where v.ultimate = 1;
