-- What a process runs when it connects: a server that takes no scripts or no writes, such as a
-- replica or one that is full, serves no broker.
call('SET', base .. 'hello', 1, 'PX', 60000)
