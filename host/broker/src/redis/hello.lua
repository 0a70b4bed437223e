-- Run by a process when it connects: a server that takes no scripts or no writes, such as a replica
-- or one that is full, cannot serve a broker.
call('SET', base .. 'hello', 1, 'PX', 60000)
