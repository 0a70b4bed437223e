//! The connection for commands, and whether it is up.

use std::{
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
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

/// A connection that was up for so long is sound: its end is a new fault, so the pause before the
/// next attempt begins at its shortest again.
const SOUND: Duration = Duration::from_secs(10);

/// Whether commands can be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    Up,
    Away,
    /// The server is there, but the queues under our prefix are another fleet's.
    OtherFleet,
}

/// One connection for the whole process; commands of all callers share it.
///
/// The first command that fails, for whatever reason, takes the connection down. From then on calls
/// fail at once, instead of each after its own timeout, until [`Connection::keep`] has connected
/// again.
#[derive(Debug)]
pub(super) struct Connection {
    servers: Servers,
    timeout: Duration,
    current: Mutex<Current>,
    state: watch::Sender<State>,
    /// Why it last was not up.
    fault: Mutex<BrokerError>,
    eviction: Mutex<Option<Eviction>>,
    /// For messages.
    prefix: String,
    /// Counts failures that may have lost hints: a push or the answer to a pop did not arrive.
    losses: watch::Sender<u64>,
    /// How many of them the server has been told of.
    losses_told: AtomicU64,
}

/// The transport that commands use now.
#[derive(Debug, Default)]
struct Current {
    /// Counts transports, so that the late failure of an old one does not take down its successor.
    number: u64,
    transport: Option<Transport>,
}

#[derive(Debug, Clone)]
struct Servers {
    is_cluster: bool,
    urls: Vec<String>,
    certificates: Option<TlsCertificates>,
}

/// Clones share what they are a clone of.
#[derive(Clone)]
enum Transport {
    Single(MultiplexedConnection),
    Cluster(ClusterConnection),
}

impl std::fmt::Debug for Transport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Transport")
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

impl Connection {
    /// A connection that is down.
    pub(super) fn new(config: &RedisConfig) -> BrokerResult<Self> {
        let (is_cluster, urls) = config.servers()?;
        // Fails when there is a provider already, which serves as well.
        rustls::crypto::ring::default_provider().install_default().ok();
        Ok(Self {
            servers: Servers { is_cluster, urls, certificates: config.certificates() },
            timeout: config.timeout,
            current: Mutex::default(),
            state: watch::Sender::new(State::Away),
            fault: Mutex::new(away()),
            eviction: Mutex::default(),
            prefix: config.prefix.clone(),
            losses: watch::Sender::default(),
            losses_told: AtomicU64::new(0),
        })
    }

    /// Whether it is up, as far as is known.
    pub(super) fn state(&self) -> State {
        *self.state.borrow()
    }

    /// Tells when the state changes.
    pub(super) fn watch(&self) -> watch::Receiver<State> {
        self.state.subscribe()
    }

    /// Why it last was not up.
    pub(super) fn why_not(&self) -> BrokerError {
        self.fault.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What the server was last found to do when its memory is full. `None`: it has
    /// not been asked yet.
    pub(super) fn eviction(&self) -> Option<Eviction> {
        self.eviction.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// URLs of servers that can be subscribed to.
    pub(super) fn urls(&self) -> &[String] {
        &self.servers.urls
    }

    /// A client of one of these servers.
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
        let Some((number, mut transport)) = self.transport() else {
            if carries == Carries::Hints {
                self.losses.send_modify(|losses| *losses += 1);
            }
            return Err(away());
        };
        let outcome = timeout(self.timeout, transport.run(script)).await;
        self.judge(number, outcome, carries)
    }

    /// Runs a command.
    pub(super) async fn command<T: FromRedisValue>(&self, command: &redis::Cmd) -> BrokerResult<T> {
        let Some((number, mut transport)) = self.transport() else {
            return Err(away());
        };
        let outcome = timeout(self.timeout, transport.command(command)).await;
        self.judge(number, outcome, Carries::Nothing)
    }

    fn judge<T>(
        &self,
        number: u64,
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
            self.losses.send_modify(|losses| *losses += 1);
        }
        self.take_down(number, state, &error);
        Err(error)
    }

