-- add_one.sql: put one path into the queue, for those in a hurry: SQLite sets up a
-- list for longer than it takes to insert one row. add_again.sql comes behind it.
insert into jobs (path, drv, added, due)
values (:path, :drv, :now, :now)
