-- Takes over the policy. ARGV: field, value of each.
local fields = {}
for at = 1, #ARGV, 2 do fields[ARGV[at]] = true end
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
