-- paths.sql: which paths the rows of a JSON array are for, as far as there are any.
select id, path
  from ValidPaths
 where id in (select value from json_each(:ids))
 order by id;
