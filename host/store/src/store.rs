//! The trait that every database implements.

use std::time::Duration;

use async_trait::async_trait;
use taskforge_domain::{
    Attempt, ClaimedTask, Clock, Event, FailureKind, Fingerprint, Json, Lane, LaneLimits, LogLine,
    NewTask, Next, Progress, QueuePolicy, QueuedTask, RetryPolicy, RunLease, Task, TaskId,
    TaskState, TaskType, TenantId, TenantPolicy, Timestamp, TypePolicy, WorkerId,
};

use crate::query::{Page, TaskFilter};

/// The result of a store operation.
pub type StoreResult<T> = Result<T, StoreError>;

/// Why a store operation failed. None of these says anything about the data: what is merely not
/// there, or not allowed in the task's state, is an ordinary return value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The database cannot be reached or is too busy; the same call may succeed later.
    #[error("the database is unavailable: {0}")]
    Unavailable(String),
    /// The database was named wrongly, or does not let this user in: nothing helps but another
    /// setting.
    #[error("the database cannot be used: {0}")]
    Misconfigured(String),
    /// The database's schema is not the one this binary was built for.
    #[error("the database schema does not fit this version of taskforge: {0}")]
    Schema(String),
    /// The database holds something that this version cannot read.
    #[error("the database holds a row that cannot be read: {0}")]
    Corrupt(String),
    /// The database refused a statement: a bug here or there.
    #[error("the database refused a statement: {0}")]
    Refused(String),
    /// The worker was found lapsed, and gets no tasks any more.
    #[error("the worker's lease has lapsed")]
    Lapsed,
    /// Somebody else sweeps now: the term that the caller names is over, and nothing was written.
    #[error("another process leads the sweep")]
    Deposed,
    /// The store is shutting down, or its writer is gone.
    #[error("the store is closed")]
    Closed,
}

/// Which tasks a claim is after.
#[derive(Debug, Clone)]
pub enum ClaimBy<'a> {
    /// These, as the broker's hints say.
    Ids(&'a [TaskId]),
    /// Whatever waits, most urgent first; tenants take turns within a priority, and a tenant's
    /// oldest task goes first. Of four tasks one comes from the priority that holds the oldest
    /// overdue one ([`AgeingTurns`](taskforge_domain::AgeingTurns)). The way to work without a
    /// broker.
    Order {
        /// Only these types.
        types: &'a [TaskType],
        /// At most this many of some lanes.
        lanes: &'a LaneLimits,
        /// At most this many in all.
        limit: u32,
        /// Paused types are left out, and turns are weighted. Its caps are not looked at: the store
        /// knows those that are in force.
        policy: &'a QueuePolicy,
    },
}

/// A claim: `pending` becomes `running`, the lease number and the attempt number grow by one.
///
/// A claim is the only thing that knows caps. It counts what runs of each capped type and tenant in
/// its own transaction, under that name's lock, and takes no more than is left.
#[derive(Debug, Clone)]
pub struct ClaimRequest<'a> {
    /// Who claims.
    pub worker: WorkerId,
    /// Which tasks.
    pub by: ClaimBy<'a>,
    /// The time that becomes `started_at`.
    pub now: Timestamp,
}

/// What a claim got.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Claimed {
    /// Tasks that the worker holds now.
    pub tasks: Vec<ClaimedTask>,
    /// Of [`ClaimBy::Ids`], those that still wait, because a cap of their type or tenant is
    /// reached.
    pub over_cap: Vec<TaskId>,
    /// Tasks that were asked for may have to wait for a permit of a cap.
    pub at_cap: bool,
}

/// The end of an attempt, to be committed. Guarded by `running` and the lease number in
/// [`Attempt::run_lease`].
#[derive(Debug, Clone, PartialEq)]
pub struct Completion {
    /// The attempt's record, which is kept.
    pub attempt: Attempt,
    /// Where the task goes.
    pub next: Next,
}

/// What became of a [`Completion`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Commit {
    /// The lease held: the task has moved, and the attempt is on record.
    Committed,
    /// The task was cancelled under this very lease: it stays cancelled, and the attempt is on
    /// record.
    Cancelled,
    /// The lease was lost: nothing was written.
    Stale,
}

/// What became of a request to cancel.
#[derive(Debug, Clone, PartialEq)]
pub enum CancelOutcome {
    /// It was waiting, and is cancelled.
    Cancelled(Box<Task>),
    /// It was running under this lease, and is cancelled; its worker is to be told to stop.
    WasRunning(Box<Task>),
    /// It had ended before; nothing changed.
    AlreadyFinished(Box<Task>),
    /// There is no such task.
    NotFound,
}

