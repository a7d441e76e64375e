-- newest.sql: what was registered last, newest first.
select id, path
  from ValidPaths
 order by id desc
 limit :limit;
