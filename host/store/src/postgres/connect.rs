//! Connections: a few of each kind, opened as they are needed.
//!
//! # Cancellation
//! An operation may be dropped at any `.await`: a deadline passes, a caller goes away, the process
//! ends. What its connection is in the middle of then, nobody knows: a `begin` may be on its way,
//! an answer may be outstanding. So an operation *takes* a connection, and gives it back when it
//! has ended by itself and left no transaction open. Dropped in between, the connection is closed,
//! the database rolls back what was not committed, and the next operation gets another connection.

use std::{
    ops::{Deref, DerefMut},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use sqlx::{Connection, PgConnection, postgres::PgConnectOptions};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{
    address::Address,
    fault::{Attempted, Fault, Kind},
    nodelay,
    session::{self, Settings},
};
use crate::{PostgresConfig, StoreError, StoreResult};

/// What a hot operation's connection is told about plans.
///
/// A hot statement is planned once for a connection, and its plan must still be right when an empty
/// table has become one of a million rows. So nothing is left to choose by statistics: the plan is
/// generic, tables are reached through indexes only, and the rows of a batch meet those of the
/// table in a hash join. What a nested loop over the batch would cost depends on which side the
/// planner takes for the smaller one; the hash join costs one pass over each.
pub(super) const HOT: &[(&str, &str)] = &[
    ("plan_cache_mode", "force_generic_plan"),
    ("enable_seqscan", "off"),
    ("enable_nestloop", "off"),
    ("enable_mergejoin", "off"),
    // The rows that one batch changes wait in memory for the second half of their statement.
    ("work_mem", "32MB"),
];

/// What a hot connection is told if it need not wait for the disk.
pub(super) const LAZY: &[(&str, &str)] = &[("synchronous_commit", "off")];

/// What the connection of claims in order is told. Its plans are generic too, and of the form that
/// their statements dictate: a loop over lanes, and in each an index.
pub(super) const ORDER: &[(&str, &str)] = &[
    ("plan_cache_mode", "force_generic_plan"),
    ("enable_seqscan", "off"),
    ("enable_hashjoin", "off"),
    ("enable_mergejoin", "off"),
];

/// What the other connections are told. Their statements are rarer and their parameters differ
/// more, so each is planned for its own: that costs a millisecond and knows which partitions it
/// needs. Tables are reached through indexes, whatever a table that was never analysed looks like.
pub(super) const COOL: &[(&str, &str)] = &[
    ("plan_cache_mode", "force_custom_plan"),
    ("enable_seqscan", "off"),
    ("enable_hashjoin", "off"),
    ("enable_mergejoin", "off"),
];

/// A connection that was idle for longer is tried before it is used: the database, a proxy or a
/// firewall may have ended it meanwhile, and an operation that must not be carried out twice could
/// only report that.
const TRUSTED: Duration = Duration::from_secs(1);

/// A connection that was idle for longer is closed.
const LONGEST_IDLE: Duration = Duration::from_secs(300);

/// How often the sessions of two connections are compared.
const ROUNDS: u32 = 3;

/// The servers that may hold the database, of which one takes writes.
pub(super) struct Servers {
    options: Vec<PgConnectOptions>,
    /// The one that was last found to take writes. It is tried first.
    last: AtomicUsize,
    config: PostgresConfig,
}

impl Servers {
    /// # Errors
    /// [`StoreError::Refused`] when the URL is none, or the schema's name.
    pub(super) fn of(config: &PostgresConfig) -> StoreResult<Arc<Self>> {
        if let Some(name) = config.schema.as_deref().filter(|name| !is_plain_name(name)) {
            return Err(StoreError::Refused(format!(
                "{name:?} cannot be the name of a schema here: it must begin with a small letter or _, \
                 followed by at most 62 small letters, digits or _"
            )));
        }
        let address = Address::parse(&config.url)?;
        let authorities = config.authorities.as_ref().filter(|_| !address.names_authorities());
        let complete = |options: PgConnectOptions| {
            let options = options.application_name(&config.application_name);
            match authorities {
                Some(file) => options.ssl_root_cert(file),
                None => options,
            }
        };
        Ok(Arc::new(Self {
            options: address.options()?.into_iter().map(complete).collect(),
            last: AtomicUsize::new(0),
            config: config.clone(),
        }))
    }

    /// Finds the server that takes writes, and begins a session there in which these settings hold.
    /// Answers with the connection, and with how another one is made.
    pub(super) async fn connect(
        &self,
        settings: &Settings,
    ) -> Attempted<(PgConnection, &PgConnectOptions)> {
        let servers = self.options.len().max(1);
        // One that is silent must leave time for the others.
        let time_limit = self.config.acquire_timeout / u32::try_from(servers).unwrap_or(u32::MAX);
        let first = self.last.load(Ordering::Relaxed);
        let mut faults = Vec::new();
        for at in (0..servers).map(|n| (first + n) % servers) {
            let Some(options) = self.options.get(at) else {
                break;
            };
            match within(time_limit, open(options, settings)).await {
                Ok(connection) => {
                    self.last.store(at, Ordering::Relaxed);
                    return Ok((connection, options));
                }
                Err(fault) => faults.push((options, fault)),
            }
        }
        Err(why_none(faults))
    }

    /// Sees whether each connection has a session of its own for as long as it is open.
    ///
    /// # Errors
    /// [`StoreError::Refused`] when it does not: what must hold in a session cannot be had then,
    /// and will not be later. [`StoreError::Misconfigured`] when the database does not let this
    /// user in.
    pub(super) async fn check_sessions(&self) -> StoreResult<()> {
        let compared = self.compare_sessions(&self.settings(&[])).await;
        compared.map_err(why_not)
    }

    async fn compare_sessions(&self, settings: &Settings) -> Attempted<()> {
        let (mut one, _) = self.connect(settings).await?;
        let (mut other, _) = self.connect(settings).await?;
        let time_limit = self.config.acquire_timeout;
        let first = within(time_limit, session::backend(&mut one)).await?;
        // A pooler that shares sessions gives the one that has just become free, unless somebody
        // else is quicker.
        for _ in 0..ROUNDS {
            let second = within(time_limit, session::backend(&mut other)).await?;
            if second == first || within(time_limit, session::backend(&mut one)).await? != first {
                return Err(Fault::SharedSession);
            }
        }
        for connection in [one, other] {
            within(time_limit, connection.close()).await.ok();
        }
        Ok(())
    }

    /// Where names are looked up, if the configuration says so.
    pub(super) fn search_path(&self) -> Settings {
        let schema = self.config.schema.iter();
        schema.map(|name| ("search_path", name.clone())).collect()
    }

    /// What every session is told, and this.
    pub(super) fn settings(&self, more: &[(&'static str, &str)]) -> Settings {
        let millis = |duration: Duration| duration.as_millis().to_string();
        let all = [
            ("statement_timeout", millis(self.config.statement_timeout)),
            ("idle_in_transaction_session_timeout", millis(self.config.idle_transaction_timeout)),
            // A process that is frozen or gone in the middle of an answer must not keep the locks
            // of its statement: `statement_timeout` does not end one that cannot be sent.
            ("tcp_user_timeout", "15000".to_owned()),
            ("tcp_keepalives_idle", "10".to_owned()),
            ("tcp_keepalives_interval", "3".to_owned()),
            // Statements are short and many: compiling one would take longer than running it.
            ("jit", "off".to_owned()),
        ];
        let more = more.iter().map(|(name, value)| (*name, (*value).to_owned()));
        all.into_iter().chain(self.search_path()).chain(more).collect()
    }

    /// How long to wait for a connection.
    pub(super) const fn acquire_timeout(&self) -> Duration {
        self.config.acquire_timeout
    }
}

/// A name that needs no quotes.
fn is_plain_name(name: &str) -> bool {
    let first = |byte: u8| byte.is_ascii_lowercase() || byte == b'_';
    name.len() <= 63
        && name.bytes().next().is_some_and(first)
        && name.bytes().all(|byte| first(byte) || byte.is_ascii_digit())
        && !name.starts_with("pg_")
}

async fn open(options: &PgConnectOptions, settings: &Settings) -> Attempted<PgConnection> {
    let mut connection = PgConnection::connect_with(options).await?;
    nodelay::set(options.get_port());
    session::begin(&mut connection, settings).await?;
    Ok(connection)
}

/// Why no server could be had: of several, what each of them said.
fn why_none(mut faults: Vec<(&PgConnectOptions, Fault)>) -> Fault {
    if faults.len() == 1
        && let Some((_, fault)) = faults.pop()
    {
        return fault;
    }
    let are_for_good = faults.iter().all(|(_, fault)| is_for_good(fault));
    let all: Vec<_> = faults
        .iter()
        .map(|(options, fault)| {
            let host = match options.get_socket() {
                Some(socket) => socket.display().to_string(),
                None => options.get_host().to_owned(),
            };
            format!("{host} port {}: {fault}", options.get_port())
        })
        .collect();
    match are_for_good {
        true => Fault::NoneWillDo(all.join("; ")),
        false => Fault::NoConnection(all.join("; ")),
    }
}

/// Why a first connection was not had: for a wrong user, password, database or certificate there is
/// no sense in waiting.
fn why_not(fault: Fault) -> StoreError {
    match is_for_good(&fault) {
        true => StoreError::Misconfigured(fault.to_string()),
        false => fault.into(),
    }
}

/// Whether somebody must put something right before a server can be had.
fn is_for_good(fault: &Fault) -> bool {
    match fault {
        Fault::SharedSession | Fault::NoneWillDo(_) => true,
        Fault::Sql(sqlx::Error::Database(error)) => {
            let code = error.code().unwrap_or_default();
            // invalid_authorization_specification, invalid_catalog_name, insufficient_privilege
            ["28", "3D", "42501"].iter().any(|known| code.starts_with(known))
        }
        Fault::Sql(sqlx::Error::Tls(_) | sqlx::Error::Configuration(_)) => true,
        _ => false,
    }
}

/// Connections of one kind, at most so many.
#[derive(Clone)]
pub(super) struct Connections {
    shared: Arc<Shared>,
    time_limit: Duration,
}

struct Shared {
    servers: Arc<Servers>,
    settings: Settings,
    size: u32,
    permits: Arc<Semaphore>,
    /// Those that no operation has, and since when; the last is the one that was used last.
    idle: Mutex<Vec<(PgConnection, Instant)>>,
}

/// A connection in the hands of an operation. Dropped before it is given back, it is closed.
pub(super) struct Taken {
    connection: PgConnection,
    permit: OwnedSemaphorePermit,
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

impl Connections {
    pub(super) fn new(
        servers: &Arc<Servers>,
        size: u32,
        settings: &[(&'static str, &str)],
    ) -> Self {
        Self {
            shared: Arc::new(Shared {
                settings: servers.settings(settings),
                servers: Arc::clone(servers),
                size,
                permits: Arc::new(Semaphore::new(size as usize)),
                idle: Mutex::default(),
            }),
            time_limit: servers.config.time_limit(),
        }
    }

    /// One connection, for one hot operation.
    pub(super) fn hot(servers: &Arc<Servers>) -> Self {
        Self::new(servers, 1, HOT)
    }

    /// The same connections, for an operation whose answer may take this much longer.
    pub(super) fn with_more_time(&self, more: Duration) -> Self {
        Self { time_limit: self.time_limit.saturating_add(more), ..self.clone() }
    }

    /// Takes a connection, or opens one.
    pub(super) async fn take(&self) -> Attempted<Taken> {
        let Shared { servers, settings, size, permits, .. } = &*self.shared;
        let time_limit = servers.config.acquire_timeout;
        let permit =
            match tokio::time::timeout(time_limit, Arc::clone(permits).acquire_owned()).await {
                Ok(Ok(permit)) => permit,
                Ok(Err(_closed)) => return Err(StoreError::Closed.into()),
                Err(_) => {
                    let why = format!("all {size} connections were in use for {time_limit:?}");
                    return Err(Fault::NoConnection(why));
                }
            };
        let last = self.shared.idle().pop();
        if let Some((mut connection, since)) = last {
            if since.elapsed() < TRUSTED || within(time_limit, connection.ping()).await.is_ok() {
                return Ok(Taken { connection, permit });
            }
            // The others have been idle for longer, and whatever ended this one has ended them.
            self.shared.idle().clear();
        }
        let (connection, _) = servers.connect(settings).await.map_err(not_begun)?;
        Ok(Taken { connection, permit })
    }

    /// Takes a connection back, unless the operation left it in doubt.
    pub(super) async fn give_back<T>(&self, mut taken: Taken, attempted: &Attempted<T>) {
        if !is_sound(&mut taken, attempted, self.time_limit).await {
            return;
        }
        let Taken { connection, permit } = taken;
        let too_old = {
            let mut idle = self.shared.idle();
            let too_old =
                idle.iter().take_while(|(_, since)| since.elapsed() > LONGEST_IDLE).count();
            idle.push((connection, Instant::now()));
            idle.drain(..too_old).collect::<Vec<_>>()
        };
        // Only now, so that the next one finds it.
        drop(permit);
        if !too_old.is_empty() {
            let shared = Arc::clone(&self.shared);
            tokio::spawn(async move { shared.leave(too_old).await });
        }
    }

    /// Waits until all connections were given back, and ends them in the way that the database
    /// expects. Whoever wants one from then on hears that the store is closed.
    pub(super) async fn close(&self) {
        let Shared { size, permits, .. } = &*self.shared;
        // It fails when they are closed already.
        let all = permits.acquire_many(*size).await;
        permits.close();
        drop(all);
        let idle = std::mem::take(&mut *self.shared.idle());
        self.shared.leave(idle).await;
    }

    /// How long an answer may take.
    pub(super) const fn time_limit(&self) -> Duration {
        self.time_limit
    }
}

impl Shared {
    /// Never held across a wait.
    fn idle(&self) -> MutexGuard<'_, Vec<(PgConnection, Instant)>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn leave(&self, connections: Vec<(PgConnection, Instant)>) {
        for (connection, _) in connections {
            // The other end may be gone.
            within(self.servers.config.acquire_timeout, connection.close()).await.ok();
        }
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
async fn is_sound<T>(
    connection: &mut PgConnection,
    attempted: &Attempted<T>,
    time_limit: Duration,
) -> bool {
    if attempted.as_ref().is_err_and(Fault::loses_connection) {
        return false;
    }
    // A transaction that was dropped before its commit has left a rollback to be sent, and a
    // statement that failed has left the end of its answer to be read.
    let has_loose_ends = attempted.is_err() || connection.should_flush();
    if has_loose_ends && within(time_limit, connection.ping()).await.is_err() {
        return false;
    }
    !connection.is_in_transaction()
}

/// Waits for an answer of the database, but not for ever.
pub(super) async fn within<T>(
    time_limit: Duration,
    answer: impl Future<Output = Result<T, impl Into<Fault>>>,
) -> Attempted<T> {
    match tokio::time::timeout(time_limit, answer).await {
        Ok(answer) => answer.map_err(Into::into),
        Err(_) => Err(Fault::Silence(time_limit)),
    }
}

/// Tries `$work` on one of `$connections` until it succeeds or there is no sense in trying again.
/// The connection is `$connection` in `$work`, which is evaluated anew for each attempt.
macro_rules! on {
    ($connections:expr, $repeat:expr, |$connection:ident| $work:expr) => {{
        let mut retries = $crate::postgres::fault::Retries::new($repeat);
        let connections: &$crate::postgres::connect::Connections = $connections;
        loop {
            // Cancellation point, and so is every wait in `$work`: dropped here, the connection is
            // closed.
            let attempted = match connections.take().await {
                Ok(mut taken) => {
                    let $connection: &mut sqlx::PgConnection = &mut taken;
                    let attempted =
                        $crate::postgres::connect::within(connections.time_limit(), $work).await;
                    connections.give_back(taken, &attempted).await;
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

/// Tries an operation of a store on a connection that is for everything that is not hot.
macro_rules! run {
    ($store:ident, |$connection:ident| $work:expr) => {
        $crate::postgres::connect::on!(
            &$store.connections,
            $crate::postgres::fault::Repeat::Safe,
            |$connection| $work
        )
    };
}

/// The same for one whose answer the second time would be another: that it was done already.
macro_rules! run_once {
    ($store:ident, |$connection:ident| $work:expr) => {
        $crate::postgres::connect::on!(
            &$store.connections,
            $crate::postgres::fault::Repeat::Unsafe,
            |$connection| $work
        )
    };
}

pub(super) use {on, run, run as read, run_once};
