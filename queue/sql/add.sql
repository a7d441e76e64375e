-- add.sql: put the paths of a JSON array into the queue, all or none. add_again.sql
-- comes behind it.
insert into jobs (path, drv, added, due)
select value, :drv, :now, :now
  from json_each(:paths)
 where true -- or SQLite takes "on conflict" for a join
