-- Takes hints by the rules of queue.rs.
--
-- ARGV: now (ms), how many, ageing_after (ms), the share of the overdue, the name of this set of
-- types, how many sets have a count, whether only lanes that are named may give hints (1 or 0), the
-- number of types, the types, and lanes (type:tenant), each with the most that it may give.
--
-- Answers: whether to look in the store (1 or 0); in how many ms the next lane comes back from
-- aside (0: none is); the names of lanes; and for each hint its id and the number of its lane.
if call('EXISTS', base .. 'told') == 0 then return { 1, 0, {}, {} } end
local now, max = tonumber(ARGV[1]), tonumber(ARGV[2])
local ageing_after, aged_share = tonumber(ARGV[3]), tonumber(ARGV[4])
local counter, counters = ARGV[5], tonumber(ARGV[6])
local only_named, FIRST_TYPE, LAST_TYPE = ARGV[7] == '1', 9, 8 + tonumber(ARGV[8])

local has_policy = call('EXISTS', base .. 'policy') == 1
local asked_for, paused = {}, {}
for at = FIRST_TYPE, LAST_TYPE do asked_for[ARGV[at]] = true end

-- Whether hints of this type may be taken: it is asked for and not paused.
local function serves(task_type)
  if asked_for[task_type] and paused[task_type] == nil then
    paused[task_type] = has_policy and call('HEXISTS', base .. 'policy', 'paused:' .. task_type) == 1
  end
  return asked_for[task_type] and not paused[task_type]
end

local costs = {}
local function cost_of(tenant)
  if not costs[tenant] then
    costs[tenant] = tonumber(has_policy and call('HGET', base .. 'policy', 'cost:' .. tenant) or TURN)
  end
  return costs[tenant]
end

-- How many hints lanes that are or were aside may give (the rule of aside.rs), and in how many ms
-- the next one comes back.
local offers, back_in = {}, 0
local function offer_of(lane, till)
  -- Further ahead than ASIDE means that the clock has been set back since.
  if now < till and till - now <= ASIDE then
    if serves(lane:match('^[^:]+')) and (back_in == 0 or till - now < back_in) then back_in = till - now end
    return 0
  end
  local steps = math.floor((now - till) / ASIDE_STEP)
  if now >= till and steps < ASIDE_STEPS then return 2 ^ steps end
  call('ZREM', base .. 'aside', lane)
end

local function read_offers()
  local found = call('ZRANGE', base .. 'aside', 0, -1, 'WITHSCORES')
  for at = 1, #found, 2 do offers[found[at]] = offer_of(found[at], tonumber(found[at + 1])) end
end

local function may_give(task_type, tenant)
  local left = offers[task_type .. ':' .. tenant]
  if not left then return not only_named end
  return left > 0
end

-- Applies the caller's limits of lanes. After `catch_up`, because a limited lane has not been
-- aside. Keeps the tenants of named lanes, by type.
local named_tenants = {}
local function limit_lanes()
  local named = {}
  for at = LAST_TYPE + 1, #ARGV, 2 do
    local lane, most = ARGV[at], tonumber(ARGV[at + 1])
    named[lane], offers[lane] = true, math.min(most, offers[lane] or most)
    local task_type, tenant = lane:match('^([^:]+):(.+)$')
    named_tenants[task_type] = named_tenants[task_type] or {}
    table.insert(named_tenants[task_type], tenant)
  end
  for lane in pairs(only_named and offers or {}) do
    if not named[lane] then offers[lane] = 0 end
  end
end

-- What can be served: by level, the types that have turns, with the hints of each that were read
-- ahead.
local levels = { {}, {}, {}, {}, {} }
local function consider(pair)
  local level, task_type = pair:match('^(%d):(.+)$')
  if serves(task_type) then
    local groups = levels[tonumber(level)]
    groups[#groups + 1] = {
      level = level, type = task_type, lanes = {}, heap = {}, has = {}, changed = {}, read = 0,
      turns = base .. 'turns:' .. pair, heads = base .. 'heads:' .. pair,
    }
  end
end

