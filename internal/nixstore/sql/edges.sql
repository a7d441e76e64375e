-- edges.sql: for each of some rows, a JSON array, in its order: the rows of what that
-- path refers to, itself excepted, with commas between them.
select (select group_concat(reference)
          from Refs
         where referrer = json_each.value
           and reference <> json_each.value)
  from json_each(:ids)
 order by json_each.key;
