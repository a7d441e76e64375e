-- add.sql: put the paths of a JSON array into the queue, all or none. One that is
-- there is made due: at once if it waits or is a dead letter (which then has one
-- more attempt), and after the copy at hand if it is claimed.
insert into jobs (path, drv, added, due)
select value, :drv, :now, :now
  from json_each(:paths)
 where true -- or SQLite takes "on conflict" for a join
on conflict (path) do update
   set state = iif(state = 'dead', 'waiting', state),
       again = iif(state = 'claimed', 1, again),
       due   = min(due, excluded.due),
       drv   = iif(excluded.drv = '', drv, excluded.drv);
