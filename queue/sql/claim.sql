-- claim.sql: take the job that has been due for longest, in one statement, so
-- that two goroutines of the worker can't take the same one.
update jobs
   set state = 'claimed',
       again = 0
 where id = (
         select id
           from jobs
          where state = 'waiting'
            and due <= :now
          order by due, id
          limit 1
       )
returning id, path, drv, attempts, added;
