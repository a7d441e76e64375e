-- go_back.sql: put the cursor back, and make all registrations the queue's business.
update cursor
   set start = 0,
       last  = min(last, :last);
