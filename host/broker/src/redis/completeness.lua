-- ARGV: ask | mark | lose, and a name for a rebuild. A rebuild gets its name when a loss is
-- noticed, and only the rebuild of the present name can mark its end: one that began before another
-- loss has not replaced what that loss took.
local epoch, rebuild = base .. 'epoch', base .. 'rebuild'
if ARGV[1] == 'lose' then
  call('DEL', epoch)
  call('SET', rebuild, ARGV[2])
elseif ARGV[1] == 'mark' then
  if call('GET', rebuild) ~= ARGV[2] then return '' end
  call('SET', epoch, ARGV[2])
  call('DEL', rebuild)
elseif call('EXISTS', epoch) == 0 then
  call('SET', rebuild, ARGV[2], 'NX')
  return call('GET', rebuild)
end
return 'complete'
