-- traces.sql: the realisations that some rows of outputs have, a JSON array. Since 2.35,
-- where a row may outlive its output.
select 0, t.drvPath, t.outputName, v.path, t.signatures, null
  from json_each(:ids) i
  join ValidPaths v on v.id = i.value
  join BuildTraceV3 t on t.outputPath = v.path
 order by t.id;
