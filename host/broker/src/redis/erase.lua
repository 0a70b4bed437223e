-- Deletes every key of this fleet. It scans the names of all keys of the server, so it is for
-- fleets that are thrown away.
local cursor = '0'
repeat
  local found = call('SCAN', cursor, 'MATCH', base .. '*', 'COUNT', 1000)
  cursor = found[1]
  for _, key in ipairs(found[2]) do call('DEL', key) end
until cursor == '0'
