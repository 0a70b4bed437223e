-- Adds the tasks that follow in a lane; `Short::refilled` of queue/short.rs has the reasons. ARGV:
-- capacity, level, type, tenant, after or '', is it all (1 or 0), ids in order.
local capacity, lane = tonumber(ARGV[1]), lane_of(ARGV[2], ARGV[3], ARGV[4])
local after, is_all, blob = ARGV[5], ARGV[6] == '1', ARGV[7]
local last = #blob > 0 and blob:sub(-16) or after
-- The least string that is greater than an id is the id and one byte more.
local reached = last ~= '' and last .. '\0' or nil

local function known_up_to()
  local from = call('HGET', base .. 'short', lane.name)
  local is_complete = call('EXISTS', base .. 'epoch') == 1
  if not from then
    if is_all or is_complete then return nil end
    return reached
  end
  -- A rebuild begins: the loss may have taken hints from what was known before.
  if after == '' and not is_complete then from = ('\0'):rep(16) end
  if after ~= '' and not less(after, from) then return from end
  local to
  if not is_all then to = (reached and less(from, reached)) and reached or from end
  local dropped = call('HGET', base .. 'dropped', lane.name)
  if dropped and (not to or less(dropped, to)) then
    to = dropped
    call('HDEL', base .. 'dropped', lane.name)
  end
  return to
end

-- Hints pushed since the loss would overtake tasks that are not known yet.
local function drop_beyond(from)
  local before = call('ZCARD', lane.key)
  while true do
    local top = call('ZREVRANGE', lane.key, 0, 99)
    local gone = 0
    while top[gone + 1] and not less(top[gone + 1], from) do gone = gone + 1 end
    if gone > 0 then call('ZPOPMAX', lane.key, gone) end
    if gone < 100 then break end
  end
  settle(lane, before)
end

local from = known_up_to()
if from then
  call('HSET', base .. 'short', lane.name, from)
  drop_beyond(from)
else
  call('HDEL', base .. 'short', lane.name)
  call('HDEL', base .. 'dropped', lane.name)
end
local ids = {}
for at = 1, #blob, 16 do
  local id = blob:sub(at, at + 15)
  if not from or less(id, from) then ids[#ids + 1] = id end
end
if insert(lane, ids, capacity) > 0 then wake({ [lane.type] = true }) end
mark_dry(lane, from and call('EXISTS', lane.key) == 0)
