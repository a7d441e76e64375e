-- next_due.sql: when the next job is due.
select due
  from jobs
 where state = 'waiting'
 order by due, id
 limit 1;
