-- add_again.sql: a path that is there is made due: at once if it waits or is a dead
-- letter (which then has one more attempt), and after the copy at hand if it is
-- claimed.
on conflict (path) do update
   set state = iif(state = 'dead', 'waiting', state),
       again = iif(state = 'claimed', 1, again),
       due   = min(due, excluded.due),
       drv   = iif(excluded.drv = '', drv, excluded.drv);
