//! The embedded database.
//!
//! One connection writes, a few read, in WAL mode with an fsync at every commit. Everything hot
//! goes through one [`Batcher`]: whatever enqueues, completions, progress reports and claims wait
//! while a commit is under way become the next transaction, with one statement for each kind, so a
//! commit's fsync is shared by all of them. Rare operations take the same connection for a
//! transaction of their own.
//!
//! | file | the concept |
//! |---|---|
//! | `open` | the file, its lock, its settings, its schema; `private` keeps it to its user |
//! | `writer` | the connection that writes, and when it is replaced |
//! | `flush` | many writes, one transaction |
//! | `enqueue`, `claim`, `complete`, `progress` | the hot arrows of a task's life |
//! | `order`, `lanes` | the claim without a broker; where tasks wait |
//! | `caps` | how much more may run |
//! | `forget` | what ended long ago goes |
//! | `beats` | heartbeats, in memory until somebody asks; lapses |
//! | `driver`, `bulk`, `components`, `param` | what the code that is the same for every database needs: `sql` in [`crate`] says how |
//!
//! A batch travels as one JSON array of rows, which `jsonb_each` unfolds: a statement's text never
//! depends on how many rows it carries, so each is prepared once.

mod beats;
mod bulk;
mod caps;
mod claim;
mod complete;
mod components;
mod driver;
mod enqueue;
mod error;
mod flush;
mod forget;
mod lanes;
mod open;
mod order;
mod param;
mod private;
mod progress;
mod writer;

#[path = "sql/collect.rs"]
mod collect;
#[path = "sql/dead.rs"]
mod dead;
#[path = "sql/edit.rs"]
mod edit;
#[path = "sql/lead.rs"]
mod lead;
#[path = "sql/list.rs"]
mod list;
#[path = "sql/mail.rs"]
mod mail;
#[path = "sql/operate.rs"]
mod operate;
#[path = "sql/plugins.rs"]
mod plugins;
#[path = "sql/policy.rs"]
mod policy;
#[path = "sql/read.rs"]
mod read;
#[path = "sql/registry.rs"]
mod registry;
#[path = "sql/row.rs"]
mod row;
#[path = "sql/secrets.rs"]
mod secrets;
#[path = "sql/sweep.rs"]
mod sweep;
#[path = "sql/usage.rs"]
mod usage;
#[path = "sql/values.rs"]
mod values;
#[path = "sql/versions.rs"]
mod versions;
#[path = "sql/workers.rs"]
mod workers;

use std::{path::Path, sync::Arc, time::Duration};

use async_trait::async_trait;
use sqlx::SqlitePool;
use taskforge_domain::{
    Clock, Json, Lane, NewTask, QueuePolicy, RunLease, Task, TaskId, TaskType, TenantId,
    TenantPolicy, Timestamp, TypePolicy, WorkerId,
};
use tokio::sync::Mutex;

use self::{
    beats::{Beats, Leases},
    claim::ClaimOp,
    complete::CompleteRow,
    enqueue::EnqueueRow,
    flush::{Write, Written, flush},
    forget::Walk,
    open::FileLock,
    order::Ageing,
    progress::ProgressRow,
    writer::{Writer, on_writer, read, run},
};
use crate::{
    Batch, Batcher, BatcherConfig, CancelOutcome, ClaimRequest, Claimed, Commit, Completion,
    Counts, DeadLetterGroup, History, LapsedTask, LeaseConnection, Page, ProgressReport,
    QueuedTask, Resolution, RetryOutcome, Store, StoreClock, StoreError, StoreResult, TaskFilter,
    Term, Upkeep, WorkerRecord, store::progress_written,
};

/// The embedded store: one database file, used by one process.
///
/// Dropping it flushes what was queued; [`SqliteStore::close`] does so too and returns when the
/// file is free again.
pub struct SqliteStore {
    writes: Batcher<Write, Written>,
    shared: Arc<Shared>,
    clock: Clock,
    /// Of claims in order.
    ageing: Arc<Ageing>,
}

struct Shared {
    writer: Writer,
    readers: SqlitePool,
    beats: Beats,
    /// How far upkeep has come; held for the length of one, so that two do not do the same work.
    walk: Mutex<Walk>,
    /// Declared last: the file is given up after its connections.
    lock: Mutex<Option<FileLock>>,
}

impl SqliteStore {
    /// Opens the database file `path`, and makes it, its folder and its schema if they are not
    /// there. Must be called within a tokio runtime, which then runs the writer.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] when another process (or another store in this one) uses the
    /// file, or it cannot be opened; [`StoreError::Schema`] when it is not a TaskForge database or
    /// one of a newer version.
    pub async fn open(path: &Path) -> StoreResult<Arc<Self>> {
        Self::open_with(path, BatcherConfig { name: "sqlite", ..BatcherConfig::default() }).await
    }

