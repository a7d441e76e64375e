-- info.sql: for each of some rows, a JSON array, in its order: all that Nix knows of
-- that path, and what it refers to, itself included if it does, with spaces between
-- them. Without such a path everything is null.
select v.path, v.hash, v.narSize, v.deriver, v.sigs, v.ca,
       (select group_concat(x.path, ' ')
          from Refs r
          join ValidPaths x on x.id = r.reference
         where r.referrer = v.id)
  from json_each(:ids)
  left join ValidPaths v on v.id = json_each.value
 order by json_each.key;
