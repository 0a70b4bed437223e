-- The database of a TaskForge fleet.
--
-- Conventions: times are microseconds since the Unix epoch (to_timestamp(created_at / 1e6) reads them), durations say their unit in the
-- name. Every row belongs to a tenant, or hangs by its task_id on one that does. There are no foreign keys: a child row is written in the
-- transaction that writes its task and goes with it, and a check on each insert would cost a search. Names are compared byte by byte
-- ("C"): it is faster than a language's rules, and an index cannot break when those rules change under it.
--
-- What decides the speed is how many trees a task's life touches. A task that succeeds at once touches: tasks (insert, update, update),
-- attempts (insert), tasks_pending and tasks_running (insert). The other indexes hold only states that such a task never has.
--
-- Tasks and what hangs by them live in partitions of a week each, by the time inside a task's id (UUIDv7). What is old is forgotten by
-- dropping a partition. Few and large partitions, because a statement locks every partition that its plan knows.

create table tasks (
    id                uuid     not null,
    tenant            text     collate "C" not null,
    task_type         text     collate "C" not null,
    state             text     collate "C" not null
                      check (state in ('scheduled', 'pending', 'running', 'completed', 'failed', 'cancelled')),
    -- 1 is the lowest, 5 the highest.
    priority          smallint not null check (priority between 1 and 5),
    -- Attempts begun since it was created or last requeued by an operator.
    attempt           integer  not null default 0 check (attempt >= 0),
    -- Grows at every claim and never resets: the fence.
    run_lease         bigint   not null default 0,
    max_retries       bigint   not null check (max_retries >= 0),
    retry_base_ms     bigint   not null check (retry_base_ms >= 0),
    retry_cap_ms      bigint   not null check (retry_cap_ms >= 0),
    created_at        bigint   not null,
    run_at            bigint   not null,
    -- Of the latest attempt.
    started_at        bigint,
    finished_at       bigint,
    -- Who holds it while it runs. A task that was cancelled while it ran keeps it until that attempt has been recorded, so that
    -- no other attempt passes for it.
    worker            uuid,
    -- Of the last attempt that failed.
    error_kind        text     collate "C",
    error_message     text,
    -- Errors that differ only in numbers and names have the same.
    error_fingerprint bigint,
    -- Of the running attempt.
    progress          double precision check (progress between 0.0 and 1.0),
    progress_note     text,
    -- JSON text, byte for byte as it came. A row above two kilobytes has it put apart, where the updates of a task's life do not copy it.
    input             text     not null,

    primary key (id),
    constraint tasks_lease check (run_lease >= attempt),
    constraint tasks_running check (state <> 'running' or (worker is not null and started_at is not null and attempt >= 1)),
    constraint tasks_worker check (worker is null or state in ('running', 'cancelled')),
    constraint tasks_finished check ((finished_at is not null) = (state in ('completed', 'failed', 'cancelled'))),
    constraint tasks_failed check (state <> 'failed' or error_kind is not null),
    constraint tasks_completed check (state <> 'completed' or error_kind is null),
    constraint tasks_error check ((error_kind is null) = (error_message is null) and (error_kind is null) = (error_fingerprint is null)),
    constraint tasks_progress check (progress is null or state = 'running'),
    constraint tasks_progress_note check (progress_note is null or progress is not null)
) partition by range (id);

-- Lanes, one after the other, each in the order of its tasks' ids: refills, and the claim without a broker.
create index tasks_pending on tasks (tenant, task_type, priority, id) where state = 'pending';

-- What a worker holds.
create index tasks_running on tasks (worker) where state = 'running';

-- What is due.
create index tasks_scheduled on tasks (run_at) where state = 'scheduled';

-- The states that are rare among many, for lists. Completed tasks are what a walk along the primary key meets.
create index tasks_rare on tasks (tenant, state, id) where state in ('scheduled', 'failed', 'cancelled');

-- Dead letters of one kind.
create index tasks_dead on tasks (tenant, error_fingerprint, id) where state = 'failed';

