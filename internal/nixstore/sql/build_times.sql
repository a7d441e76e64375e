-- build_times.sql: when builds ran, at most: from when the last of their inputs was
-- registered to when they were. It counts for one output of each derivation. (The
-- references of a derivation are its inputs.)
with built as (
        select v.deriver, min(v.path) as path, max(v.registrationTime) as done
          from json_each(:paths) p
          join ValidPaths v on v.path = p.value
         where v.ultimate = 1
         group by v.deriver
     )
select b.path,
       max(d.registrationTime, coalesce((
           select max(i.registrationTime)
             from Refs r
             join ValidPaths x on x.id = r.reference
             left join DerivationOutputs o on o.drv = x.id
             join ValidPaths i on i.path = coalesce(o.path, x.path)
            where r.referrer = d.id
       ), 0)) as begin,
       b.done
  from built b
  join ValidPaths d on d.path = b.deriver;