    /// Like [`SqliteStore::open`], with another rule for how writes are gathered.
    ///
    /// # Errors
    /// As [`SqliteStore::open`].
    pub async fn open_with(path: &Path, batching: BatcherConfig) -> StoreResult<Arc<Self>> {
        let lock = FileLock::take(path)?;
        let writer = Writer::new(path, open::writer(path).await?);
        let readers = open::readers(path).await?;
        let shared = Arc::new(Shared {
            writer,
            readers,
            beats: Beats::default(),
            walk: Mutex::default(),
            lock: Mutex::new(Some(lock)),
        });
        let owner = Arc::clone(&shared);
        let writes = Batcher::new(batching, move |writes: Batch<Write>| {
            let shared = Arc::clone(&owner);
            async move { on_writer!(shared.writer, |connection| flush(connection, &writes)) }
        });
        Ok(Arc::new(Self { writes, shared, clock: Clock::default(), ageing: Arc::default() }))
    }

    /// Flushes what is queued, closes the database and gives the file up. Every later call fails
    /// with [`StoreError::Closed`].
    ///
    /// # Errors
    /// When the database cannot be closed; it is given up nevertheless.
    pub async fn close(&self) -> StoreResult<()> {
        self.writes.close().await;
        self.shared.readers.close().await;
        let closed = self.shared.writer.close().await;
        *self.shared.lock.lock().await = None;
        closed
    }
}

/// The database runs in this process, whose clock it has: the host's time of its start, counted on.
impl StoreClock for SqliteStore {
    fn clock(&self) -> &Clock {
        &self.clock
    }
}

#[async_trait]
impl Store for SqliteStore {
    async fn enqueue(&self, tasks: &[NewTask]) -> StoreResult<()> {
        let rows = tasks.iter().map(|task| Write::Enqueue(EnqueueRow::new(task))).collect();
        self.writes.submit(rows).await.map(drop)
    }

    async fn claim(&self, request: ClaimRequest<'_>) -> StoreResult<Claimed> {
        let claim = vec![Write::Claim(ClaimOp::new(&request, &self.ageing))];
        let written = self.writes.submit(claim).await?.pop();
        written.map_or_else(|| Ok(Claimed::default()), Written::claimed)
    }

    async fn complete(&self, completions: &[Completion]) -> StoreResult<Vec<Commit>> {
        let rows =
            completions.iter().map(|completion| CompleteRow::new(completion).map(Write::Complete));
        let rows = rows.collect::<StoreResult<_>>()?;
        Ok(self.writes.submit(rows).await?.into_iter().filter_map(Written::ended).collect())
    }

    async fn report_progress(&self, reports: &[ProgressReport]) -> StoreResult<()> {
        let rows = reports.iter().map(|report| Write::Progress(ProgressRow::new(report))).collect();
        progress_written(self.writes.submit_each(rows).await)
    }

    async fn cancel(
        &self,
        tenant: &TenantId,
        id: TaskId,
        now: Timestamp,
    ) -> StoreResult<CancelOutcome> {
        run!(self, |connection| operate::cancel(connection, tenant, id, now))
    }

    async fn retry(
        &self,
        tenant: &TenantId,
        id: TaskId,
        now: Timestamp,
    ) -> StoreResult<RetryOutcome> {
        run!(self, |connection| operate::retry(connection, tenant, id, now))
    }

    async fn prune(&self, tenant: &TenantId, filter: &TaskFilter, limit: u32) -> StoreResult<u64> {
        run!(self, |connection| operate::prune(connection, tenant, filter, limit))
    }

    async fn requeue(
        &self,
        tenant: &TenantId,
        filter: &TaskFilter,
        limit: u32,
        input: Option<&Json>,
        now: Timestamp,
    ) -> StoreResult<Vec<QueuedTask>> {
        run!(self, |connection| dead::requeue(connection, tenant, filter, limit, input, now))
    }

    async fn dead_letters(
        &self,
        tenant: &TenantId,
        filter: &TaskFilter,
        limit: u32,
    ) -> StoreResult<Vec<DeadLetterGroup>> {
        read!(self, |connection| dead::groups(connection, tenant, filter, limit))
    }

    async fn task(&self, tenant: &TenantId, id: TaskId) -> StoreResult<Option<Task>> {
        read!(self, |connection| read::task(connection, tenant, id))
    }

    async fn tasks(
        &self,
        tenant: &TenantId,
        filter: &TaskFilter,
        page: Page,
    ) -> StoreResult<Vec<Task>> {
        read!(self, |connection| read::page(connection, tenant, filter, page))
    }

