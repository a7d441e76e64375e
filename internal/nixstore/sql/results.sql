-- results.sql: those of some paths, a JSON array, that none of the others needs, to run or
-- to be built: nothing that they or their derivations need refers to them, but for other
-- outputs of the same derivation, or to a derivation that they are an output of. What has
-- a content address and no derivation is a source, and no result.
--
-- Of a content-addressed derivation Nix does not know the outputs before they are built. It
-- builds another one, in which those of its inputs stand as they turned out to be, just as
-- sources do: that one is the deriver, and refers to what it needs, but not to whose output
-- that is. So one output that is needed stands for all of the same derivation.
with recursive
     mine(id, path, deriver) as (
         select v.id, v.path, v.deriver
           from json_each(:paths) p
           join ValidPaths v on v.path = p.value
          where coalesce(v.ca, '') = ''
             or coalesce(v.deriver, '') <> ''
             or exists (select 1 from DerivationOutputs o where o.path = v.path)
     ),
     makes(drv, id) as (
         select o.drv, m.id
           from mine m
           join DerivationOutputs o on o.path = m.path
         union
         select d.id, m.id
           from mine m
           join ValidPaths d on d.path = m.deriver
     ),
     need(id) as (
         select id from mine
         union
         select drv from makes
         union
         select r.reference
           from need n
           join Refs r on r.referrer = n.id
     )
select m.path
  from mine m
 where not exists (
         select 1
           from makes k
           join Refs r on r.reference = k.drv and r.referrer <> k.drv
           join need n on n.id = r.referrer
          where k.id = m.id
       )
   and not exists (
         select 1
           from Refs r
           join need n on n.id = r.referrer
          where r.reference = m.id
            and r.referrer <> m.id
            and not exists (
                  select 1
                    from makes a
                    join makes b on b.drv = a.drv
                   where a.id = m.id
                     and b.id = r.referrer
                )
            and not exists ( -- it may not be here, if they were downloaded
                  select 1
                    from ValidPaths b
                   where b.id = r.referrer
                     and b.deriver = m.deriver
                )
       )
   and not exists (
         select 1
           from makes a
           join makes b on b.drv = a.drv
           join Refs r on r.reference = b.id
           join need n on n.id = r.referrer
           join ValidPaths d on d.id = r.referrer
          where a.id = m.id
            and d.path like '%.drv'
       )
 order by m.path;
