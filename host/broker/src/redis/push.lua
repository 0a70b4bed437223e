-- Adds hints. ARGV: capacity of a lane, until when their lanes are aside (ms; 0: they are not),
-- then for each lane: level, type, tenant, ids.
local capacity, aside_until = tonumber(ARGV[1]), tonumber(ARGV[2])
local woken = {}

-- A lane that has overflowed takes only hints that belong before every task that it does not know.
local function admitted(lane, blob)
  local from = call('HGET', base .. 'short', lane.name)
  local ids, dropped = {}, nil
  for at = 1, #blob, 16 do
    local id = blob:sub(at, at + 15)
    if not from or less(id, from) then
      ids[#ids + 1] = id
    elseif not dropped or less(id, dropped) then
      dropped = id
    end
  end
  if dropped then note_dropped(lane, dropped) end
  return ids
end

for at = 3, #ARGV, 4 do
  local lane = lane_of(ARGV[at], ARGV[at + 1], ARGV[at + 2])
  if insert(lane, admitted(lane, ARGV[at + 3]), capacity) > 0 then woken[lane.type] = true end
  if aside_until > 0 then call('ZADD', base .. 'aside', aside_until, lane.type .. ':' .. lane.tenant) end
end
-- The caller that puts lanes aside is about to pop again, and waits for them then.
if aside_until == 0 then wake(woken) end
