-- What one process shares with a fleet: leases of the workers' own, leadership, policies, dead letters in groups, lanes.

-- The fingerprint of error_kind and error_message, so that failures that are alike are found and counted as one. Tasks that failed
-- before have 0: what made them alike was not recorded. SQLite checks a new column against the rows that are there, so the check
-- is off until they keep it; rewriting the table instead would hold a large file for minutes.
pragma ignore_check_constraints = on;
alter table tasks add column error_fingerprint integer check ((error_fingerprint is null) = (error_kind is null));
update tasks set error_fingerprint = 0 where error_kind is not null;
pragma ignore_check_constraints = off;

-- Pending tasks by lane, in the order of ids: what a broker is filled from, and where a claim without one finds the heads of all
-- queues. It takes the place of tasks_pending: a lane's tasks were scattered in that one, and a second tree would cost every task.
drop index tasks_pending;
create index tasks_lanes on tasks (tenant, task_type, priority, id) where state = 'pending';

-- For counts; a task that succeeds at once is never in it.
create index tasks_scheduled_types on tasks (task_type) where state = 'scheduled';

-- Dead letters by group, with all that is said of a group.
create index tasks_dead on tasks (tenant, error_fingerprint, task_type, error_kind, finished_at) where state = 'failed';

-- How old a worker's heartbeat may be. Those of before had ten seconds, all of them.
alter table workers add column lease_ms integer not null default 10000 check (lease_ms >= 0);

-- Who sweeps. One row; the term grows by one with each change of leader, and a leader that resigned leaves null.
create table leadership (
    one            integer not null primary key check (one = 1),
    term           integer not null,
    leader         blob    check (length(leader) = 16),
    -- Until then nobody else may follow.
    until          integer not null
) strict, without rowid;

insert into leadership (one, term, leader, until) values (1, 0, null, 0);

-- What operators have said of task types and of tenants. Those that have the defaults have no row.
create table type_policies (
    task_type      text    not null primary key,
    paused         integer not null check (paused in (0, 1)),
    max_running    integer check (max_running between 0 and 4294967295)
) strict, without rowid;

create table tenant_policies (
    tenant         text    not null primary key,
    weight         integer not null check (weight between 1 and 1000),
    max_running    integer check (max_running between 0 and 4294967295)
) strict, without rowid;
