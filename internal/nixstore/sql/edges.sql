-- edges.sql: the rows of what a path refers to, itself excepted.
select reference
  from Refs
 where referrer = :id
   and reference <> :id;
