-- What has a cap was claimed past this, by somebody who could not reach it: it is given out again when it was counted. Not again and again, or
-- one process that comes and goes would keep everybody's from being given out at all.
if call('SET', base .. 'uncounted', 1, 'NX', 'EX', 5) and call('DEL', base .. 'counts') == 1 then begin_counts() end
