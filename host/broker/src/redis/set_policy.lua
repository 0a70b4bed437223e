-- Takes over the policy. ARGV: field, value of each.
local fields, has_caps, is_counted = {}, false, call('GET', base .. 'counted') == 'yes'
for at = 1, #ARGV, 2 do
  local field = ARGV[at]
  fields[field] = true
  if field:match('^%l+_cap:') then
    has_caps = true
    -- What runs of this was not counted while it had no cap.
    if call('HEXISTS', base .. 'policy', field) == 0 then is_counted = false end
  end
end
call('SET', base .. 'counted', (is_counted or not has_caps) and 'yes' or 'no')
for _, field in ipairs(call('HKEYS', base .. 'policy')) do
  local kind, name = field:match('^(%l+)_cap:(.+)$')
  -- What has no cap is not counted. A cap that comes back starts with what the store says.
  if kind and not fields[field] then call('DEL', base .. 'running:' .. kind .. ':' .. name) end
end
call('DEL', base .. 'policy')
for at = 1, #ARGV, 1000 do
  call('HSET', base .. 'policy', unpack(ARGV, at, math.min(at + 999, #ARGV)))
end
unpark_all({})
wake({ ['*'] = true })
