-- retry.sql: make a job due now, with all its attempts before it again.
update jobs
   set state    = 'waiting',
       attempts = 0,
       due      = :now
 where path = :path
   and state <> 'claimed';
