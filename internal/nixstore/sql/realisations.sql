-- realisations.sql: the realisations that some rows of outputs have, a JSON array, and
-- all that those depend on, with the rows of what each depends on directly. Up to 2.34.
with recursive need(id) as (
         select id
           from Realisations
          where outputPath in (select value from json_each(:ids))
         union
         select x.realisationReference
           from need n
           join RealisationsRefs x on x.referrer = n.id
          where x.realisationReference is not null
     )
select r.id, r.drvPath, r.outputName, v.path, r.signatures,
       (select group_concat(realisationReference)
          from RealisationsRefs
         where referrer = r.id)
  from need n
  join Realisations r on r.id = n.id
  join ValidPaths v on v.id = r.outputPath
 order by r.id;
