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
//! | `enqueue`, `claim`, `complete` | the hot arrows of a task's life |
//! | `order`, `lanes` | which tasks go first, and where they wait |
//! | `caps` | how much more may run |
//! | `operate`, `dead` | what a person does: to one task, to many dead letters |
//! | `forget` | what has ended goes: prune, upkeep |
//! | `sweep`, `lead` | what time does: due tasks, heartbeats, lapses; and who sees to it |
//! | `beats` | heartbeats, in memory until somebody asks |
//! | `policy` | how the fleet is shared out |
//! | `plugins` | the registry: `registry`, `versions`, `collect`, `secrets`, changed through `edit`; `usage`; `values` |
//! | `list`, `read` | the read side |
//! | `row`, `param` | rows into domain types, and domain types into parameters |
//!
//! A batch travels as one JSON array of rows, which `jsonb_each` unfolds: a statement's text never
//! depends on how many rows it carries, so each is prepared once.

mod beats;
mod caps;
mod claim;
mod collect;
mod complete;
mod dead;
mod edit;
mod enqueue;
mod error;
mod event;
mod flush;
mod forget;
mod lanes;
mod lead;
mod list;
mod mail;
mod open;
mod operate;
mod order;
mod param;
mod plugins;
mod policy;
mod private;
mod progress;
mod read;
mod registry;
mod row;
mod secrets;
mod sweep;
mod usage;
mod values;
mod versions;
mod writer;

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
    writer::{Writer, in_transaction, on_writer},
};
use crate::{
    Batch, Batcher, BatcherConfig, CancelOutcome, ClaimRequest, Claimed, Commit, Completion,
    Counts, DeadLetterGroup, History, LanedTask, LapsedTask, LeaseConnection, Page, ProgressReport,
    RetryOutcome, Store, StoreClock, StoreError, StoreResult, TaskFilter, Term, Upkeep, Verdict,
    WorkerRecord, store::progress_written,
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
        in_transaction!(self.shared.writer, |transaction| operate::cancel(
            transaction,
            tenant,
            id,
            now
        ))
    }

    async fn retry(
        &self,
        tenant: &TenantId,
        id: TaskId,
        now: Timestamp,
    ) -> StoreResult<RetryOutcome> {
        in_transaction!(self.shared.writer, |transaction| operate::retry(
            transaction,
            tenant,
            id,
            now
        ))
    }

    async fn prune(&self, tenant: &TenantId, filter: &TaskFilter, limit: u32) -> StoreResult<u64> {
        in_transaction!(self.shared.writer, |transaction| forget::prune(
            transaction,
            tenant,
            filter,
            limit
        ))
    }

    async fn requeue(
        &self,
        tenant: &TenantId,
        filter: &TaskFilter,
        limit: u32,
        input: Option<&Json>,
        now: Timestamp,
    ) -> StoreResult<Vec<LanedTask>> {
        in_transaction!(self.shared.writer, |transaction| dead::requeue(
            transaction,
            tenant,
            filter,
            limit,
            input,
            now
        ))
    }

    async fn dead_letters(
        &self,
        tenant: &TenantId,
        filter: &TaskFilter,
        limit: u32,
    ) -> StoreResult<Vec<DeadLetterGroup>> {
        dead::groups(&self.shared.readers, tenant, filter, limit).await
    }

    async fn task(&self, tenant: &TenantId, id: TaskId) -> StoreResult<Option<Task>> {
        read::task(&self.shared.readers, tenant, id).await
    }

    async fn tasks(
        &self,
        tenant: &TenantId,
        filter: &TaskFilter,
        page: Page,
    ) -> StoreResult<Vec<Task>> {
        read::page(&self.shared.readers, tenant, filter, page).await
    }

    async fn history(&self, tenant: &TenantId, id: TaskId) -> StoreResult<Option<History>> {
        read::history(&self.shared.readers, tenant, id).await
    }

    async fn counts(&self) -> StoreResult<Counts> {
        read::counts(&self.shared.readers).await
    }

    async fn policy(&self) -> StoreResult<QueuePolicy> {
        policy::read(&self.shared.readers).await
    }

    async fn set_type_policy(&self, task_type: &TaskType, policy: TypePolicy) -> StoreResult<()> {
        on_writer!(self.shared.writer, |writer| policy::set_type(writer, task_type, policy))
    }

    async fn set_tenant_policy(&self, tenant: &TenantId, policy: TenantPolicy) -> StoreResult<()> {
        on_writer!(self.shared.writer, |writer| policy::set_tenant(writer, tenant, policy))
    }

    async fn register_worker(&self, worker: &WorkerRecord, now: Timestamp) -> StoreResult<()> {
        let is_new =
            on_writer!(self.shared.writer, |writer| sweep::register_worker(writer, worker, now))?;
        if is_new {
            self.shared.beats.enter(worker.id, worker.lease, now);
        }
        Ok(())
    }

    async fn heartbeat(&self, worker: WorkerId, now: Timestamp) -> StoreResult<bool> {
        on_writer!(self.shared.writer, |writer| sweep::heartbeat(writer, worker, now))
    }

    async fn lease_connection(&self) -> StoreResult<Box<dyn LeaseConnection>> {
        if self.writes.is_closed() {
            return Err(StoreError::Closed);
        }
        Ok(Box::new(Leases(Arc::clone(&self.shared))))
    }

    async fn remove_worker(&self, worker: WorkerId) -> StoreResult<()> {
        self.shared.beats.remove(worker);
        on_writer!(self.shared.writer, |writer| sweep::remove_worker(writer, worker))
    }

    async fn lost_leases(&self, held: &[(TaskId, RunLease)]) -> StoreResult<Vec<TaskId>> {
        sweep::lost_leases(&self.shared.readers, held).await
    }

    async fn held(&self, worker: WorkerId) -> StoreResult<Vec<LapsedTask>> {
        lanes::held(&self.shared.readers, worker).await
    }

    async fn lead(
        &self,
        who: WorkerId,
        now: Timestamp,
        ttl: Duration,
    ) -> StoreResult<Option<Term>> {
        on_writer!(self.shared.writer, |writer| lead::lead(writer, who, now, ttl))
    }

    async fn resign(&self, term: Term) -> StoreResult<()> {
        on_writer!(self.shared.writer, |writer| lead::resign(writer, term))
    }

    async fn promote_due(
        &self,
        term: Term,
        now: Timestamp,
        limit: u32,
    ) -> StoreResult<Vec<LanedTask>> {
        in_transaction!(self.shared.writer, |transaction| sweep::promote_due(
            transaction,
            term,
            now,
            limit
        ))
    }

    async fn next_due(&self) -> StoreResult<Option<Timestamp>> {
        sweep::next_due(&self.shared.readers).await
    }

    async fn lapsed(&self, term: Term, now: Timestamp, limit: u32) -> StoreResult<Vec<LapsedTask>> {
        in_transaction!(self.shared.writer, |transaction| sweep::lapsed(
            transaction,
            &self.shared.beats,
            term,
            now,
            limit
        ))
    }

    async fn resolve_lapsed(
        &self,
        term: Option<Term>,
        verdicts: &[Verdict],
        now: Timestamp,
    ) -> StoreResult<Vec<TaskId>> {
        in_transaction!(self.shared.writer, |transaction| sweep::resolve_lapsed(
            transaction,
            term,
            verdicts,
            now
        ))
    }

    async fn lanes(&self, limit: u32) -> StoreResult<Vec<Lane>> {
        lanes::lanes(&self.shared.readers, limit).await
    }

    async fn pending(
        &self,
        lane: &Lane,
        after: Option<TaskId>,
        limit: u32,
    ) -> StoreResult<Vec<TaskId>> {
        lanes::pending(&self.shared.readers, lane, after, limit).await
    }

    async fn upkeep(
        &self,
        term: Option<Term>,
        now: Timestamp,
        retention: Duration,
    ) -> StoreResult<Upkeep> {
        let mut walk = self.shared.walk.lock().await;
        let stretch = walk.look(&self.shared.readers, now, retention).await?;
        let (upkeep, next) = in_transaction!(self.shared.writer, |transaction| stretch.forget(
            transaction,
            term,
            now,
            retention
        ))?;
        *walk = next;
        Ok(upkeep)
    }

    async fn ping(&self) -> StoreResult<()> {
        open::check(&self.shared.readers).await?;
        // A store that can only read is of no use, and only a commit finds out. It is shared with
        // whatever else is written.
        self.writes.submit(vec![Write::Trial]).await.map(drop)
    }
}

#[cfg(test)]
mod tests;