local function find_groups()
  local names = LAST_TYPE - FIRST_TYPE + 1
  if names > 1000 or call('SCARD', base .. 'ready') <= 5 * names then
    for _, pair in ipairs(call('SMEMBERS', base .. 'ready')) do consider(pair) end
    return
  end
  local all = {}
  for task_type in pairs(asked_for) do
    for level = 1, 5 do all[#all + 1] = level .. ':' .. task_type end
  end
  for at, is_ready in ipairs(call('SMISMEMBER', base .. 'ready', unpack(all))) do
    if is_ready == 1 then consider(all[at]) end
  end
end

-- True turns, which of them have changed, and the clocks; written back at the end.
local shares, served, clocks = { {}, {}, {}, {}, {} }, { {}, {}, {}, {}, {} }, {}
local function share_of(level, name)
  local known = shares[tonumber(level)]
  -- A server that evicts keys may have lost it.
  if not known[name] then
    known[name] = tonumber(call('HGET', base .. 'shares:' .. level, name) or clock_of(level))
  end
  return known[name]
end

-- The order of tenants in the heap of a group, which holds those that were read ahead, the first
-- ones. A turn in it may be out of date, as in the set that it was read from.
local function before(a, b)
  if a.turn ~= b.turn then return a.turn < b.turn end
  -- Tenants of equal weight often have equal turns. Their names are compared as numbers first,
  -- which is faster than as bytes.
  if a.first ~= b.first then return a.first < b.first end
  if a.second ~= b.second then return a.second < b.second end
  return less(a.name, b.name)
end

local function entry_of(name, turn)
  local padded = name .. ('\0'):rep(12)
  return { name = name, turn = turn, first = born(padded), second = born(padded:sub(7)) }
end

local function sift_down(heap, at)
  local entry, size = heap[at], #heap
  while 2 * at <= size do
    local child = 2 * at
    if child < size and before(heap[child + 1], heap[child]) then child = child + 1 end
    if not before(heap[child], entry) then break end
    heap[at], at = heap[child], child
  end
  heap[at] = entry
end

local function remove_top(heap)
  local last = table.remove(heap)
  if heap[1] then
    heap[1] = last
    sift_down(heap, 1)
  end
end

-- While only named lanes may give hints, those are looked up: all others would be passed over one
-- by one.
local function read_named_turns(group)
  for _, tenant in ipairs(named_tenants[group.type] or {}) do
    local turn = call('ZSCORE', group.turns, tenant)
    if turn and not group.has[tenant] then
      group.heap[#group.heap + 1], group.has[tenant] = entry_of(tenant, tonumber(turn)), true
    end
  end
  group.read_all = true
  for at = math.floor(#group.heap / 2), 1, -1 do sift_down(group.heap, at) end
end

local function read_turns(group)
  if only_named then return read_named_turns(group) end
  local portion = math.max(8, math.ceil(2 * max / #levels[tonumber(group.level)]))
  local found = call('ZRANGE', group.turns, group.read, group.read + portion - 1, 'WITHSCORES')
  for at = 1, #found, 2 do
    local entry = entry_of(found[at], tonumber(found[at + 1]))
    group.heap[#group.heap + 1], group.has[entry.name] = entry, true
  end
  -- Tenants that were not read come after the last one.
  if found[1] then group.bound = entry_of(found[#found - 1], tonumber(found[#found])) end
  group.read, group.read_all = group.read + #found / 2, #found < 2 * portion
  for at = math.floor(#group.heap / 2), 1, -1 do sift_down(group.heap, at) end
end

-- A tenant has left the turns of a group, so those that were not read have moved up.
local function forget(group, name)
  if group.has[name] then
    group.has[name], group.changed[name] = nil, nil
    group.read = group.read - 1
  end
end

-- Tenants of lanes that are back from aside must not have saved up turns meanwhile.
local function catch_up()
  for lane, left in pairs(offers) do
    local task_type, tenant = lane:match('^([^:]+):(.+)$')
    for level, groups in ipairs(left > 0 and levels or {}) do
      for _, group in ipairs(groups) do
        if group.type == task_type and call('ZSCORE', group.turns, tenant) then
          local clock = clock_of(group.level)
          if share_of(group.level, tenant) < clock then
            shares[level][tenant], served[level][tenant] = clock, true
          end
        end
      end
    end
  end
end

-- The tenant whose turn comes first in a group. Corrects out-of-date turns on the way.
local function front(group)
  local heap = group.heap
  while true do
    local top = heap[1]
    if not group.read_all and (not top or before(group.bound, top)) then
      read_turns(group)
    elseif not top then
      return nil
    elseif not group.has[top.name] then
      remove_top(heap)
    elseif not may_give(group.type, top.name) then
      -- It stays in the set of turns.
      group.has[top.name] = nil
    else
      local share = share_of(group.level, top.name)
      if share == top.turn then return top end
      top.turn, group.changed[top.name] = share, share
      sift_down(heap, 1)
    end
  end
end

local function write_turns(group)
  local changed = {}
  for name, turn in pairs(group.changed) do
    changed[#changed + 1], changed[#changed + 2] = turn, name
  end
  for at = 1, #changed, 1000 do
    call('ZADD', group.turns, 'XX', unpack(changed, at, math.min(at + 999, #changed)))
  end
end

-- The first hint of a lane. Ids are read ahead in portions and removed when the lane is flushed.
local function head_of(lane)
  if lane.at > #lane.ids and not lane.read_all then
    lane.ids = call('ZRANGE', lane.key, lane.taken, lane.taken + lane.portion - 1)
    lane.at, lane.read_all = 1, #lane.ids < lane.portion
    lane.portion = math.min(2 * lane.portion, max)
  end
  return lane.ids[lane.at]
end

local function lane_in(group, name)
  local lane = group.lanes[name]
  if not lane then
    lane = lane_of(group.level, group.type, name)
    lane.group, lane.ids, lane.at, lane.taken = group, {}, 1, 0
    if not group.portion then
      local sharers = call('ZCARD', group.turns) * #levels[tonumber(group.level)]
      group.portion = math.max(1, math.ceil(max / math.max(1, sharers)))
    end
    lane.portion = group.portion
    group.lanes[name] = lane
  end
  return lane
end

-- The first hint as three numbers, which compare faster than bytes.
local function order_of(lane, head)
  if lane.numbered ~= head then
    local a, b, c, d, e, f, g, h, i, j = byte(head, 7, 16)
    lane.numbered, lane.first = head, born(head)
    lane.second = ((((a * 256 + b) * 256 + c) * 256 + d) * 256 + e) * 256 + f
    lane.third = ((g * 256 + h) * 256 + i) * 256 + j
  end
  return lane
end

local function older(a, b)
  if a.first ~= b.first then return a.first < b.first end
  if a.second ~= b.second then return a.second < b.second end
  return a.third < b.third
end

-- Lanes of which ids were taken and not removed yet.
local dirty, removed = {}, 0
local function flush_all()
  local heads = {}
  for _, lane in ipairs(dirty) do
    if lane.taken > 0 then
      call('ZREMRANGEBYRANK', lane.key, 0, lane.taken - 1)
      removed, lane.taken = removed + lane.taken, 0
      local args = heads[lane.heads] or {}
      args[#args + 1], args[#args + 2] = born(lane.ids[lane.at]), lane.tenant
      heads[lane.heads] = args
    end
    lane.is_dirty = false
  end
  for key, args in pairs(heads) do
    for at = 1, #args, 1000 do call('ZADD', key, unpack(args, at, math.min(at + 999, #args))) end
  end
  dirty = {}
end

-- A lane's last id was taken.
local function empty(lane)
  call('DEL', lane.key)
  removed, lane.taken = removed + lane.taken, 0
  forget(lane.group, lane.tenant)
  remove_lane(lane)
  -- A tenant without hints in a level leaves it.
  if call('HEXISTS', base .. 'shares:' .. lane.level, lane.tenant) == 0 then
    local level = tonumber(lane.level)
    shares[level][lane.tenant], served[level][lane.tenant] = nil, nil
  end
end

local names, numbers, taken = {}, {}, {}
local function take(lane, id, turn)
  local level, name = tonumber(lane.level), lane.type .. ':' .. lane.tenant
  lane.at, lane.taken = lane.at + 1, lane.taken + 1
  shares[level][lane.tenant], served[level][lane.tenant] = turn + cost_of(lane.tenant), true
  clocks[level] = math.max(clocks[level] or clock_of(lane.level), turn)
  if offers[name] then offers[name] = offers[name] - 1 end
  if not numbers[lane.name] then
    names[#names + 1] = lane.name
    numbers[lane.name] = #names
  end
  taken[#taken + 1], taken[#taken + 2] = id, numbers[lane.name]
  if not lane.is_dirty then
    lane.is_dirty = true
    dirty[#dirty + 1] = lane
  end
  if not head_of(lane) then empty(lane) end
end

local function pop_from(level)
  local groups, best = levels[level], nil
  for _, group in ipairs(groups) do
    local top = front(group)
    if top and (not best or before(top, best)) then best = top end
  end
  if not best then return false end
  local oldest
  for _, group in ipairs(groups) do
    if group.has[best.name] and may_give(group.type, best.name) then
      local lane = lane_in(group, best.name)
      local head = head_of(lane)
      if head and (not oldest or older(order_of(lane, head), oldest)) then oldest = order_of(lane, head) end
    end
  end
  take(oldest, oldest.numbered, best.turn)
  return true
end

-- When the oldest hint of a group was created that may be given.
local function oldest_in(group)
  if only_named then
    local oldest
    for _, tenant in ipairs(named_tenants[group.type] or {}) do
      local head = may_give(group.type, tenant) and call('ZSCORE', group.heads, tenant)
      local since = head and tonumber(head)
      if since and (not oldest or since < oldest) then oldest = since end
    end
    return oldest
  end
  local rank = 0
  local top = call('ZRANGE', group.heads, rank, rank, 'WITHSCORES')
  while top[1] and not may_give(group.type, top[1]) do
    rank = rank + 1
    top = call('ZRANGE', group.heads, rank, rank, 'WITHSCORES')
  end
  return tonumber(top[2])
end

-- The level of the oldest hint, if that one is overdue.
local function overdue_level()
  local oldest, found
  for level, groups in ipairs(levels) do
    for _, group in ipairs(groups) do
      local since = oldest_in(group)
      if since and (not oldest or since < oldest) then oldest, found = since, level end
    end
  end
  if oldest and now - oldest >= ageing_after then return found end
end

-- Whether any hint is overdue. None becomes so while this script runs, so most calls of it need to
-- check only once.
local function may_age()
  for _, groups in ipairs(levels) do
    for _, group in ipairs(groups) do
      local top = call('ZRANGE', group.heads, 0, 0, 'WITHSCORES')
      if top[2] and now - tonumber(top[2]) >= ageing_after then return true end
    end
  end
  return false
end

local function pop_all()
  local pops = tonumber(call('HGET', base .. 'pops', counter) or 0)
  local ages = pops + max >= aged_share and may_age()
  for _ = 1, max do
    local is_aged_turn, aged = pops + 1 >= aged_share, nil
    if ages and is_aged_turn then
      flush_all()
      aged = may_age() and overdue_level()
    end
    if not ((aged and pop_from(aged)) or pop_from(5) or pop_from(4) or pop_from(3) or pop_from(2) or pop_from(1)) then
      break
    end
    pops = is_aged_turn and 0 or pops + 1
  end
  flush_all()
  for _, groups in ipairs(levels) do
    for _, group in ipairs(groups) do write_turns(group) end
  end
  for level, clock in pairs(clocks) do call('HSET', base .. 'clock', level, clock) end
  for level, names_served in ipairs(served) do
    local turns = {}
    for name in pairs(names_served) do
      turns[#turns + 1], turns[#turns + 2] = name, shares[level][name]
    end
    for at = 1, #turns, 1000 do
      call('HSET', base .. 'shares:' .. level, unpack(turns, at, math.min(at + 999, #turns)))
    end
  end
  if removed > 0 then call('DECRBY', base .. 'depth', removed) end
  if #taken > 0 then
    if call('HEXISTS', base .. 'pops', counter) == 0 and call('HLEN', base .. 'pops') >= counters then
      call('DEL', base .. 'pops')
    end
    call('HSET', base .. 'pops', counter, pops)
  end
end

local function look_in_store()
  if call('EXISTS', base .. 'epoch') == 0 then return 1 end
  for _, task_type in ipairs(call('SMEMBERS', base .. 'dry')) do
    if serves(task_type) then return 1 end
  end
  return 0
end

if next(asked_for) then read_offers() end
if max > 0 and next(asked_for) then
  find_groups()
  catch_up()
  limit_lanes()
  pop_all()
end
return { look_in_store(), back_in, names, taken }
