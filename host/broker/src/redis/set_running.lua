-- Puts right what counts as running. ARGV: how old a pop must be for the store to know of it (ms), how many caps were counted, these as fields of
-- the policy, then type, tenant, id of each that runs. Answers whether everything that has a cap is given out.
local recent, caps = server_now() - tonumber(ARGV[1]), tonumber(ARGV[2])
local counted = {}
for at = 3, 2 + caps do counted[ARGV[at]] = true end
local running = {}
local function add(kind, name, id)
  local field = kind .. '_cap:' .. name
  running[field] = running[field] or {}
  running[field][id] = true
end
for at = 3 + caps, #ARGV, 3 do
  add('type', ARGV[at], ARGV[at + 2])
  add('tenant', ARGV[at + 1], ARGV[at + 2])
end
local woken, is_settled = {}, 1
begin_counts()
for _, field in ipairs(call('HKEYS', base .. 'policy')) do
  local kind, name = field:match('^(%l+)_cap:(.+)$')
  if kind then
    local key, ids = base .. 'running:' .. kind .. ':' .. name, running[field] or {}
    for _, id in ipairs(call('ZRANGEBYSCORE', key, '-inf', recent)) do
      if not ids[id] and call('ZREM', key, id) == 1 and kind == 'type' then woken[name] = true end
    end
    for id in pairs(ids) do call('ZADD', key, 'NX', 0, id) end
    if counted[field] and not is_counted(field) and call('HINCRBY', base .. 'counts', field, 1) == 2 and kind == 'type' then
      woken[name] = true
    end
    if not is_counted(field) then is_settled = 0 end
  end
end
unpark_all(woken)
wake(woken)
return is_settled