-- One row an attempt, written in the statement that ends it. The result of a completed task is the output of the attempt with the task's
-- run_lease.
create table attempts (
    task_id         uuid     not null,
    run_lease       bigint   not null check (run_lease >= 1),
    number          integer  not null check (number >= 1),
    -- True: this attempt moved its task. False: the task was cancelled under it.
    moved_task      boolean  not null,
    worker          uuid     not null,
    plugin_version  text     not null,
    plugin_digest   bytea    not null check (length(plugin_digest) = 32),
    started_at      bigint   not null,
    finished_at     bigint   not null,
    -- Null for a completed attempt.
    failure_kind    text     collate "C",
    failure_message text,
    retry_after_ms  bigint   check (retry_after_ms >= 0),
    fuel            bigint   not null check (fuel >= 0),
    peak_memory     bigint   not null check (peak_memory >= 0),
    wall_micros     bigint   not null check (wall_micros >= 0),
    host_calls      bigint   not null check (host_calls >= 0),
    http_requests   bigint   not null check (http_requests >= 0),
    http_bytes      bigint   not null check (http_bytes >= 0),
    -- A JSON array of {at, level, message}; null for none.
    logs            text,
    -- Of a completed attempt: JSON text, byte for byte.
    output          text,

    primary key (task_id, run_lease),
    constraint attempts_failure check ((failure_kind is null) = (failure_message is null)),
    constraint attempts_output check ((failure_kind is null) = (output is not null))
) partition by range (task_id);

create sequence events_seq;

-- What happened to a task outside an attempt, in the order of seq.
create table events (
    task_id         uuid     not null,
    seq             bigint   not null default nextval('events_seq'),
    at              bigint   not null,
    kind            text     collate "C" not null check (kind in ('cancelled', 'requeued', 'lapsed', 'handed_back')),
    run_lease       bigint   not null,
    detail          text     not null,

    primary key (task_id, seq)
) partition by range (task_id);

-- The least id of a moment: 48 bits of milliseconds, then nothing.
create function taskforge_first_id(moment timestamptz) returns uuid
language sql immutable parallel safe
return (lpad(to_hex(floor(extract(epoch from moment) * 1000)::bigint), 12, '0') || repeat('0', 20))::uuid;

-- The first moment of a partition, from its name: tasks_20260105 holds the week that begins on that day.
create function taskforge_week(partition name) returns timestamptz
language sql stable parallel safe
return to_timestamp(substring(partition from '_(\d{8})$') || ' 00 +00', 'YYYYMMDD HH24 TZH');

-- Makes the partitions of every week from one moment to another. Returns how many weeks were missing.
create function taskforge_make_partitions(first_moment timestamptz, last_moment timestamptz) returns integer
language plpgsql as $$
declare
    week   timestamptz := date_trunc('week', first_moment, 'UTC');
    after  timestamptz;
    parent text;
    key    text;
    child  text;
    made   integer := 0;
begin
    while week <= last_moment loop
        after := week + interval '7 days';
        if to_regclass('tasks_' || to_char(week at time zone 'UTC', 'YYYYMMDD')) is null then
            foreach parent in array array['tasks', 'attempts', 'events'] loop
                key := case parent when 'tasks' then 'id' else 'task_id' end;
                child := parent || '_' || to_char(week at time zone 'UTC', 'YYYYMMDD');
                -- Made apart and then attached: "create table ... partition of" would lock out every reader.
                execute format('create table %I (like %I including defaults including constraints) with (%s)',
                               child, parent, taskforge_storage(parent));
                -- Rows that were there before their partition wait in the default one, and would be in the way.
                execute format('with early as (delete from %I where %I >= %L and %I < %L returning *) insert into %I select * from early',
                               parent || '_default', key, taskforge_first_id(week), key, taskforge_first_id(after), child);
                execute format('alter table %I attach partition %I for values from (%L) to (%L)',
                               parent, child, taskforge_first_id(week), taskforge_first_id(after));
            end loop;
            made := made + 1;
        end if;
        week := after;
    end loop;
    return made;
