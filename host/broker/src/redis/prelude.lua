-- Shared by the scripts: each is this file and its own after it.
--
-- All keys begin with KEYS[1], which is one hash tag, so that a cluster keeps them in one slot and
-- a script may touch them all.
--
--   lane:<level>:<type>:<tenant>  sorted set: ids (16 bytes) by the milliseconds in them; ids of
--   one
--                                 millisecond are ordered by their bytes
--   turns:<level>:<type>          sorted set: tenants with hints there, by turn. An entry may be
--   out
--                                 of date; it is corrected when it comes first
--   heads:<level>:<type>          sorted set: the same tenants by the milliseconds of their first
--                                 hint
--   ready                         set: <level>:<type> that have turns, so that a pop of 200 types
--                                 does not probe 1,000 keys
--   shares:<level>                hash: tenant -> its true turn, while it has hints in that level
--   lines:<level>                 hash: tenant -> of how many types it has hints in that level
--   clock                         hash: level -> the highest turn that was served. It only grows: a
--                                 double counts the hints of 40 years at 10,000 a second and still
--                                 tells turns apart by less than one hint
--   aside                         sorted set: <type>:<tenant> by the millisecond until which the
--                                 lane gives nothing, because a claim found its cap reached. It
--                                 stays in the set until it may give all its hints again
--   short                         hash: lane -> the least id that may be unknown, of lanes that
--   have
--                                 overflowed
--   dropped                       hash: lane -> the least id that was dropped since its refill
--   began dry:<type>                    set: lanes that have overflowed and are empty; `dry` names
--   the
--                                 types
--   policy                        hash: paused:<type>, cost:<tenant>
--   told                          exists when a policy was set since the last loss. While it does
--                                 not, no hint is given out
--   pops                          hash: set of types -> hints popped since the last overdue one
--   depth                         number of hints in all lanes
--   fleet                         the fleet that owns the queues
--   epoch                         exists while every pending task is known or its lane is short;
--                                 `rebuild` names the rebuild that is due
--
-- Channels: `wake` (types, comma-separated, or *) and `signals`.
local base = KEYS[1] .. ':'
local call = redis.call
local byte = string.byte

-- Two fleets that were given the same server and prefix by mistake would set each other's pauses
-- and give out each other's tasks. Every script checks the owner, because Redis may forget it along
-- with everything else.
if FLEET ~= '' then
  local owner = call('GET', base .. 'fleet')
  if not owner then
    call('SET', base .. 'fleet', FLEET)
  elseif owner ~= FLEET then
    return redis.error_reply(OTHER_FLEET .. ' ' .. owner)
  end
end

