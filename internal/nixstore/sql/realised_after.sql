-- realised_after.sql: which realisations came after a row, and the rows of their outputs.
-- Up to 2.34.
select id, outputPath
  from Realisations
 where id > :after
 order by id
 limit :limit;
