-- realised.sql: the highest numbers that a realisation was ever given, in both of Nix's
-- tables, or nulls: neither is there, or has rows, before somebody turns ca-derivations
-- on. (A table without that of its references is from Nix 2.4, which later ones change.)
select (select seq
          from sqlite_sequence
         where name = 'Realisations'
           and exists (select 1 from sqlite_master where type = 'table' and name = 'RealisationsRefs')),
       (select seq
          from sqlite_sequence
         where name = 'BuildTraceV3');
