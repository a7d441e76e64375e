-- list.sql: every job, dead letters last, otherwise in the order of claims.
select path, drv, state, attempts, added, due, error
  from jobs
 order by state = 'dead', due, id;
