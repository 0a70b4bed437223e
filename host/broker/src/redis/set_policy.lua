-- Takes over the policy. ARGV: field, value of each.
local fields, has_caps = {}, false
for at = 1, #ARGV, 2 do
  local field = ARGV[at]
  fields[field] = true
  if field:match('^%l+_cap:') then
    has_caps = true
    if call('HEXISTS', base .. 'policy', field) == 0 then call('HDEL', base .. 'counts', field) end
  end
end
for _, field in ipairs(call('HKEYS', base .. 'policy')) do
  local kind, name = field:match('^(%l+)_cap:(.+)$')
  -- What has no cap is not counted. A cap that comes back starts with what the store says.
  if kind and not fields[field] then
    call('DEL', base .. 'running:' .. kind .. ':' .. name)
    call('HDEL', base .. 'counts', field)
  end
end
call('DEL', base .. 'policy')
for at = 1, #ARGV, 1000 do
  call('HSET', base .. 'policy', unpack(ARGV, at, math.min(at + 999, #ARGV)))
end
call('SET', base .. 'told', has_caps and 'caps' or 'free')
unpark_all({})
wake({ ['*'] = true })
