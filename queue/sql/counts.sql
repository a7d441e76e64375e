-- counts.sql: how many jobs are in each state.
select (select count(*) from jobs where state = 'waiting'),
       (select count(*) from jobs where state = 'claimed'),
       (select count(*) from jobs where state = 'dead');
