-- drop.sql: forget a claimed job, unless somebody added it again meanwhile.
delete from jobs
 where id = :id
   and state = 'claimed'
   and again = 0;