/// What became of a request to run a failed or cancelled task again.
#[derive(Debug, Clone, PartialEq)]
pub enum RetryOutcome {
    /// It is pending again, with its attempts counted from zero.
    Requeued(Box<Task>),
    /// Its state allows no retry: it waits, runs or has completed. Nothing changed.
    NotRetryable(Box<Task>),
    /// There is no such task.
    NotFound,
}

/// A running task whose worker stopped answering, or does not know of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LapsedTask {
    /// The task.
    pub id: TaskId,
    /// Where it queues when it waits again.
    pub lane: Lane,
    /// The lease that lapsed.
    pub run_lease: RunLease,
    /// The attempt that it was in.
    pub attempt: u32,
    /// Its lapses before this one.
    pub lapses: u32,
    /// How its failures are retried.
    pub retry: RetryPolicy,
    /// The worker that held it.
    pub worker: WorkerId,
}

/// What is to become of a lapsed task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolution {
    /// The task.
    pub id: TaskId,
    /// The lease that lapsed; guards the statement.
    pub run_lease: RunLease,
    /// [`Next::RetryAt`] or [`Next::DeadLetter`] for a lapse, [`Next::HandBack`] if there was none.
    /// The attempt is not counted in any of the cases.
    pub next: Next,
    /// For the task's error and its event.
    pub detail: String,
}

/// What a running attempt has said so far. Dropped silently if the lease was lost.
#[derive(Debug, Clone, PartialEq)]
pub struct ProgressReport {
    /// The task.
    pub id: TaskId,
    /// The attempt's lease.
    pub run_lease: RunLease,
    /// Its latest report, if it has made one.
    pub progress: Option<Progress>,
    /// The latest lines of its log, some kilobytes at most: they are written into the task's row.
    pub log: Vec<LogLine>,
}

/// One boot of a worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkerRecord {
    /// Fresh at every boot.
    pub id: WorkerId,
    /// Where it runs, for people.
    pub host: String,
    /// Its process id.
    pub pid: u32,
    /// When it started.
    pub started_at: Timestamp,
    /// How old its last heartbeat may be. Stored with whole milliseconds.
    pub lease: Duration,
}

/// One leadership of the sweep. Terms grow by one with each change of leader and never repeat, so
/// whoever holds an old one can be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Term(pub i64);

/// Dead letters of one type with the same kind of error.
#[derive(Debug, Clone, PartialEq)]
pub struct DeadLetterGroup {
    /// What they have in common, besides the type.
    pub fingerprint: Fingerprint,
    /// Their type.
    pub task_type: TaskType,
    /// The kind of their last failure.
    pub kind: FailureKind,
    /// The message of one of them.
    pub example: String,
    /// The newest of them.
    pub newest: TaskId,
    /// How many there are.
    pub count: u64,
    /// When the first of them failed.
    pub first_failed_at: Timestamp,
    /// When the last of them failed.
    pub last_failed_at: Timestamp,
}

/// What upkeep did to make room and to forget what is old.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Upkeep {
    /// Partitions made for times to come.
    pub partitions_made: u32,
    /// Partitions dropped.
    pub partitions_dropped: u32,
    /// Finished tasks that went, as far as they were counted: not those of a partition that was
    /// dropped as a whole.
    pub tasks_deleted: u64,
    /// Tasks that were kept although their partition was dropped, because they have not ended, or
    /// not long enough ago.
    pub tasks_moved: u64,
}

/// The whole history of a task: its attempts and what happened between them.
#[derive(Debug, Clone, PartialEq)]
pub struct History {
    /// The task.
    pub task: Task,
    /// Its attempts, oldest first.
    pub attempts: Vec<Attempt>,
    /// What happened outside attempts, oldest first.
    pub events: Vec<Event>,
    /// The latest lines of the attempt that runs, oldest first.
    pub log: Vec<LogLine>,
}

/// One line of a task's history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogEntry {
    /// When.
    pub at: Timestamp,
    /// The attempt that it belongs to, if any.
    pub attempt: Option<u32>,
    /// Severity.
    pub level: taskforge_domain::LogLevel,
    /// The text.
    pub message: String,
}

/// How many tasks wait, run, or have failed for good. Completed and cancelled ones are not counted:
/// there may be a year of them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Counts {
    /// By type and state (`scheduled`, `pending`, `running`, `failed`); combinations without a task
    /// are left out.
    pub by_type: Vec<(TaskType, TaskState, u64)>,
    /// Of each type that has pending tasks, the one that was made first; a UUIDv7 says when that
    /// was.
    pub oldest_pending: Vec<(TaskType, TaskId)>,
}

/// What became of reports: those that the database does not hold are dropped, because there will be
/// others.
pub(crate) fn progress_written<T>(written: Vec<StoreResult<T>>) -> StoreResult<()> {
    for written in written {
        match written {
            Err(StoreError::Refused(error) | StoreError::Corrupt(error)) => {
                tracing::debug!(error, "a report was refused");
            }
            answer => drop(answer?),
        }
    }
    Ok(())
}