end
$$;

-- How a partition is stored.
--
-- Room is left on each page for the next versions of its rows. Every row of tasks has three versions and all entries of tasks_pending die
-- young, so vacuum is called early (after a twentieth of the rows) and may work without pauses: it is cheap while what it reads is cached.
create function taskforge_storage(parent text) returns text
language sql immutable parallel safe
return case parent
    when 'tasks' then 'fillfactor = 80, toast_tuple_target = 512, autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_threshold = 5000, '
        || 'autovacuum_analyze_scale_factor = 0.1, autovacuum_vacuum_cost_delay = 0'
    else 'toast_tuple_target = 512'
end;

-- The tasks that must stay when the partition that begins at a moment is dropped: those that have not ended, or ended at the cutoff or later.
-- At most so many. Reads the whole partition, so it is asked before anything is locked.
create function taskforge_kept(week timestamptz, cutoff bigint, bound integer) returns uuid[]
language plpgsql as $$
declare
    kept uuid[];
begin
    execute format('select array(select id from %I where finished_at is null or finished_at >= $1 limit $2)',
                   'tasks_' || to_char(week at time zone 'UTC', 'YYYYMMDD'))
        into kept using cutoff, bound;
    return kept;
end
$$;

-- Drops the partition that begins at a moment, after it has moved what must stay into the default one: the tasks that are named, and those that
-- have not ended (somebody may just have requeued one), which indexes find. Whoever reads or writes tasks waits meanwhile. Returns how many
-- tasks were moved.
create function taskforge_drop_partition(week timestamptz, kept uuid[]) returns integer
language plpgsql as $$
declare
    suffix text := '_' || to_char(week at time zone 'UTC', 'YYYYMMDD');
    parent text;
    open   uuid[];
begin
    foreach parent in array array['tasks', 'attempts', 'events'] loop
        execute format('alter table %I detach partition %I', parent, parent || suffix);
    end loop;
    execute format('select array(select id from %1$I where state = ''pending'' union all select id from %1$I where state = ''running'' '
                   'union all select id from %1$I where state = ''scheduled'')', 'tasks' || suffix)
        into open;
    kept := array(select unnest(kept) union select unnest(open));
    foreach parent in array array['tasks', 'attempts', 'events'] loop
        execute format('insert into %I select * from %I where %I = any ($1)', parent, parent || suffix,
                       case parent when 'tasks' then 'id' else 'task_id' end) using kept;
        execute format('drop table %I', parent || suffix);
    end loop;
    return cardinality(kept);
end
$$;

-- For ids whose time no partition is for: made by a clock that is wrong, not of version 7, or older than their partition.
create table tasks_default partition of tasks default;
create table attempts_default partition of attempts default;
create table events_default partition of events default;

-- Some days back: a client's clock may be slow.
select taskforge_make_partitions(now() - interval '3 days', now() + interval '15 days');

-- One row a boot of a worker. It is deleted when the worker stops cleanly; lapsed_at is set when it was found silent for longer than its
-- lease, and then never unset.
create table workers (
    id              uuid     not null primary key,
    host            text     not null,
    pid             bigint   not null,
    started_at      bigint   not null,
    lease_ms        bigint   not null check (lease_ms >= 0),
    heartbeat_at    bigint   not null,
    lapsed_at       bigint
) with (fillfactor = 50);

-- Who sweeps. The term grows with each change of leader: whoever acts under an older one is refused.
create table leadership (
    name            text     not null primary key,
    -- Null once resigned.
    holder          uuid,
    term            bigint   not null,
    expires_at      bigint   not null
);

-- What operators have said about sharing the fleet out. What is not named has the defaults.
create table type_policies (
    task_type       text     collate "C" not null primary key,
    paused          boolean  not null,
    max_running     bigint   check (max_running >= 0)
);

create table tenant_policies (
    tenant          text     collate "C" not null primary key,
    weight          integer  not null check (weight between 1 and 1000),
    max_running     bigint   check (max_running >= 0)
);
