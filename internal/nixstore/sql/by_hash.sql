-- The path below a directory whose name begins with a hash, and its NAR hash. All such
-- paths are together in the index.
select path, hash from ValidPaths where path > :from and path < :to limit 1
