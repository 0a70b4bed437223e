//! The database of a fleet.
//!
//! Any number of processes share it. Each hot operation (enqueue, claim, complete, progress) has a
//! [`Batcher`] and a connection of its own in a process: whatever its callers bring while a commit
//! is under way becomes the next statement, whose rows travel as arrays that `unnest` unfolds. A
//! flush is one round trip and one implicit transaction, so nothing of ours ever waits in the
//! middle of one. Everything else shares some connections.
//!
//! | file | the concept |
//! |---|---|
//! | [`config`] | how a process uses the database |
//! | `address` | where it is, as a URL says it |
//! | `connect`, `session`, `fault` | connections that come back, what holds in each, and which failures are worth another attempt |
//! | [`schema`] | migrations, and whether the schema fits |
//! | `enqueue`, `claim`, `complete`, `progress` | the hot arrows of a task's life |
//! | `order`, `outlook` | the claim without a broker; where tasks wait |
//! | `beats`, `upkeep` | heartbeats and lapses; partitions |
//! | `driver`, `bulk`, `components`, `param` | what the code that is the same for every database needs: `sql` in [`crate`] says how |
//! | `fleet` | which fleet this is |
//! | [`notices`] | `listen` and `notify` |
//! | `clock` | the database's time |
//! | [`ceiling`] | what the database could do without us |
//! | [`scratch`] | a database that is thrown away |
//!
//! # Locks
//! A claim takes the locks of the caps that it concerns before it takes any task. Whoever changes
//! several tasks in one statement takes them in the order of their ids or skips those that are
//! taken, so that nobody waits in a circle. Where two statements still do, the database ends one of
//! them, and it is tried again here.

mod address;
mod beats;
mod bulk;
pub mod ceiling;
mod claim;
mod clock;
mod complete;
mod components;
pub mod config;
mod connect;
mod driver;
mod enqueue;
mod fault;
mod fleet;
mod nodelay;
pub mod notices;
mod order;
mod outlook;
mod param;
mod progress;
pub mod schema;
pub mod scratch;
mod session;
mod upkeep;

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

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use taskforge_domain::{
    AgeingTurns, Clock, FleetId, Json, Lane, NewTask, QueuePolicy, RunLease, Task, TaskId,
    TaskType, TenantId, TenantPolicy, Timestamp, TypePolicy, WorkerId,
};
use tokio::{
    sync::{Mutex, MutexGuard},
    task::JoinHandle,
};

use self::{
    claim::Claim,
    complete::End,
    connect::{COOL, Connections, HOT, LAZY, ORDER, Servers, on, run, run_once},
    fault::Repeat,
    outlook::Outlook,
};
pub use self::{
    config::PostgresConfig,
    notices::Notices,
    schema::{Migrated, migrate},
    scratch::{Scratch, ServerUse},
};
use crate::{
    Batch, Batcher, BatcherConfig, CancelOutcome, ClaimBy, ClaimRequest, Claimed, Commit,
    Completion, Counts, DeadLetterGroup, History, LapsedTask, LeaseConnection, Page,
    ProgressReport, QueuedTask, Resolution, RetryOutcome, Store, StoreClock, StoreError,
    StoreResult, TaskFilter, Term, Upkeep, WorkerRecord, store::progress_written, turns::Order,
};

/// The store of a fleet: a PostgreSQL database, shared with other processes.
///
/// Dropping it flushes what was queued; [`PostgresStore::close`] does so too and returns when that
/// is done.
pub struct PostgresStore {
    enqueues: Batcher<NewTask, ()>,
    /// Those of [`MANY`] tasks or more.
    bulk: Batcher<NewTask, ()>,
    claims: Batcher<Claim, StoreResult<Claimed>>,
    ends: Batcher<End, Commit>,
    reports: Batcher<ProgressReport, ()>,
    /// For what goes from lane to lane. Claims in order take turns: two of one process would only
    /// skip each other's tasks.
    order: Mutex<InOrder>,
    order_connection: Connections,
    /// For reading one task, the most frequent question of clients: planning it takes three times as
    /// long as answering it, so it is planned once.
    reading: Connections,
    /// For everything that is not hot.
    connections: Connections,
    /// For further connections.
    servers: Arc<Servers>,
    clock: Clock,
    took_too_long: upkeep::TookTooLong,
    /// Compares the clock with the database's. Ends with the store.
    comparing: JoinHandle<()>,
}

