-- see.sql: remember registrations, a JSON array of [row, path].
insert or replace into seen (id, path)
select value ->> 0, value ->> 1
  from json_each(:seen);
