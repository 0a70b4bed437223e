//! The connection that carries commands, and whether it works.

use std::{
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use redis::{
    AsyncConnectionConfig, Client, FromRedisValue, RedisError, RedisResult, ScriptInvocation,
    TlsCertificates, aio::MultiplexedConnection, cluster::ClusterClient,
    cluster_async::ClusterConnection,
};
use tokio::{
    sync::watch,
    time::{Instant, timeout},
};

use super::{
    RedisConfig,
    config::client,
    eviction::{self, Eviction},
    scripts::{OTHER_FLEET, Scripts},
};
use crate::{BrokerError, BrokerResult, health};

/// Pauses between attempts to reach a server that is away: the first, and the longest.
pub(super) const RETRY: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(1));

/// A link that was up for so long is sound: what puts it down then is another fault.
const SOUND: Duration = Duration::from_secs(10);

/// Whether commands are carried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    Up,
    Away,
    /// The server is there, but the queues under our prefix are another fleet's.
    OtherFleet,
}

/// One connection for the whole process; commands of all callers share it.
///
/// The first command that fails, for whatever reason, puts the link down, and from then on calls
/// fail at once instead of waiting for their timeouts one by one. [`Link::keep`] brings it up
/// again.
#[derive(Debug)]
pub(super) struct Link {
    servers: Servers,
    timeout: Duration,
    connection: Mutex<Option<Connection>>,
    state: watch::Sender<State>,
    /// Why it last was not up.
    fault: Mutex<BrokerError>,
    eviction: Mutex<Option<Eviction>>,
    /// For messages.
    prefix: String,
    /// Hints may have been lost on the way: a push did not arrive, or what was popped did not.
    has_lost: AtomicBool,
}

#[derive(Debug, Clone)]
struct Servers {
    is_cluster: bool,
    urls: Vec<String>,
    certificates: Option<TlsCertificates>,
}

/// Clones share what they are a clone of.
#[derive(Clone)]
enum Connection {
    Single(MultiplexedConnection),
    Cluster(ClusterConnection),
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Connection")
    }
}

/// Whether a failed call may have lost hints.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Carries {
    /// To the server.
    Hints,
    /// From the server.
    Answers,
    Nothing,
}

impl Link {
    /// A link that is down.
    pub(super) fn new(config: &RedisConfig) -> BrokerResult<Self> {
        let (is_cluster, urls) = config.servers()?;
        // Fails when there is a provider already, which serves as well.
        rustls::crypto::ring::default_provider().install_default().ok();
        Ok(Self {
            servers: Servers { is_cluster, urls, certificates: config.certificates() },
            timeout: config.timeout,
            connection: Mutex::new(None),
            state: watch::Sender::new(State::Away),
            fault: Mutex::new(away()),
            eviction: Mutex::default(),
            prefix: config.prefix.clone(),
            has_lost: AtomicBool::new(false),
        })
    }

    /// Whether it works, as far as is known.
    pub(super) fn state(&self) -> State {
        *self.state.borrow()
    }

    /// Tells when that changes.
    pub(super) fn watch(&self) -> watch::Receiver<State> {
        self.state.subscribe()
    }

