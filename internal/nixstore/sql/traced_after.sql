-- traced_after.sql: which realisations came after a row, and the rows of their outputs,
-- or null where that is gone. Since 2.35.
select t.id, v.id
  from BuildTraceV3 t
  left join ValidPaths v on v.path = t.outputPath
 where t.id > :after
 order by t.id
 limit :limit;
