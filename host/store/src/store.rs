//! The trait that every database implements.

use std::time::Duration;

use async_trait::async_trait;
use taskforge_domain::{
    Attempt, ClaimedTask, Event, NewTask, Next, Priority, Progress, RetryPolicy, RunLease, Task, TaskId,
    TaskState, TaskType, TenantId, Timestamp, WorkerId,
};

use crate::query::{Page, TaskFilter};

/// The result of a store operation.
pub type StoreResult<T> = Result<T, StoreError>;

/// Why a store operation failed. None of these says anything about the data: what is merely not there, or not allowed in the
/// task's state, is an ordinary return value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The database cannot be reached or is too busy; the same call may succeed later.
    #[error("the database is unavailable: {0}")]
    Unavailable(String),
    /// The database's schema is not the one this binary was built for.
    #[error("the database schema does not fit this version of taskforge: {0}")]
    Schema(String),
    /// The database holds something that this version cannot read.
    #[error("the database holds a row that cannot be read: {0}")]
    Corrupt(String),
    /// The database refused a statement: a bug here or there.
    #[error("the database refused a statement: {0}")]
    Refused(String),
    /// The store is shutting down, or its writer is gone.
    #[error("the store is closed")]
    Closed,
}

/// Which tasks a claim is after.
#[derive(Debug, Clone)]
pub enum ClaimBy<'a> {
    /// These, as the broker's hints say.
    Ids(&'a [TaskId]),
    /// Whatever waits, most urgent first and oldest first within a priority. The way to work without a broker.
    Order {
        /// Only these types.
        types: &'a [TaskType],
        /// At most this many.
        limit: u32,
    },
}

/// A claim: `pending` becomes `running`, the lease number and the attempt number grow by one.
#[derive(Debug, Clone)]
pub struct ClaimRequest<'a> {
    /// Who claims.
    pub worker: WorkerId,
    /// Which tasks.
    pub by: ClaimBy<'a>,
    /// The time that becomes `started_at`.
    pub now: Timestamp,
}

/// The end of an attempt, to be committed. Guarded by `running` and the lease number in [`Attempt::run_lease`].
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
    /// The task was cancelled under this very lease: it stays cancelled, and the attempt is on record.
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

/// A waiting task, as much of it as a hint needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DueTask {
    /// The task.
    pub id: TaskId,
    /// Whose it is.
    pub tenant: TenantId,
    /// Its type.
    pub task_type: TaskType,
    /// Its urgency.
    pub priority: Priority,
}

/// A running task whose worker stopped answering.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LapsedTask {
    /// The task.
    pub id: TaskId,
    /// The lease that lapsed.
    pub run_lease: RunLease,
    /// The attempt that it was in.
    pub attempt: u32,
    /// How its failures are retried.
    pub retry: RetryPolicy,
    /// The worker that held it.
    pub worker: WorkerId,
}

/// What is to become of a lapsed task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// The task.
    pub id: TaskId,
    /// The lease that lapsed; guards the statement.
    pub run_lease: RunLease,
    /// [`Next::RetryAt`], [`Next::DeadLetter`] or [`Next::HandBack`].
    pub next: Next,
    /// For the task's error and its event.
    pub detail: String,
}

/// The latest report of a running attempt. Dropped silently if the lease was lost.
#[derive(Debug, Clone, PartialEq)]
pub struct ProgressReport {
    /// The task.
    pub id: TaskId,
    /// The attempt's lease.
    pub run_lease: RunLease,
    /// The report.
    pub progress: Progress,
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
}

/// The whole story of a task: its attempts and what happened between them.
#[derive(Debug, Clone, PartialEq)]
pub struct Story {
    /// The task.
    pub task: Task,
    /// Its attempts, oldest first.
    pub attempts: Vec<Attempt>,
    /// What happened outside attempts, oldest first.
    pub events: Vec<Event>,
}

/// One line of a task's story.
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

/// How many tasks there are.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Counts {
    /// By type and state; combinations without a task are left out.
    pub by_type: Vec<(TaskType, TaskState, u64)>,
}

