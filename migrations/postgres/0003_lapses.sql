-- Lapses are counted apart from attempts: a worker that dies costs its tasks none.

-- The rows that are there have no lapses and kept the old rule, so they keep the new one: it need not be
-- checked against a table of millions while everybody waits.
alter table tasks
    -- Times that its worker died or fell silent, since it was created or last requeued by an operator.
    add column lapses smallint not null default 0,
    drop constraint tasks_lease,
    -- Each claim ends as an attempt, as a lapse, or handed back.
    add constraint tasks_lease check (lapses >= 0 and run_lease >= attempt + lapses) not valid;
