-- release.sql: put a claimed job back, to wait or to be dead. One that was added
-- again meanwhile waits, and is due at once.
update jobs
   set state    = iif(again, 'waiting', :state),
       attempts = :attempts,
       error    = :error,
       due      = iif(again, :now, :due),
       again    = 0
 where id = :id
   and state = 'claimed';
