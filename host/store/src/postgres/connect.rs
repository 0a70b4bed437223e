//! Connections: one for each hot operation, a pool for the rest.
//!
//! # Cancellation
//! An operation may be dropped at any `.await`: a deadline passes, a caller goes away, the process ends. What its
//! connection is in the middle of then, nobody knows: a `begin` may be on its way, an answer may be outstanding. So an
//! operation *takes* a connection, out of the line or out of the pool, and gives it back when it has ended by itself
//! and left no transaction open. Dropped in between, the connection is closed, the database rolls back what was not
//! committed, and the next operation gets another connection.

use std::{
    ops::{Deref, DerefMut},
    sync::Arc,
    time::{Duration, Instant},
};

use sqlx::{
    Connection, PgConnection, PgPool, Postgres,
    pool::PoolConnection,
    postgres::{PgConnectOptions, PgPoolOptions},
};
use tokio::sync::{Mutex, MutexGuard};

use super::{
    Shared,
    fault::{Attempted, Fault, Kind},
    nodelay,
};
use crate::{PostgresConfig, StoreResult};

/// What a hot operation's connection is told about plans.
///
/// A hot statement is planned once for a connection, and its plan must still be right when an empty table has become one of a million rows.
/// So nothing is left to choose by statistics: the plan is generic, tables are reached through indexes only, and the rows of a batch meet
/// those of the table in a hash join. What a nested loop over the batch would cost depends on which side the planner takes for the smaller
/// one; the hash join costs one pass over each.
pub(super) const HOT: [(&str, &str); 5] = [
    ("plan_cache_mode", "force_generic_plan"),
    ("enable_seqscan", "off"),
    ("enable_nestloop", "off"),
    ("enable_mergejoin", "off"),
    // The rows that one batch changes wait in memory for the second half of their statement.
    ("work_mem", "32MB"),
];

/// What a hot connection is told if it need not wait for the disk.
const LAZY: [(&str, &str); 1] = [("synchronous_commit", "off")];

/// What the connection of claims in order is told. Its plans are generic too, and of the form that their statements dictate: a loop over
/// lanes, and in each an index.
pub(super) const ORDER: [(&str, &str); 4] = [
    ("plan_cache_mode", "force_generic_plan"),
    ("enable_seqscan", "off"),
    ("enable_hashjoin", "off"),
    ("enable_mergejoin", "off"),
];

/// What the other connections are told. Their statements are rarer and their parameters differ more, so each is planned for its own: that
/// costs a millisecond and knows which partitions it needs. Tables are reached through indexes, whatever a table that was never analysed
/// looks like.
pub(super) const COOL: [(&str, &str); 4] = [
    ("plan_cache_mode", "force_custom_plan"),
    ("enable_seqscan", "off"),
    ("enable_hashjoin", "off"),
    ("enable_mergejoin", "off"),
];

/// A connection that was idle for longer is tried before it is used: the database, a proxy or a firewall may have ended
/// it meanwhile, and an operation that must not be carried out twice could only report that.
const TRUSTED: Duration = Duration::from_secs(1);

/// A connection of one owner that comes back after it was lost.
pub(super) struct Line {
    options: PgConnectOptions,
    connect_timeout: Duration,
    patience: Duration,
    /// The connection while no operation has it, and since when. `None`: the next operation opens one.
    idle: Option<(PgConnection, Instant)>,
}

impl Line {
    /// For a hot operation.
    pub(super) fn hot(config: &PostgresConfig) -> StoreResult<Self> {
        Self::with(config, &HOT)
    }

    /// For claims by ids.
    pub(super) fn claims(config: &PostgresConfig) -> StoreResult<Self> {
        Self::with(config, &[&HOT[..], lazy(config)].concat())
    }

    /// For claims in order.
    pub(super) fn order(config: &PostgresConfig) -> StoreResult<Self> {
        Self::with(config, &[&ORDER[..], lazy(config)].concat())
    }

    /// For a heartbeat.
    pub(super) fn lease(config: &PostgresConfig) -> StoreResult<Self> {
        Self::with(config, &COOL)
    }

    /// With other settings.
    pub(super) fn with(config: &PostgresConfig, settings: &[(&str, &str)]) -> StoreResult<Self> {
        Ok(Self {
            options: config.options()?.options(settings.iter().copied()),
            connect_timeout: config.acquire_timeout,
            patience: config.patience(),
            idle: None,
        })
    }

    /// Takes the connection, or opens one.
    pub(super) async fn take(&mut self) -> Attempted<PgConnection> {
        if let Some((mut connection, since)) = self.idle.take()
            && (since.elapsed() < TRUSTED || within(self.connect_timeout, connection.ping()).await.is_ok())
        {
            return Ok(connection);
        }
        within(self.connect_timeout, connect(&self.options))
            .await
            .map_err(not_begun)
    }

    /// Takes a connection back, unless the operation left it in doubt.
    pub(super) async fn give_back<T>(&mut self, mut connection: PgConnection, attempted: &Attempted<T>) {
        if is_sound(&mut connection, attempted, self.patience).await {
            self.idle = Some((connection, Instant::now()));
        }
    }

    /// Ends the connection, if there is one, in the way that the database expects.
    pub(super) async fn leave(self) {
        if let Some((connection, _)) = self.idle {
            // The other end may be gone.
            within(self.connect_timeout, connection.close()).await.ok();
        }
    }

    /// How long an answer may take.
    pub(super) const fn patience(&self) -> Duration {
        self.patience
    }
}

/// A connection of the pool in the hands of an operation. Dropped before it was found sound, it is closed instead of
/// going back.
pub(super) struct Taken {
    connection: PoolConnection<Postgres>,
    is_sound: bool,
}