    /// Why it last was not up.
    pub(super) fn why_not(&self) -> BrokerError {
        self.fault.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What the server was last found to do when its memory is full. `None`: it was not asked yet.
    pub(super) fn eviction(&self) -> Option<Eviction> {
        self.eviction.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// URLs of servers that can be subscribed to.
    pub(super) fn urls(&self) -> &[String] {
        &self.servers.urls
    }

    /// A client of one of them.
    pub(super) fn client(&self, url: &str) -> RedisResult<Client> {
        client(url, self.servers.certificates.as_ref())
    }

    pub(super) const fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Runs a script.
    pub(super) async fn call<T: FromRedisValue>(
        &self,
        script: &ScriptInvocation<'_>,
        carries: Carries,
    ) -> BrokerResult<T> {
        let Some(mut connection) = self.connection().clone() else {
            if carries == Carries::Hints {
                self.has_lost.store(true, Ordering::Release);
            }
            return Err(away());
        };
        let outcome = timeout(self.timeout, connection.run(script)).await;
        self.judge(outcome, carries)
    }

    /// Runs a command.
    pub(super) async fn command<T: FromRedisValue>(&self, command: &redis::Cmd) -> BrokerResult<T> {
        let Some(mut connection) = self.connection().clone() else {
            return Err(away());
        };
        let outcome = timeout(self.timeout, connection.command(command)).await;
        self.judge(outcome, Carries::Nothing)
    }

    fn judge<T>(
        &self,
        outcome: Result<RedisResult<T>, tokio::time::error::Elapsed>,
        carries: Carries,
    ) -> BrokerResult<T> {
        let (state, error) = match outcome {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(error)) => self.explain(&error),
            Err(_) => {
                let silence = format!("no answer from Redis within {:?}", self.timeout);
                (State::Away, BrokerError(silence))
            }
        };
        health::count_error();
        if carries != Carries::Nothing {
            self.has_lost.store(true, Ordering::Release);
        }
        self.connection().take();
        if self.state.send_replace(state) == State::Up {
            tracing::warn!(%error, "Redis is away");
        }
        Err(error)
    }

    fn explain(&self, error: &RedisError) -> (State, BrokerError) {
        if error.code() != Some(OTHER_FLEET) {
            return (State::Away, BrokerError(error.to_string()));
        }
        let why = format!(
            "the fleet {} keeps its queues there under the prefix {:?}: give each fleet a prefix of its own \
             (--redis-prefix, TASKFORGE_REDIS_PREFIX), or delete the keys of that prefix if that fleet is gone",
            error.detail().unwrap_or("of another database"),
            self.prefix
        );
        (State::OtherFleet, BrokerError(why))
    }

    /// Brings the link up, and up again whenever it is down; never ends. Answers that hints may
    /// have been lost go to the scripts, before any other command can.
    pub(super) async fn keep(&self, scripts: &Scripts) {
        let mut pause = RETRY.0;
        let mut greeted: Option<Instant> = None;
        loop {
            let limit = 2 * self.timeout;
            let attempt = timeout(limit, self.connect(scripts)).await;
            match attempt.unwrap_or_else(|_| {
                let silence = format!(
                    "no answer from Redis within {limit:?}, the look-up of its name included"
                );
                Err((State::Away, BrokerError(silence)))
            }) {
                Ok(connection) => {
                    let up = Instant::now();
                    *self.connection() = Some(connection.clone());
                    self.state.send_replace(State::Up);
                    // One that comes and goes is not greeted each time.
                    if greeted.is_none_or(|greeted| greeted.elapsed() > SOUND) {
                        tracing::info!("Redis is there");
                        greeted = Some(up);
                    }
                    self.watch_over(connection).await;
                    if up.elapsed() > SOUND {
                        pause = RETRY.0;
                    }
                }
                Err((state, error)) => {
                    *self.fault.lock().unwrap_or_else(PoisonError::into_inner) = error.clone();
                    self.state.send_replace(state);
                    tracing::warn!(%error, "Redis cannot be used; tasks are claimed from the database");
                }
            }
            tokio::time::sleep(pause).await;
            pause = (2 * pause).min(RETRY.1);
        }
    }

    /// Returns once the link is down. Meanwhile the server is asked now and then whether it still
    /// keeps what it is given.
    async fn watch_over(&self, mut connection: Connection) {
        let mut state = self.state.subscribe();
        let down = state.wait_for(|state| *state != State::Up);
        let ask = async {
            let mut ticks = tokio::time::interval(eviction::INTERVAL);
            ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            loop {
                ticks.tick().await;
                let found = connection.eviction().await;
                let mut known = self.eviction.lock().unwrap_or_else(PoisonError::into_inner);
                found.report(known.as_ref());
                *known = Some(found);
            }
        };
        tokio::select! {
            // Fails only when the sender is gone, and that is in `self`.
            _ = down => {}
            () = ask => {}
        }
    }

    /// Connects, and sees whether the server serves a broker, and this fleet's.
    async fn connect(&self, scripts: &Scripts) -> Result<Connection, (State, BrokerError)> {
        let refused = |error: RedisError| self.explain(&error);
        let mut connection = self.servers.connect(self.timeout).await.map_err(refused)?;
        connection.run::<()>(&scripts.hello()).await.map_err(refused)?;
        // What fails from here on is told next time.
        if self.has_lost.swap(false, Ordering::AcqRel) {
            let rebuild = taskforge_domain::TaskId::generate().to_string();
            let told = connection.run::<String>(&scripts.completeness("lose", &rebuild)).await;
            if let Err(error) = told {
                self.has_lost.store(true, Ordering::Release);
                return Err(refused(error));
            }
        }
        Ok(connection)
    }

    /// Never held across a wait.
    fn connection(&self) -> MutexGuard<'_, Option<Connection>> {
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn away() -> BrokerError {
    BrokerError("Redis is away".into())
}

impl Servers {
    fn is_encrypted(&self) -> bool {
        self.urls.iter().any(|url| url.starts_with("rediss:"))
    }

    async fn connect(&self, patience: Duration) -> RedisResult<Connection> {
        if self.is_cluster {
            let mut client = ClusterClient::builder(self.urls.clone())
                .connection_timeout(patience)
                .response_timeout(patience)
                .retries(2);
            if let Some(certificates) = self.certificates.as_ref().filter(|_| self.is_encrypted()) {
                client = client.certs(certificates.clone());
            }
            let client = client.build()?;
            return client.get_async_connection().await.map(Connection::Cluster);
        }
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(patience))
            .set_response_timeout(Some(patience))
            // Batches are few and each waits for its answer, so that no queue grows here.
            .set_concurrency_limit(256);
        let mut refused = None;
        for url in &self.urls {
            let client = client(url, self.certificates.as_ref())?;
            match client.get_multiplexed_async_connection_with_config(&config).await {
                Ok(connection) => return Ok(Connection::Single(connection)),
                Err(error) => refused = Some(error),
            }
        }
        Err(refused.unwrap_or_else(|| {
            (redis::ErrorKind::InvalidClientConfig, "no server is named").into()
        }))
    }
}

impl Connection {
    async fn run<T: FromRedisValue>(&mut self, script: &ScriptInvocation<'_>) -> RedisResult<T> {
        match self {
            Self::Single(connection) => script.invoke_async(connection).await,
            Self::Cluster(connection) => script.invoke_async(connection).await,
        }
    }

    /// What the server does when its memory is full.
    async fn eviction(&mut self) -> Eviction {
        let mut reasons = Vec::new();
        for question in eviction::questions() {
            match eviction::read(self.command(&question).await) {
                Ok(found) => return found,
                Err(reason) => reasons.push(reason),
            }
        }
        Eviction::Unknown(reasons.join("; "))
    }

    async fn command<T: FromRedisValue>(&mut self, command: &redis::Cmd) -> RedisResult<T> {
        match self {
            Self::Single(connection) => command.query_async(connection).await,
            Self::Cluster(connection) => command.query_async(connection).await,
        }
    }
}
