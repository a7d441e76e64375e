-- registration.sql: the registration of one path.
select id, path, deriver, narSize, ultimate, sigs, ca,
       exists (select 1 from DerivationOutputs o where o.path = v.path)
  from ValidPaths v
 where path = :path;
