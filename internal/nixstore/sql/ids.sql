-- ids.sql: for each of some paths, a JSON array, in its order: its row, or null.
select v.id
  from json_each(:paths)
  left join ValidPaths v on v.path = json_each.value
 order by json_each.key;