    /// Drops the transport of this number, unless another one has taken its place.
    fn take_down(&self, number: u64, state: State, error: &BrokerError) {
        let mut current = self.current();
        if current.number == number {
            current.transport = None;
            if self.state.send_replace(state) == State::Up {
                tracing::warn!(%error, "Redis is away");
            }
        }
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

    /// Connects, and again whenever the connection is down; never ends.
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
                Ok(transport) => {
                    let up = Instant::now();
                    let number = self.bring_up(transport.clone());
                    // A server that comes and goes is not greeted each time.
                    if greeted.is_none_or(|greeted| greeted.elapsed() > SOUND) {
                        tracing::info!("Redis is there");
                        greeted = Some(up);
                    }
                    self.watch_over(number, transport, scripts).await;
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

    fn bring_up(&self, transport: Transport) -> u64 {
        let mut current = self.current();
        *current = Current { number: current.number + 1, transport: Some(transport) };
        self.state.send_replace(State::Up);
        current.number
    }

    /// Returns once the connection is down. Meanwhile tells the server of losses that come to light
    /// late, and asks it at intervals what it does when its memory is full.
    async fn watch_over(&self, number: u64, mut transport: Transport, scripts: &Scripts) {
        let (mut state, mut losses) = (self.state.subscribe(), self.losses.subscribe());
        let down = state.wait_for(|state| *state != State::Up);
        let mut clone = transport.clone();
        let tell = async {
            loop {
                // Fails only when the sender is gone, and that is in `self`.
                losses.wait_for(|losses| *losses != self.losses_told()).await.ok();
                if let Err(error) = self.tell_losses(&mut clone, scripts).await {
                    return self.explain(&error);
                }
            }
        };
        let ask = async {
            let mut ticks = tokio::time::interval(eviction::INTERVAL);
            ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            loop {
                ticks.tick().await;
                let found = transport.eviction().await;
                let mut known = self.eviction.lock().unwrap_or_else(PoisonError::into_inner);
                found.report(known.as_ref());
                *known = Some(found);
            }
        };
        tokio::select! {
            _ = down => {}
            (state, error) = tell => self.take_down(number, state, &error),
            () = ask => {}
        }
    }

    /// Connects, and checks that the server can serve a broker, and this fleet's. A loss is told
    /// before any other command can be sent.
    async fn connect(&self, scripts: &Scripts) -> Result<Transport, (State, BrokerError)> {
        let refused = |error: RedisError| self.explain(&error);
        let mut transport = self.servers.connect(self.timeout).await.map_err(refused)?;
        transport.run::<()>(&scripts.hello()).await.map_err(refused)?;
        self.tell_losses(&mut transport, scripts).await.map_err(refused)?;
        Ok(transport)
    }

    /// Tells the server that hints may have been lost, if they may. Cancel safe: what was not told
    /// to the end is told again.
    async fn tell_losses(&self, transport: &mut Transport, scripts: &Scripts) -> RedisResult<()> {
        let losses = *self.losses.borrow();
        if losses == self.losses_told() {
            return Ok(());
        }
        let rebuild = taskforge_domain::TaskId::generate().to_string();
        transport.run::<String>(&scripts.completeness("lose", &rebuild)).await?;
        self.losses_told.store(losses, Ordering::Release);
        Ok(())
    }

    fn losses_told(&self) -> u64 {
        self.losses_told.load(Ordering::Acquire)
    }

    /// The transport to use now, and its number.
    fn transport(&self) -> Option<(u64, Transport)> {
        let current = self.current();
        Some((current.number, current.transport.clone()?))
    }

    /// Never held across a wait.
    fn current(&self) -> MutexGuard<'_, Current> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn away() -> BrokerError {
    BrokerError("Redis is away".into())
}

impl Servers {
    fn is_encrypted(&self) -> bool {
        self.urls.iter().any(|url| url.starts_with("rediss:"))
    }

    async fn connect(&self, limit: Duration) -> RedisResult<Transport> {
        if self.is_cluster {
            let mut client = ClusterClient::builder(self.urls.clone())
                .connection_timeout(limit)
                .response_timeout(limit)
                .retries(2);
            if let Some(certificates) = self.certificates.as_ref().filter(|_| self.is_encrypted()) {
                client = client.certs(certificates.clone());
            }
            let client = client.build()?;
            return client.get_async_connection().await.map(Transport::Cluster);
        }
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(limit))
            .set_response_timeout(Some(limit))
            // Batches are few and each waits for its answer, so that no queue grows here.
            .set_concurrency_limit(256);
        let mut refused = None;
        for url in &self.urls {
            let client = client(url, self.certificates.as_ref())?;
            match client.get_multiplexed_async_connection_with_config(&config).await {
                Ok(connection) => return Ok(Transport::Single(connection)),
                Err(error) => refused = Some(error),
            }
        }
        Err(refused.unwrap_or_else(|| {
            (redis::ErrorKind::InvalidClientConfig, "no server is named").into()
        }))
    }
}

impl Transport {
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