    async fn history(&self, tenant: &TenantId, id: TaskId) -> StoreResult<Option<History>> {
        read!(self, |connection| read::history(connection, tenant, id))
    }

    async fn counts(&self) -> StoreResult<Counts> {
        read!(self, |connection| read::counts(connection))
    }

    async fn policy(&self) -> StoreResult<QueuePolicy> {
        read!(self, |connection| policy::read(connection))
    }

    async fn set_type_policy(&self, task_type: &TaskType, policy: TypePolicy) -> StoreResult<()> {
        run!(self, |connection| policy::set_type(connection, task_type, policy))
    }

    async fn set_tenant_policy(&self, tenant: &TenantId, policy: TenantPolicy) -> StoreResult<()> {
        run!(self, |connection| policy::set_tenant(connection, tenant, policy))
    }

    async fn register_worker(&self, worker: &WorkerRecord, now: Timestamp) -> StoreResult<()> {
        let is_new = run!(self, |connection| workers::register(connection, worker, now))?;
        if is_new {
            self.shared.beats.enter(worker.id, worker.lease, now);
        }
        Ok(())
    }

    async fn heartbeat(&self, worker: WorkerId, now: Timestamp) -> StoreResult<bool> {
        run!(self, |connection| beats::heartbeat(connection, worker, now))
    }

    async fn lease_connection(&self) -> StoreResult<Box<dyn LeaseConnection>> {
        if self.writes.is_closed() {
            return Err(StoreError::Closed);
        }
        Ok(Box::new(Leases(Arc::clone(&self.shared))))
    }

    async fn remove_worker(&self, worker: WorkerId) -> StoreResult<()> {
        self.shared.beats.remove(worker);
        run!(self, |connection| workers::remove(connection, worker))
    }

    async fn lost_leases(&self, held: &[(TaskId, RunLease)]) -> StoreResult<Vec<TaskId>> {
        read!(self, |connection| bulk::lost_leases(connection, held))
    }

    async fn claimed_by(&self, worker: WorkerId) -> StoreResult<Vec<LapsedTask>> {
        read!(self, |connection| workers::claimed_by(connection, worker))
    }

    async fn lead(
        &self,
        who: WorkerId,
        now: Timestamp,
        ttl: Duration,
    ) -> StoreResult<Option<Term>> {
        run!(self, |connection| lead::lead(connection, who, now, ttl))
    }

    async fn resign(&self, term: Term) -> StoreResult<()> {
        run!(self, |connection| lead::resign(connection, term))
    }

    async fn promote_due(
        &self,
        term: Term,
        now: Timestamp,
        limit: u32,
    ) -> StoreResult<Vec<QueuedTask>> {
        run!(self, |connection| sweep::promote_due(connection, term, now, limit))
    }

    async fn next_due(&self) -> StoreResult<Option<Timestamp>> {
        read!(self, |connection| sweep::next_due(connection))
    }

    async fn lapsed(&self, term: Term, now: Timestamp, limit: u32) -> StoreResult<Vec<LapsedTask>> {
        run!(self, |connection| beats::lapsed(connection, &self.shared.beats, term, now, limit))
    }

    async fn resolve_lapsed(
        &self,
        term: Option<Term>,
        resolutions: &[Resolution],
        now: Timestamp,
    ) -> StoreResult<Vec<TaskId>> {
        run!(self, |connection| sweep::resolve_lapsed(connection, term, resolutions, now))
    }

    async fn lanes(&self, limit: u32) -> StoreResult<Vec<Lane>> {
        read!(self, |connection| lanes::lanes(connection, limit))
    }

    async fn pending(
        &self,
        lane: &Lane,
        after: Option<TaskId>,
        limit: u32,
    ) -> StoreResult<Vec<TaskId>> {
        read!(self, |connection| lanes::pending(connection, lane, after, limit))
    }

    async fn upkeep(
        &self,
        term: Option<Term>,
        now: Timestamp,
        retention: Duration,
    ) -> StoreResult<Upkeep> {
        let mut walk = self.shared.walk.lock().await;
        let stretch = read!(self, |connection| walk.look(connection, now, retention))?;
        let (upkeep, next) =
            run!(self, |connection| stretch.forget(connection, term, now, retention))?;
        *walk = next;
        Ok(upkeep)
    }

    async fn ping(&self) -> StoreResult<()> {
        read!(self, |connection| open::check(connection))?;
        // A store that can only read is of no use, and only a commit finds out. It is shared with
        // whatever else is written.
        self.writes.submit(vec![Write::Trial]).await.map(drop)
    }
}

#[cfg(test)]
mod tests;
