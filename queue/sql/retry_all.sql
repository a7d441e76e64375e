-- retry_all.sql: the same for every dead letter and every job that waits for
-- its next attempt.
update jobs
   set state    = 'waiting',
       attempts = 0,
       due      = :now
 where state = 'dead'
    or (state = 'waiting' and due > :now);
