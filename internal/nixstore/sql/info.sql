-- info.sql: all that Nix knows of one valid path but its references.
select path, hash, narSize, deriver, sigs, ca
  from ValidPaths
 where id = :id;
