-- Puts right what counts as running. ARGV: how old a pop must be for the store to know of it (ms), then type, tenant, id of each.
local recent = server_now() - tonumber(ARGV[1])
local running = {}
local function add(kind, name, id)
  local field = kind .. ':' .. name
  running[field] = running[field] or {}
  running[field][id] = true
end
for at = 2, #ARGV, 3 do
  add('type', ARGV[at], ARGV[at + 2])
  add('tenant', ARGV[at + 1], ARGV[at + 2])
end
local woken = {}
-- Not while nobody has said what the policy is: after a loss that comes first.
if call('GET', base .. 'counted') == 'no' then
  call('SET', base .. 'counted', 'yes')
  wake({ ['*'] = true })
end
for _, field in ipairs(call('HKEYS', base .. 'policy')) do
  local kind, name = field:match('^(%l+)_cap:(.+)$')
  if kind then
    local key, ids = base .. 'running:' .. kind .. ':' .. name, running[kind .. ':' .. name] or {}
    for _, id in ipairs(call('ZRANGEBYSCORE', key, '-inf', recent)) do
      if not ids[id] and call('ZREM', key, id) == 1 and kind == 'type' then woken[name] = true end
    end
    for id in pairs(ids) do call('ZADD', key, 'NX', 0, id) end
  end
end
unpark_all(woken)
wake(woken)
