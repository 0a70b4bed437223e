-- Gives back the room of counted hints. ARGV: type, tenant, id of each.
local woken, tenants = {}, {}
for at = 1, #ARGV, 3 do
  local task_type, tenant, id = ARGV[at], ARGV[at + 1], ARGV[at + 2]
  local key = base .. 'running:type:' .. task_type
  -- Only room where there was none is news.
  if call('ZREM', key, id) == 1 and call('ZCARD', key) + 1 >= cap_of('type', task_type) then woken[task_type] = true end
  if call('ZREM', base .. 'running:tenant:' .. tenant, id) == 1 then tenants[tenant] = true end
end
for tenant in pairs(tenants) do
  if has_room('tenant', tenant) then unpark(tenant, woken) end
end
wake(woken)
