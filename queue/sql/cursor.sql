-- cursor.sql: the cursor, once for each registration that is remembered, or once if
-- there is none. One statement, so that they belong together.
select c.last, c.start, c.epoch, s.id, s.path
  from cursor c
  left join seen s on true
 order by s.id;
