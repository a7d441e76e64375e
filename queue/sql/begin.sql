-- begin.sql: put the cursor somewhere.
insert into cursor (only, last, start, epoch)
values (1, :last, :start, :epoch);
