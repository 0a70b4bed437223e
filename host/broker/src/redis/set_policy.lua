-- Sets the policy. ARGV: field, value of each.
call('DEL', base .. 'policy')
for at = 1, #ARGV, 1000 do
  call('HSET', base .. 'policy', unpack(ARGV, at, math.min(at + 999, #ARGV)))
end
call('SET', base .. 'told', 1)
wake({ ['*'] = true })
