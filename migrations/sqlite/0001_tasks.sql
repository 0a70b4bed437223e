-- The embedded database of TaskForge.
--
-- Conventions: ids are the 16 bytes of a UUID, times are microseconds since the Unix epoch, durations say their unit in the name.
-- Every row belongs to a tenant, or hangs by its task_id on one that does. There are no foreign keys: a child row is written in the
-- transaction that writes its task and deleted in the one that deletes it, and a check on each insert would cost a search.
--
-- What decides the speed is how many trees a task's life touches. A task that succeeds at once touches: tasks (insert, update, update),
-- task_inputs (insert), attempts (insert), tasks_pending and tasks_running (insert, delete). The other indexes hold only states that
-- such a task never has.

-- 'TFRG': tells our file from any other database, before anything is written to it.
pragma application_id = 1413894727;

create table tasks (
    id             blob    not null primary key check (length(id) = 16),
    tenant         text    not null,
    task_type      text    not null,
    state          text    not null
                   check (state in ('scheduled', 'pending', 'running', 'completed', 'failed', 'cancelled')),
    -- 1 is the lowest, 5 the highest.
    priority       integer not null check (priority between 1 and 5),
    -- Attempts begun since it was created or last requeued by an operator.
    attempt        integer not null default 0 check (attempt >= 0),
    -- Grows at every claim and never resets: the fence.
    run_lease      integer not null default 0,
    max_retries    integer not null check (max_retries >= 0),
    retry_base_ms  integer not null check (retry_base_ms >= 0),
    retry_cap_ms   integer not null check (retry_cap_ms >= 0),
    created_at     integer not null,
    run_at         integer not null,
    -- Of the latest attempt.
    started_at     integer,
    finished_at    integer,
    -- Who holds it while it runs. A task that was cancelled while it ran keeps it until that attempt has been recorded, so that
    -- no other attempt passes for it.
    worker         blob    check (length(worker) = 16),
    -- Of the last attempt that failed.
    error_kind     text,
    error_message  text,
    -- Of the running attempt.
    progress       real    check (progress between 0.0 and 1.0),
    progress_note  text,

    check (run_lease >= attempt),
    check (state <> 'running' or (worker is not null and started_at is not null and attempt >= 1)),
    check (worker is null or state in ('running', 'cancelled')),
    check ((finished_at is not null) = (state in ('completed', 'failed', 'cancelled'))),
    check (state <> 'failed' or error_kind is not null),
    check (state <> 'completed' or error_kind is null),
    check ((error_kind is null) = (error_message is null)),
    check (progress is null or state = 'running'),
    check (progress_note is null or progress is not null)
) strict, without rowid;

-- The order of a claim without a broker; also every pending task by id, one range for each priority. The type is in it so that a
-- worker that serves few types skips the others without looking at their rows.
create index tasks_pending on tasks (priority desc, id, task_type) where state = 'pending';

-- What a worker holds, for the sweeper.
create index tasks_running on tasks (worker) where state = 'running';

-- What is due.
create index tasks_scheduled on tasks (run_at) where state = 'scheduled';

-- The states that are rare among many, for lists. Pending and running tasks are found by their own indexes, and completed ones are
-- what a walk along the primary key meets.
create index tasks_rare on tasks (tenant, state, id) where state in ('scheduled', 'failed', 'cancelled');

-- Inputs apart from tasks, so that the two updates of a task's life never copy its input.
create table task_inputs (
    task_id        blob    not null primary key check (length(task_id) = 16),
    input          text    not null
) strict, without rowid;

-- One row an attempt, written in the transaction that ends it. The result of a completed task is the output of the attempt with
-- the task's run_lease.
create table attempts (
    task_id        blob    not null check (length(task_id) = 16),
    run_lease      integer not null check (run_lease >= 1),
    number         integer not null check (number >= 1),
    -- 1: this attempt moved its task. 0: the task was cancelled under it.
    moved_task     integer not null check (moved_task in (0, 1)),
    worker         blob    not null check (length(worker) = 16),
    plugin_version text    not null,
    plugin_digest  blob    not null check (length(plugin_digest) = 32),
    started_at     integer not null,
    finished_at    integer not null,
    -- Null for a completed attempt.
    failure_kind   text,
    failure_message text,
    retry_after_ms integer check (retry_after_ms >= 0),
    fuel           integer not null check (fuel >= 0),
    peak_memory    integer not null check (peak_memory >= 0),
    wall_micros    integer not null check (wall_micros >= 0),
    host_calls     integer not null check (host_calls >= 0),
    http_requests  integer not null check (http_requests >= 0),
    http_bytes     integer not null check (http_bytes >= 0),
    -- A JSON array of {at, level, message}; null for none.
    logs           text,
    -- Of a completed attempt.
    output         text,

    primary key (task_id, run_lease),
    check ((failure_kind is null) = (failure_message is null)),
    check ((failure_kind is null) = (output is not null))
) strict, without rowid;

-- What happened to a task outside an attempt, in the order of seq.
create table events (
    seq            integer not null primary key,
    task_id        blob    not null check (length(task_id) = 16),
    at             integer not null,
    kind           text    not null check (kind in ('cancelled', 'requeued', 'lapsed', 'handed_back')),
    run_lease      integer not null,
    detail         text    not null
) strict;

create index events_task on events (task_id, seq);

-- One row a boot of a worker. It is deleted when the worker stops cleanly; lapsed_at is set when the sweeper has found it silent, and
-- then never unset.
create table workers (
    id             blob    not null primary key check (length(id) = 16),
    host           text    not null,
    pid            integer not null,
    started_at     integer not null,
    heartbeat_at   integer not null,
    lapsed_at      integer
) strict, without rowid;
