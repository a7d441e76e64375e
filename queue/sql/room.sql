-- room.sql: the bound of the queue, if it has one, and how many jobs are still to be done.
select value,
       (select count(*) from jobs where state = 'waiting') +
       (select count(*) from jobs where state = 'claimed')
  from settings
 where name = 'max_queue'
   and value not in ('', '0');
