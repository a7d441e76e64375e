-- id.sql: the row of a valid path.
select id
  from ValidPaths
 where path = :path;
