-- forget_seen.sql: of what has been looked at remember the newest few only. What
-- was there at the start is kept too.
delete from seen
 where id > (select start from cursor)
   and id not in (select id from seen order by id desc limit :keep);
