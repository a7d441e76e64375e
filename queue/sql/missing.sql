-- missing.sql: which paths of a JSON array have no job.
select p.value
  from json_each(:paths) p
 where not exists (select 1 from jobs where path = p.value);