/// A store has the time.
pub trait StoreClock {
    /// The store's clock, which is the fleet's: hosts may disagree about the time, and leases, due
    /// times and the age of tasks are compared with it. Told without asking the database.
    fn clock(&self) -> &Clock;
}

/// What keeps a worker's lease alive, and does nothing else. It waits for no other operation of the
/// store. Where it is a connection, whoever awaits it makes and drives it, so that on a thread of
/// its own it depends on nothing that happens in the rest of the process.
#[async_trait]
pub trait LeaseConnection: Send {
    /// As [`Store::heartbeat`].
    async fn heartbeat(&mut self, worker: WorkerId, now: Timestamp) -> StoreResult<bool>;

    /// Takes leave of the database. To be called before the store is closed.
    async fn close(self: Box<Self>);
}

/// The database, as the rest of the system sees it.
///
/// Every method that changes a task is one guarded transaction: it either moves the task along a
/// legal arrow of [`TaskState`] or changes nothing and says so. All methods may fail with
/// [`StoreError::Unavailable`], and a caller that gets it does not know whether the change was
/// made; every operation can be repeated safely, because ids are made by the caller and leases
/// never repeat.
///
/// Concurrent calls of the hot methods ([`Store::enqueue`], [`Store::claim`], [`Store::complete`],
/// [`Store::report_progress`]) share transactions: callers need not gather work to be fast, and a
/// call that does bring many rows keeps them together.
#[async_trait]
pub trait Store: StoreClock + Send + Sync + 'static {
    /// Inserts tasks, all or none. A task whose id is already there is left as it is, which makes a
    /// repeat harmless.
    async fn enqueue(&self, tasks: &[NewTask]) -> StoreResult<()>;

    /// Gives the worker a lease on tasks that are `pending`, and returns those that it got. Others
    /// (taken, cancelled, unknown, over a cap) are left out. Tasks come in the order of
    /// [`ClaimBy::Ids`], in which they also get the permits of a cap, or most urgent first with
    /// those after them that are due by their age.
    ///
    /// # Errors
    /// [`StoreError::Lapsed`] to a worker that was found lapsed, which gets none.
    async fn claim(&self, request: ClaimRequest<'_>) -> StoreResult<Claimed>;

    /// Ends attempts. The answers are in the order of `completions`. A repeat writes nothing and
    /// gets the first answer, except after a [`Next::HandBack`]: it leaves an event and no attempt,
    /// so its repeat is [`Commit::Stale`].
    ///
    /// [`Next::Cancelled`] under a lease that still holds is a false alarm; the task goes back to
    /// `pending`, uncounted, rather than being lost. An outcome that contradicts what follows (a
    /// failure that completes) is [`StoreError::Refused`] before anything is written.
    async fn complete(&self, completions: &[Completion]) -> StoreResult<Vec<Commit>>;

    /// Records progress of running attempts. A report that the database refuses to hold is dropped,
    /// and no other with it.
    async fn report_progress(&self, reports: &[ProgressReport]) -> StoreResult<()>;

    /// Cancels a task that has not ended.
    async fn cancel(
        &self,
        tenant: &TenantId,
        id: TaskId,
        now: Timestamp,
    ) -> StoreResult<CancelOutcome>;

    /// Makes a failed or cancelled task pending again with fresh attempts and no lapses. Its lease
    /// number, its last error and its history stay.
    async fn retry(
        &self,
        tenant: &TenantId,
        id: TaskId,
        now: Timestamp,
    ) -> StoreResult<RetryOutcome>;

    /// Deletes the oldest `limit` tasks that match and have ended, with their attempts and events.
    /// Tasks that have not ended are never deleted. Returns how many went.
    async fn prune(&self, tenant: &TenantId, filter: &TaskFilter, limit: u32) -> StoreResult<u64>;

    /// Makes at most `limit` of the tenant's dead letters that match pending again, the oldest
    /// first, as [`Store::retry`] does, and gives them another input if there is one. Returns those
    /// that moved. Tasks in other states are left alone, whatever the filter says.
    async fn requeue(
        &self,
        tenant: &TenantId,
        filter: &TaskFilter,
        limit: u32,
        input: Option<&Json>,
        now: Timestamp,
    ) -> StoreResult<Vec<QueuedTask>>;

    /// The tenant's dead letters that match, grouped by type and fingerprint, the largest groups
    /// first, at most `limit` groups.
    async fn dead_letters(
        &self,
        tenant: &TenantId,
        filter: &TaskFilter,
        limit: u32,
    ) -> StoreResult<Vec<DeadLetterGroup>>;

    /// Reads one task.
    async fn task(&self, tenant: &TenantId, id: TaskId) -> StoreResult<Option<Task>>;

    /// Reads a page of tasks, newest first.
    async fn tasks(
        &self,
        tenant: &TenantId,
        filter: &TaskFilter,
        page: Page,
    ) -> StoreResult<Vec<Task>>;

    /// Reads a task with its attempts and events.
    async fn history(&self, tenant: &TenantId, id: TaskId) -> StoreResult<Option<History>>;

    /// Counts tasks that wait, run, or have failed, by type and state, of all tenants.
    async fn counts(&self) -> StoreResult<Counts>;

    /// How the fleet is shared out.
    async fn policy(&self) -> StoreResult<QueuePolicy>;

    /// Sets the policy of a task type. The default policy forgets the type.
    async fn set_type_policy(&self, task_type: &TaskType, policy: TypePolicy) -> StoreResult<()>;

    /// Sets the policy of a tenant. The default policy forgets the tenant.
    async fn set_tenant_policy(&self, tenant: &TenantId, policy: TenantPolicy) -> StoreResult<()>;

    /// Announces a worker. Its lease runs from `now`.
    async fn register_worker(&self, worker: &WorkerRecord, now: Timestamp) -> StoreResult<()>;

    /// Renews a worker's lease, unless it has lapsed: `false` says that the sweeper has taken (or
    /// may take) its tasks, and the worker must stop what it runs.
    async fn heartbeat(&self, worker: WorkerId, now: Timestamp) -> StoreResult<bool>;

    /// A connection of its own for a worker's heartbeat. It may not be open yet.
    async fn lease_connection(&self) -> StoreResult<Box<dyn LeaseConnection>>;

    /// Removes a worker that has stopped cleanly. Tasks that it still holds count as lapsed at
    /// once.
    async fn remove_worker(&self, worker: WorkerId) -> StoreResult<()>;

    /// Which of these attempts no longer hold their lease (cancelled or lapsed), for a worker that
    /// may have missed the signal.
    async fn lost_leases(&self, held: &[(TaskId, RunLease)]) -> StoreResult<Vec<TaskId>>;

    /// What runs under this worker's lease, for a worker that holds it against what it knows: a
    /// claim may have been committed although its caller got an error.
    async fn claimed_by(&self, worker: WorkerId) -> StoreResult<Vec<LapsedTask>>;

    /// Leads the sweep for `ttl` from `now`, if nobody else does: begins a new term, or prolongs
    /// the caller's own. `None`: another leads.
    async fn lead(&self, who: WorkerId, now: Timestamp, ttl: Duration)
    -> StoreResult<Option<Term>>;

    /// Ends the caller's leadership, so that another can follow at once. Nothing happens if the
    /// term is over.
    async fn resign(&self, term: Term) -> StoreResult<()>;

    /// Moves tasks whose time has come from `scheduled` to `pending`, at most `limit`, and returns
    /// them.
    ///
    /// Like every operation that names a [`Term`]: [`StoreError::Deposed`] if it is not the latest.
    async fn promote_due(
        &self,
        term: Term,
        now: Timestamp,
        limit: u32,
    ) -> StoreResult<Vec<QueuedTask>>;

    /// When the next scheduled task is due.
    async fn next_due(&self) -> StoreResult<Option<Timestamp>>;

    /// Running tasks whose worker is gone or has let its lease run out, at most `limit`. A worker
    /// found lapsed here stays lapsed: its next [`Store::heartbeat`] is refused.
    async fn lapsed(&self, term: Term, now: Timestamp, limit: u32) -> StoreResult<Vec<LapsedTask>>;

    /// Carries out resolutions on lapsed tasks and counts the lapses; returns the ids of those that
    /// moved. `None` for a worker that judges its own tasks, which needs no leadership.
    async fn resolve_lapsed(
        &self,
        term: Option<Term>,
        resolutions: &[Resolution],
        now: Timestamp,
    ) -> StoreResult<Vec<TaskId>>;

    /// The lanes in which tasks wait, at most `limit`, in no particular order.
    async fn lanes(&self, limit: u32) -> StoreResult<Vec<Lane>>;

    /// The oldest pending tasks of a lane with an id above `after`, at most `limit`: to fill a
    /// broker's queue of that lane.
    async fn pending(
        &self,
        lane: &Lane,
        after: Option<TaskId>,
        limit: u32,
    ) -> StoreResult<Vec<TaskId>>;

    /// Makes room for tasks to come, and forgets tasks that ended more than `retention` ago with
    /// their attempts and events. Does a bounded amount of work; whoever calls it repeats it now
    /// and then. Tasks that have not ended are never forgotten. `None` for a person's command,
    /// which needs no leadership: it waits for an upkeep that is under way.
    async fn upkeep(
        &self,
        term: Option<Term>,
        now: Timestamp,
        retention: Duration,
    ) -> StoreResult<Upkeep>;

    /// Whether the database answers and its schema fits.
    async fn ping(&self) -> StoreResult<()>;
}
