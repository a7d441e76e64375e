-- done_by.sql: forget a claimed job, unless somebody said meanwhile that another
-- derivation has built its path.
delete from jobs
 where id = :id
   and state = 'claimed'
   and (again = 0 or drv = :drv);
