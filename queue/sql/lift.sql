-- lift.sql: take the cursor away, unless somebody else has moved it.
delete from cursor
 where last = :last
   and start = :start
   and epoch = :epoch;
