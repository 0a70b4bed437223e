-- Lapses are counted apart from attempts: a process that dies costs its tasks none.

-- Times that its worker died or fell silent, since it was created or last requeued by an operator. Each
-- claim ends as an attempt, as a lapse, or handed back.
alter table tasks add column lapses integer not null default 0
    check (lapses >= 0 and run_lease >= attempt + lapses);
