-- Begins the refill of lanes that have overflowed and are less than half full, the emptiest first.
-- ARGV: capacity, how many at most. Answers for each its name, the least id that may be unknown,
-- and its number of hints.
local capacity, most = tonumber(ARGV[1]), tonumber(ARGV[2])
local found = {}
local short = call('HGETALL', base .. 'short')
for at = 1, #short, 2 do
  local len = call('ZCARD', base .. 'lane:' .. short[at])
  if 2 * len < capacity then found[#found + 1] = { short[at], short[at + 1], len } end
end
table.sort(found, function(a, b) return a[3] < b[3] end)
for at = #found, most + 1, -1 do found[at] = nil end
for _, lane in ipairs(found) do call('HDEL', base .. 'dropped', lane[1]) end
return found
