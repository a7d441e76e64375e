-- find.sql: one job.
select path, drv, state, attempts, added, due, error
  from jobs
 where path = :path;
