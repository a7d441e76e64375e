-- count_after.sql: how many registrations there are after a row.
select count(*)
  from ValidPaths
 where id > :after;