/// The database, as the rest of the system sees it.
///
/// Every method that changes a task is one guarded transaction: it either moves the task along a legal arrow of
/// [`TaskState`] or changes nothing and says so. All methods may fail with [`StoreError::Unavailable`], and a caller that gets it
/// does not know whether the change was made; every operation can be repeated safely, because ids are made by the caller and leases
/// never repeat.
///
/// Concurrent calls of the hot methods ([`Store::enqueue`], [`Store::claim`], [`Store::complete`], [`Store::report_progress`]) share
/// transactions: callers need not gather work to be fast, and a call that does bring many rows keeps them together.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// Inserts tasks, all or none. A task whose id is already there is left as it is, which makes a repeat harmless.
    async fn enqueue(&self, tasks: &[NewTask]) -> StoreResult<()>;

    /// Gives the worker a lease on tasks that are `pending`, and returns those that it got. Others (taken, cancelled, unknown) are
    /// left out, and a worker that was found lapsed gets none. Tasks come in the order of [`ClaimBy::Ids`], or most urgent first.
    async fn claim(&self, request: ClaimRequest<'_>) -> StoreResult<Vec<ClaimedTask>>;

    /// Ends attempts. The answers are in the order of `completions`. A repeat writes nothing and gets the first answer, except after
    /// a [`Next::HandBack`]: it leaves an event and no attempt, so its repeat is [`Commit::Stale`].
    ///
    /// [`Next::Cancelled`] under a lease that still holds is a false alarm; the task goes back to `pending`, uncounted, rather than
    /// being lost. An outcome that contradicts what follows (a failure that completes) is [`StoreError::Refused`] before anything
    /// is written.
    async fn complete(&self, completions: &[Completion]) -> StoreResult<Vec<Commit>>;

    /// Records progress of running attempts.
    async fn report_progress(&self, reports: &[ProgressReport]) -> StoreResult<()>;

    /// Cancels a task that has not ended.
    async fn cancel(&self, tenant: &TenantId, id: TaskId, now: Timestamp) -> StoreResult<CancelOutcome>;

    /// Makes a failed or cancelled task pending again with fresh attempts. Its lease number, its last error and its history stay.
    async fn retry(&self, tenant: &TenantId, id: TaskId, now: Timestamp) -> StoreResult<RetryOutcome>;

    /// Deletes the oldest `limit` tasks that match and have ended, with their attempts and events. Tasks that have not ended are
    /// never deleted. Returns how many went.
    async fn prune(&self, tenant: &TenantId, filter: &TaskFilter, limit: u32) -> StoreResult<u64>;

    /// Reads one task.
    async fn task(&self, tenant: &TenantId, id: TaskId) -> StoreResult<Option<Task>>;

    /// Reads a page of tasks, newest first.
    async fn tasks(&self, tenant: &TenantId, filter: &TaskFilter, page: Page) -> StoreResult<Vec<Task>>;

    /// Reads a task with its attempts and events.
    async fn story(&self, tenant: &TenantId, id: TaskId) -> StoreResult<Option<Story>>;

    /// Counts tasks by type and state, of all tenants.
    async fn counts(&self) -> StoreResult<Counts>;

    /// Announces a worker. Its lease runs from `now`.
    async fn register_worker(&self, worker: &WorkerRecord, now: Timestamp) -> StoreResult<()>;

    /// Renews a worker's lease, unless it has lapsed: `false` says that the sweeper has taken (or may take) its tasks, and the worker
    /// must stop what it runs. `timeout` is how old a heartbeat may be.
    async fn heartbeat(&self, worker: WorkerId, now: Timestamp, timeout: Duration) -> StoreResult<bool>;

    /// Removes a worker that has stopped cleanly. Tasks that it still holds count as lapsed at once.
    async fn remove_worker(&self, worker: WorkerId) -> StoreResult<()>;

    /// Which of these attempts no longer hold their lease (cancelled or lapsed), for a worker that may have missed the signal.
    async fn lost_leases(&self, held: &[(TaskId, RunLease)]) -> StoreResult<Vec<TaskId>>;

    /// Moves tasks whose time has come from `scheduled` to `pending`, at most `limit`, and returns them.
    async fn promote_due(&self, now: Timestamp, limit: u32) -> StoreResult<Vec<DueTask>>;

    /// When the next scheduled task is due.
    async fn next_due(&self) -> StoreResult<Option<Timestamp>>;

    /// Running tasks whose worker is gone or has not sent a heartbeat since `now - timeout`, at most `limit`. A worker found lapsed
    /// here stays lapsed: its next [`Store::heartbeat`] is refused.
    async fn lapsed(&self, now: Timestamp, timeout: Duration, limit: u32) -> StoreResult<Vec<LapsedTask>>;

    /// Carries out verdicts on lapsed tasks; returns the ids of those that moved.
    async fn resolve_lapsed(&self, verdicts: &[Verdict], now: Timestamp) -> StoreResult<Vec<TaskId>>;

    /// Pending tasks with an id above `after`, in the order of their ids, at most `limit`: to rebuild a broker's queues page by page.
    async fn pending(&self, after: Option<TaskId>, limit: u32) -> StoreResult<Vec<DueTask>>;

    /// Whether the database answers and its schema fits.
    async fn ping(&self) -> StoreResult<()>;
}
