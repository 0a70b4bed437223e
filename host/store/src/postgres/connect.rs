//! Connections: one for each hot operation, a pool for the rest.

use std::{sync::Arc, time::Duration};

use sqlx::{
    Connection, PgConnection, PgPool,
    postgres::{PgConnectOptions, PgPoolOptions},
};
use tokio::sync::{Mutex, MutexGuard};

use super::{
    fault::{Attempted, Fault},
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

/// A connection of one owner that comes back after it was lost.
pub(super) struct Line {
    options: PgConnectOptions,
    connect_timeout: Duration,
    patience: Duration,
    connection: Option<PgConnection>,
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
            connection: None,
        })
    }

    /// Connects if there is no connection.
    pub(super) async fn connect(&mut self) -> Attempted<&mut PgConnection> {
        let connection = match self.connection.take() {
            Some(connection) => connection,
            None => within(self.connect_timeout, connect(&self.options))
                .await
                // Whatever it was: nothing was carried out.
                .map_err(|fault| match fault {
                    Fault::Sql(sqlx::Error::Io(_)) | Fault::Silence(_) => {
                        Fault::NoConnection(fault.to_string())
                    }
                    fault => fault,
                })?,
        };
        Ok(self.connection.insert(connection))
    }

    /// Ends the connection, if there is one, in the way that the database expects.
    pub(super) async fn leave(self) {
        if let Some(connection) = self.connection {
            // The other end may be gone.
            within(self.connect_timeout, connection.close()).await.ok();
        }
    }

    /// How long an answer may take.
    pub(super) const fn patience(&self) -> Duration {
        self.patience
    }

    /// Gives the connection up after a fault that leaves it in an unknown state, so that the next attempt begins with a new one.
    pub(super) fn mend<T>(&mut self, attempted: &Attempted<T>) {
        if let Err(fault) = attempted
            && !matches!(fault, Fault::Sql(sqlx::Error::Database(error)) if !is_fatal(error.as_ref()))
        {
            self.connection = None;
        }
    }
}

fn lazy(config: &PostgresConfig) -> &'static [(&'static str, &'static str)] {
    if config.durable_claims { &[] } else { &LAZY }
}

/// The database ends the session after such an error; or the server only reads (25006), as one does that was the primary until a failover,
/// and a new connection finds the one that writes.
fn is_fatal(error: &dyn sqlx::error::DatabaseError) -> bool {
    let only_reads = error.code().is_some_and(|code| code == "25006");
    only_reads
        || error
            .try_downcast_ref::<sqlx::postgres::PgDatabaseError>()
            .is_none_or(|error| {
                !matches!(
                    error.severity(),
                    sqlx::postgres::PgSeverity::Error | sqlx::postgres::PgSeverity::Warning
                )
            })
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
        // A connection that has died is found by its first statement, which is then tried again.
        .test_before_acquire(false)
        .idle_timeout(Duration::from_secs(300))
        .after_connect(move |_, _| {
            nodelay::set(port);
            Box::pin(std::future::ready(Ok(())))
        })
        .connect_lazy_with(options.options(COOL)))
}

/// Tries `$work` on a [`Line`] or a pool until it succeeds or there is no sense in trying again. A connection is `$connection` in `$work`,
/// which is evaluated anew for each attempt.
macro_rules! on_line {
    ($line:expr, $repeat:expr, |$connection:ident| $work:expr) => {{
        let mut retries = $crate::postgres::fault::Retries::new($repeat);
        let line: &mut $crate::postgres::connect::Line = $line;
        loop {
            let patience = line.patience();
            let attempted = match line.connect().await {
                Ok($connection) => $crate::postgres::connect::within(patience, $work).await,
                Err(fault) => Err(fault),
            };
            line.mend(&attempted);
            if let Some(answer) = retries.settle(attempted).await {
                break answer;
            }
        }
    }};
}

macro_rules! on_pool {
    ($shared:expr, $repeat:expr, |$connection:ident| $work:expr) => {{
        let mut retries = $crate::postgres::fault::Retries::new($repeat);
        loop {
            let attempted = match $shared.pool.acquire().await {
                Ok(mut taken) => {
                    let $connection: &mut sqlx::PgConnection = &mut taken;
                    let attempted = $crate::postgres::connect::within($shared.patience, $work).await;
                    if let Err($crate::postgres::fault::Fault::Silence(_)) = &attempted {
                        // Nothing more will come of it, and the pool would wait for it.
                        drop(taken.detach());
                    }
                    attempted
                }
                Err(error) => Err(error.into()),
            };
            if let Some(answer) = retries.settle(attempted).await {
                break answer;
            }
        }
    }};
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
