-- reclaim.sql: return what a dead worker had in hand.
update jobs
   set state = 'waiting',
       again = 0
 where state = 'claimed';
