-- edges_contents.sql: edges.sql and contents.sql in one.
select (select group_concat(reference)
          from Refs
         where referrer = json_each.value
           and reference <> json_each.value),
       v.path, v.hash, v.sigs
  from json_each(:ids)
  left join ValidPaths v on v.id = json_each.value
 order by json_each.key;