impl Drop for PostgresStore {
    fn drop(&mut self) {
        self.comparing.abort();
    }
}

/// What claims in order share.
#[derive(Default)]
struct InOrder {
    outlook: Outlook,
    ageing: AgeingTurns,
}

/// Connections of the hot operations.
const HOT_CONNECTIONS: u32 = 7;

/// So many tasks take the database long enough that a single one of somebody else should not wait
/// for them: it has a writer of its own.
const MANY: usize = 32;

impl PostgresStore {
    /// Counts the tasks that ended before a time. Reads all of them.
    ///
    /// # Errors
    /// When the database fails, or takes longer than a statement may.
    pub async fn count_ended_before(&self, before: Timestamp) -> StoreResult<u64> {
        run!(self, |connection| upkeep::count_ended_before(connection, before))
    }

    /// Connects to a database that [`migrate`] has prepared. Must be called within a tokio runtime,
    /// which then runs the writers.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] when the database cannot be reached, [`StoreError::Schema`] when
    /// its schema is older than this binary needs (a newer one is good), [`StoreError::Refused`]
    /// when the URL is none or leads to a pooler that shares sessions.
    pub async fn connect(config: &PostgresConfig) -> StoreResult<Arc<Self>> {
        let servers = Servers::of(config)?;
        servers.check_sessions().await?;
        let size = config.max_connections.max(PostgresConfig::MIN_CONNECTIONS) - HOT_CONNECTIONS;
        let connections = Connections::new(&servers, size, COOL);
        on!(&connections, Repeat::Safe, |connection| schema::check(connection))?;
        let clock = clock::of_database(&connections).await?;
        let comparing = tokio::spawn(clock::keep(connections.clone(), clock.clone()));

        let enqueues = enqueue_writer(batching("postgres_enqueue"), &servers);
        // A large batch is worth a statement of its own, whatever else comes.
        let bulk =
            BatcherConfig { busy_linger: Duration::ZERO, ..batching("postgres_enqueue_bulk") };
        let bulk = enqueue_writer(bulk, &servers);
        let lazy = if config.durable_claims { &[] } else { LAZY };
        let claiming = Connections::new(&servers, 1, &[HOT, lazy].concat());
        let claims = Batcher::new(batching("postgres_claim"), move |claims: Batch<Claim>| {
            let claiming = claiming.clone();
            async move { on!(&claiming, Repeat::Unsafe, |connection| claim::run(connection, &claims)) }
        });
        let ending = Connections::hot(&servers);
        let ends = Batcher::new(batching("postgres_complete"), move |ends: Batch<End>| {
            let ending = ending.clone();
            async move { on!(&ending, Repeat::Safe, |connection| complete::run(connection, &ends)) }
        });
        let reporting = Connections::hot(&servers);
        let reports =
            Batcher::new(batching("postgres_progress"), move |reports: Batch<ProgressReport>| {
                let reporting = reporting.clone();
                async move {
                    on!(&reporting, Repeat::Safe, |connection| progress::run(connection, &reports))
                        .map(|()| vec![(); reports.len()])
                }
            });
        Ok(Arc::new(Self {
            enqueues,
            bulk,
            claims,
            ends,
            reports,
            order: Mutex::default(),
            order_connection: Connections::new(&servers, 1, &[ORDER, lazy].concat()),
            reading: Connections::hot(&servers),
            connections,
            servers,
            clock,
            took_too_long: upkeep::TookTooLong::default(),
            comparing,
        }))
    }

    /// Flushes what is queued and closes the connections. Every later call fails with
    /// [`StoreError::Closed`].
    pub async fn close(&self) {
        self.comparing.abort();
        self.enqueues.close().await;
        self.bulk.close().await;
        self.claims.close().await;
        self.ends.close().await;
        self.reports.close().await;
        self.reading.close().await;
        self.connections.close().await;
    }

    /// The fleet that this database is of.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] when the database cannot be reached.
    pub async fn fleet_id(&self) -> StoreResult<FleetId> {
        run!(self, |connection| fleet::id(connection))
    }

