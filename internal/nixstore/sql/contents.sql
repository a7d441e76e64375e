-- contents.sql: for each of some rows, a JSON array, in its order: the path, the hash of
-- its NAR, and its signatures with spaces between them, or nulls.
select v.path, v.hash, v.sigs
  from json_each(:ids)
  left join ValidPaths v on v.id = json_each.value
 order by json_each.key;