impl Drop for Taken {
    fn drop(&mut self) {
        if !self.is_sound {
            self.connection.close_on_drop();
        }
    }
}

impl Deref for Taken {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        &self.connection
    }
}

impl DerefMut for Taken {
    fn deref_mut(&mut self) -> &mut PgConnection {
        &mut self.connection
    }
}

impl Shared {
    /// Takes a connection out of the pool.
    pub(super) async fn take(&self) -> Attempted<Taken> {
        Ok(Taken {
            connection: self
                .pool
                .acquire()
                .await
                .map_err(|error| not_begun(error.into()))?,
            is_sound: false,
        })
    }

    /// Puts a connection back into the pool, unless the operation left it in doubt.
    pub(super) async fn give_back<T>(&self, mut taken: Taken, attempted: &Attempted<T>) {
        taken.is_sound = is_sound(&mut taken, attempted, self.patience).await;
    }

    /// How long an answer may take.
    pub(super) const fn patience(&self) -> Duration {
        self.patience
    }
}

/// Why there is no connection. Whatever it was, nothing was carried out.
fn not_begun(fault: Fault) -> Fault {
    match fault.kind() {
        Kind::Lost => Fault::NoConnection(fault.to_string()),
        _ => fault,
    }
}

/// Whether an operation that has ended by itself left its connection fit for the next one.
async fn is_sound<T>(connection: &mut PgConnection, attempted: &Attempted<T>, patience: Duration) -> bool {
    if attempted.as_ref().is_err_and(Fault::loses_connection) {
        return false;
    }
    // A transaction that was dropped before its commit has left a rollback to be sent, and a statement that failed has
    // left the end of its answer to be read.
    let has_loose_ends = attempted.is_err() || connection.should_flush();
    if has_loose_ends && within(patience, connection.ping()).await.is_err() {
        return false;
    }
    !connection.is_in_transaction()
}

fn lazy(config: &PostgresConfig) -> &'static [(&'static str, &'static str)] {
    if config.durable_claims { &[] } else { &LAZY }
}

async fn connect(options: &PgConnectOptions) -> Result<PgConnection, sqlx::Error> {
    let connection = PgConnection::connect_with(options).await?;
    nodelay::set(options.get_port());
    Ok(connection)
}

/// A [`Line`] whose users take turns.
#[derive(Clone)]
pub(super) struct SharedLine(Arc<Mutex<Line>>);

impl SharedLine {
    pub(super) fn new(line: Line) -> Self {
        Self(Arc::new(Mutex::new(line)))
    }

    pub(super) async fn lock(&self) -> MutexGuard<'_, Line> {
        self.0.lock().await
    }
}

/// Waits for an answer of the database, but not for ever.
pub(super) async fn within<T>(
    patience: Duration,
    answer: impl Future<Output = Result<T, impl Into<Fault>>>,
) -> Attempted<T> {
    match tokio::time::timeout(patience, answer).await {
        Ok(answer) => answer.map_err(Into::into),
        Err(_) => Err(Fault::Silence(patience)),
    }
}

/// The connections for everything that is not hot.
pub(super) fn pool(config: &PostgresConfig, size: u32) -> StoreResult<PgPool> {
    let options = config.options()?;
    let port = options.get_port();
    Ok(PgPoolOptions::new()
        .max_connections(size)
        .acquire_timeout(config.acquire_timeout)
        .test_before_acquire(false)
        .before_acquire(|connection, meta| {
            Box::pin(async move { Ok(meta.idle_for < TRUSTED || connection.ping().await.is_ok()) })
        })
        .idle_timeout(Duration::from_secs(300))
        .after_connect(move |_, _| {
            nodelay::set(port);
            Box::pin(std::future::ready(Ok(())))
        })
        .connect_lazy_with(options.options(COOL)))
}

/// Tries `$work` on a connection of a [`Line`] until it succeeds or there is no sense in trying again. The connection is
/// `$connection` in `$work`, which is evaluated anew for each attempt.
macro_rules! on_line {
    ($line:expr, $repeat:expr, |$connection:ident| $work:expr) => {{
        let mut retries = $crate::postgres::fault::Retries::new($repeat);
        let source = $line;
        loop {
            // Cancellation point, and so is every wait in `$work`: dropped here, the connection is closed.
            let attempted = match source.take().await {
                Ok(mut taken) => {
                    let $connection: &mut sqlx::PgConnection = &mut taken;
                    let attempted = $crate::postgres::connect::within(source.patience(), $work).await;
                    source.give_back(taken, &attempted).await;
                    attempted
                }
                Err(fault) => Err(fault),
            };
            if let Some(answer) = retries.settle(attempted).await {
                break answer;
            }
        }
    }};
}

/// The same on a connection of a pool.
macro_rules! on_pool {
    ($shared:expr, $repeat:expr, |$connection:ident| $work:expr) => {
        $crate::postgres::connect::on_line!(&$shared, $repeat, |$connection| $work)
    };
}

/// Tries an operation of a store on a connection of its pool.
macro_rules! run {
    ($store:ident, |$connection:ident| $work:expr) => {
        $crate::postgres::connect::on_pool!(
            $store.shared,
            $crate::postgres::fault::Repeat::Safe,
            |$connection| $work
        )
    };
}

/// The same for one whose answer the second time would be another: that it was done already.
macro_rules! run_once {
    ($store:ident, |$connection:ident| $work:expr) => {
        $crate::postgres::connect::on_pool!(
            $store.shared,
            $crate::postgres::fault::Repeat::Unsafe,
            |$connection| $work
        )
    };
}

pub(super) use {on_line, on_pool, run, run_once};