-- Compares bytes. Lua's own `<` follows the locale of the server.
local function less(a, b)
  for i = 1, math.min(#a, #b) do
    local x, y = byte(a, i), byte(b, i)
    if x ~= y then return x < y end
  end
  return #a < #b
end

-- The first 48 bits as a number: of a UUIDv7, when it was made, in milliseconds.
local function born(id)
  local a, b, c, d, e, f = byte(id, 1, 6)
  return ((((a * 256 + b) * 256 + c) * 256 + d) * 256 + e) * 256 + f
end

local function lane_of(level, task_type, tenant)
  local pair = level .. ':' .. task_type
  local name = pair .. ':' .. tenant
  return {
    level = level, type = task_type, tenant = tenant, pair = pair, name = name,
    key = base .. 'lane:' .. name, turns = base .. 'turns:' .. pair, heads = base .. 'heads:' .. pair,
  }
end

-- Wakes the waiting pops of these types.
local function wake(types)
  local names = {}
  for name in pairs(types) do names[#names + 1] = name end
  if #names > 0 then call('PUBLISH', base .. 'wake', table.concat(names, ',')) end
end

local function clock_of(level) return tonumber(call('HGET', base .. 'clock', level) or 0) end

local function mark_dry(lane, is_dry)
  local key = base .. 'dry:' .. lane.type
  if is_dry then
    call('SADD', key, lane.name)
    call('SADD', base .. 'dry', lane.type)
  elseif call('SREM', key, lane.name) == 1 and call('EXISTS', key) == 0 then
    call('SREM', base .. 'dry', lane.type)
  end
end

-- Adds a lane to those that take turns. A tenant that arrives starts behind the current turn.
local function into_turns(lane, head)
  local share = call('HGET', base .. 'shares:' .. lane.level, lane.tenant)
  if not share then
    local cost = tonumber(call('HGET', base .. 'policy', 'cost:' .. lane.tenant) or TURN)
    share = clock_of(lane.level) + cost
    call('HSET', base .. 'shares:' .. lane.level, lane.tenant, share)
  end
  call('ZADD', lane.turns, share, lane.tenant)
  call('ZADD', lane.heads, head, lane.tenant)
  call('SADD', base .. 'ready', lane.pair)
end

local function add_lane(lane, head)
  call('HINCRBY', base .. 'lines:' .. lane.level, lane.tenant, 1)
  into_turns(lane, head)
end

local function out_of_turns(lane)
  call('ZREM', lane.turns, lane.tenant)
  call('ZREM', lane.heads, lane.tenant)
  if call('EXISTS', lane.turns) == 0 then call('SREM', base .. 'ready', lane.pair) end
end

-- A lane has no more hints.
local function remove_lane(lane)
  out_of_turns(lane)
  if call('HINCRBY', base .. 'lines:' .. lane.level, lane.tenant, -1) == 0 then
    call('HDEL', base .. 'lines:' .. lane.level, lane.tenant)
    call('HDEL', base .. 'shares:' .. lane.level, lane.tenant)
  end
  if call('HEXISTS', base .. 'short', lane.name) == 1 then mark_dry(lane, true) end
end

-- Updates what depends on a lane's hints, of which there were `before`.
local function settle(lane, before)
  local head = call('ZRANGE', lane.key, 0, 0, 'WITHSCORES')
  local now = call('ZCARD', lane.key)
  if now ~= before then call('INCRBY', base .. 'depth', now - before) end
  if now > 0 and before == 0 then
    add_lane(lane, head[2])
    mark_dry(lane, false)
  elseif now > 0 and not call('ZSCORE', lane.turns, lane.tenant) then
    -- Its turn can be missing: an earlier version removed those of lanes at their caps, and an
    -- eviction may take any key.
    into_turns(lane, head[2])
  elseif now > 0 then
    call('ZADD', lane.heads, head[2], lane.tenant)
  elseif before > 0 then
    remove_lane(lane)
  end
end

-- From this id on nothing is known in the lane.
local function lower(lane, id)
  local from = call('HGET', base .. 'short', lane.name)
  if not from or less(id, from) then call('HSET', base .. 'short', lane.name, id) end
end

local function note_dropped(lane, id)
  local least = call('HGET', base .. 'dropped', lane.name)
  if not least or less(id, least) then call('HSET', base .. 'dropped', lane.name, id) end
end

-- Adds ids to a lane, which drops its last ones if it gets too full. Answers how many are new.
local function insert(lane, ids, capacity)
  if #ids == 0 then return 0 end
  local before = call('ZCARD', lane.key)
  local fresh = 0
  for at = 1, #ids, 500 do
    local pairs_of = {}
    for i = at, math.min(at + 499, #ids) do
      pairs_of[#pairs_of + 1] = born(ids[i])
      pairs_of[#pairs_of + 1] = ids[i]
    end
    fresh = fresh + call('ZADD', lane.key, 'NX', unpack(pairs_of))
  end
  local over = before + fresh - capacity
  if over > 0 then
    local gone = call('ZPOPMAX', lane.key, over)
    lower(lane, gone[#gone - 1])
    fresh = fresh - over
  end
  settle(lane, before)
  return fresh
end