    /// Waits for its turn with the lanes.
    async fn in_order(&self) -> StoreResult<MutexGuard<'_, InOrder>> {
        let turn = self.order.lock().await;
        if self.claims.is_closed() {
            return Err(StoreError::Closed);
        }
        Ok(turn)
    }
}

/// A writer of new tasks.
fn enqueue_writer(batching: BatcherConfig, servers: &Arc<Servers>) -> Batcher<NewTask, ()> {
    let connections = Connections::hot(servers);
    Batcher::new(batching, move |tasks: Batch<NewTask>| {
        let connections = connections.clone();
        async move {
            on!(&connections, Repeat::Safe, |connection| enqueue::run(connection, &tasks))
                .map(|()| vec![(); tasks.len()])
        }
    })
}

/// A statement costs the database a fixed share of time besides its rows, as much as some hundred
/// of them, so ends that come one by one are worth waiting for once there are many.
fn batching(name: &'static str) -> BatcherConfig {
    BatcherConfig {
        name,
        max_items: 1_024,
        busy_linger: Duration::from_millis(10),
        ..BatcherConfig::default()
    }
}

impl StoreClock for PostgresStore {
    fn clock(&self) -> &Clock {
        &self.clock
    }
}

#[async_trait]
impl Store for PostgresStore {
    async fn enqueue(&self, tasks: &[NewTask]) -> StoreResult<()> {
        let writer = if tasks.len() < MANY { &self.enqueues } else { &self.bulk };
        writer.submit(tasks.to_vec()).await.map(drop)
    }

    async fn claim(&self, request: ClaimRequest<'_>) -> StoreResult<Claimed> {
        let ClaimRequest { worker, by, now } = request;
        match by {
            ClaimBy::Ids([]) => Ok(Claimed::default()),
            ClaimBy::Ids(ids) => {
                let claim = Claim { worker, now, ids: ids.to_vec() };
                let claimed = self.claims.submit(vec![claim]).await?.pop();
                claimed.unwrap_or_else(|| Ok(Claimed::default()))
            }
            ClaimBy::Order { types, lanes, limit, policy } => {
                let order = Order { types, lanes, policy, limit: limit as usize, now };
                let mut turn = self.in_order().await?;
                let InOrder { outlook, ageing } = &mut *turn;
                on!(&self.order_connection, Repeat::Unsafe, |connection| order::run(
                    connection, outlook, ageing, worker, &order
                ))
            }
        }
    }

    async fn complete(&self, completions: &[Completion]) -> StoreResult<Vec<Commit>> {
        let ends = completions.iter().map(End::new).collect::<StoreResult<Vec<_>>>()?;
        self.ends.submit(ends).await
    }

    async fn report_progress(&self, reports: &[ProgressReport]) -> StoreResult<()> {
        let written = self.reports.submit_each(reports.to_vec()).await;
        progress_written(written)
    }

    async fn cancel(
        &self,
        tenant: &TenantId,
        id: TaskId,
        now: Timestamp,
    ) -> StoreResult<CancelOutcome> {
        run_once!(self, |connection| operate::cancel(connection, tenant, id, now))
    }

    async fn retry(
        &self,
        tenant: &TenantId,
        id: TaskId,
        now: Timestamp,
    ) -> StoreResult<RetryOutcome> {
        run_once!(self, |connection| operate::retry(connection, tenant, id, now))
    }

    async fn prune(&self, tenant: &TenantId, filter: &TaskFilter, limit: u32) -> StoreResult<u64> {
        // Done again, it would delete as many more.
        run_once!(self, |connection| operate::prune(connection, tenant, filter, limit))
    }

    async fn requeue(
        &self,
        tenant: &TenantId,
        filter: &TaskFilter,
        limit: u32,
        input: Option<&Json>,
        now: Timestamp,
    ) -> StoreResult<Vec<QueuedTask>> {
        run_once!(self, |connection| dead::requeue(connection, tenant, filter, limit, input, now))
    }

