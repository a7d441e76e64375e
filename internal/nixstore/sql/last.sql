-- last.sql: the highest number that a valid path was ever given. SQLite notes it for
-- columns that are autoincrement.
select seq
  from sqlite_sequence
 where name = 'ValidPaths';
