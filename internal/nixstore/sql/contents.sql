-- contents.sql: for each of some rows, a JSON array, in its order: the path and the hash
-- of its NAR, or nulls.
select v.path, v.hash
  from json_each(:ids)
  left join ValidPaths v on v.id = json_each.value
 order by json_each.key;
