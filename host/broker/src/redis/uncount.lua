-- What has a cap was claimed past this, by somebody who could not reach it: it is given out again when it was counted.
if call('DEL', base .. 'counts') == 1 then begin_counts() end
