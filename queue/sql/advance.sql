-- advance.sql: move the cursor, unless somebody else has moved it.
update cursor
   set last = :last
 where last = :from;