    async fn dead_letters(
        &self,
        tenant: &TenantId,
        filter: &TaskFilter,
        limit: u32,
    ) -> StoreResult<Vec<DeadLetterGroup>> {
        run!(self, |connection| dead::groups(connection, tenant, filter, limit))
    }

    async fn task(&self, tenant: &TenantId, id: TaskId) -> StoreResult<Option<Task>> {
        on!(&self.reading, Repeat::Safe, |connection| read::task(connection, tenant, id))
    }

    async fn tasks(
        &self,
        tenant: &TenantId,
        filter: &TaskFilter,
        page: Page,
    ) -> StoreResult<Vec<Task>> {
        run!(self, |connection| read::page(connection, tenant, filter, page))
    }

    async fn history(&self, tenant: &TenantId, id: TaskId) -> StoreResult<Option<History>> {
        run!(self, |connection| read::history(connection, tenant, id))
    }

    async fn counts(&self) -> StoreResult<Counts> {
        run!(self, |connection| read::counts(connection))
    }

    async fn policy(&self) -> StoreResult<QueuePolicy> {
        run!(self, |connection| policy::read(connection))
    }

    async fn set_type_policy(&self, task_type: &TaskType, policy: TypePolicy) -> StoreResult<()> {
        run!(self, |connection| policy::set_type(connection, task_type, policy))
    }

    async fn set_tenant_policy(&self, tenant: &TenantId, policy: TenantPolicy) -> StoreResult<()> {
        run!(self, |connection| policy::set_tenant(connection, tenant, policy))
    }

    async fn register_worker(&self, worker: &WorkerRecord, now: Timestamp) -> StoreResult<()> {
        run!(self, |connection| workers::register(connection, worker, now)).map(drop)
    }

    async fn heartbeat(&self, worker: WorkerId, now: Timestamp) -> StoreResult<bool> {
        beats::heartbeat(&self.connections, &self.clock, worker, now).await
    }

    async fn lease_connection(&self) -> StoreResult<Box<dyn LeaseConnection>> {
        Ok(Box::new(beats::Leases {
            connections: Connections::new(&self.servers, 1, COOL),
            clock: self.clock.clone(),
        }))
    }

    async fn remove_worker(&self, worker: WorkerId) -> StoreResult<()> {
        run!(self, |connection| workers::remove(connection, worker))
    }

    async fn lost_leases(&self, held: &[(TaskId, RunLease)]) -> StoreResult<Vec<TaskId>> {
        run!(self, |connection| bulk::lost_leases(connection, held))
    }

    async fn claimed_by(&self, worker: WorkerId) -> StoreResult<Vec<LapsedTask>> {
        run!(self, |connection| workers::claimed_by(connection, worker))
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
        run!(self, |connection| sweep::next_due(connection))
    }

    async fn lapsed(&self, term: Term, now: Timestamp, limit: u32) -> StoreResult<Vec<LapsedTask>> {
        run!(self, |connection| beats::lapsed(connection, term, now, limit))
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
        // From the index and never from memory: a rebuild that overlooks a lane would call itself
        // complete.
        let mut lanes = run!(self, |connection| outlook::all(connection))?;
        lanes.truncate(limit as usize);
        Ok(lanes)
    }

    async fn pending(
        &self,
        lane: &Lane,
        after: Option<TaskId>,
        limit: u32,
    ) -> StoreResult<Vec<TaskId>> {
        run!(self, |connection| outlook::pending(connection, lane, after, limit))
    }

    async fn upkeep(
        &self,
        term: Option<Term>,
        now: Timestamp,
        retention: Duration,
    ) -> StoreResult<Upkeep> {
        let connections = self.connections.with_more_time(upkeep::LONGEST_LOOK);
        on!(&connections, Repeat::Safe, |connection| upkeep::run(
            connection,
            &self.took_too_long,
            term,
            now,
            retention
        ))
    }

    async fn ping(&self) -> StoreResult<()> {
        // A store that can only read is of no use.
        if self.enqueues.is_closed()
            || self.bulk.is_closed()
            || self.claims.is_closed()
            || self.ends.is_closed()
            || self.reports.is_closed()
        {
            return Err(StoreError::Closed);
        }
        run!(self, |connection| schema::check_writable(connection))
    }
}

#[cfg(test)]
mod tests;
