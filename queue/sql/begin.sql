-- begin.sql: put the cursor somewhere.
insert or replace into cursor (only, last, start, epoch)
values (1, :last, :start, :epoch);
