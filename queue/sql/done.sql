-- done.sql: forget a claimed job.
delete from jobs
 where id = :id
   and state = 'claimed';
