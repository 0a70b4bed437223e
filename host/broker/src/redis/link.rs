//! The connection that carries commands, and whether it works.

use std::{
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use redis::{
    AsyncConnectionConfig, Client, FromRedisValue, RedisResult, ScriptInvocation, TlsCertificates,
    aio::MultiplexedConnection, cluster::ClusterClient, cluster_async::ClusterConnection,
};
use tokio::{sync::watch, time::timeout};

use super::{RedisConfig, config::client, scripts::Scripts};
use crate::{BrokerError, BrokerResult, health};

/// Pauses between attempts to reach a server that is away: the first, and the longest.
pub(super) const RETRY: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(1));

/// One connection for the whole process; commands of all callers share it.
///
/// The first command that fails, for whatever reason, puts the link down, and from then on calls fail at once instead of waiting for their
/// timeouts one by one. [`Link::keep`] brings it up again.
#[derive(Debug)]
pub(super) struct Link {
    servers: Servers,
    timeout: Duration,
    connection: Mutex<Option<Connection>>,
    is_up: watch::Sender<bool>,
    /// Hints may have been lost on the way: a push did not arrive, or what was popped did not.
    has_lost: AtomicBool,
    /// It was down, and this process may have claimed what Redis should have counted.
    was_away: AtomicBool,
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
            servers: Servers {
                is_cluster,
                urls,
                certificates: config.certificates(),
            },
            timeout: config.timeout,
            connection: Mutex::new(None),
            is_up: watch::Sender::new(false),
            has_lost: AtomicBool::new(false),
            was_away: AtomicBool::new(false),
        })
    }

    /// Whether it works, as far as is known.
    pub(super) fn is_up(&self) -> bool {
        *self.is_up.borrow()
    }

    /// Tells when that changes.
    pub(super) fn watch(&self) -> watch::Receiver<bool> {
        self.is_up.subscribe()
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
            return Err(BrokerError("Redis is away".into()));
        };
        let outcome = timeout(self.timeout, connection.run(script)).await;
        self.judge(outcome, carries)
    }

    /// Runs a command.
    pub(super) async fn command<T: FromRedisValue>(&self, command: &redis::Cmd) -> BrokerResult<T> {
        let Some(mut connection) = self.connection().clone() else {
            return Err(BrokerError("Redis is away".into()));
        };
        let outcome = timeout(self.timeout, connection.command(command)).await;
        self.judge(outcome, Carries::Nothing)
    }

    fn judge<T>(
        &self,
        outcome: Result<RedisResult<T>, tokio::time::error::Elapsed>,
        carries: Carries,
    ) -> BrokerResult<T> {
        let error = match outcome {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(error)) => BrokerError(error.to_string()),
            Err(_) => BrokerError(format!("no answer from Redis within {:?}", self.timeout)),
        };
        health::count_error();
        if carries != Carries::Nothing {
            self.has_lost.store(true, Ordering::Release);
        }
        self.connection().take();
        self.was_away.store(true, Ordering::Release);
        if self.is_up.send_replace(false) {
            tracing::warn!(%error, "Redis is away");
        }
        Err(error)
    }

    /// Brings the link up, and up again whenever it is down; never ends. Answers that hints may have been lost go to the scripts, before any
    /// other command can.
    pub(super) async fn keep(&self, scripts: &Scripts) {
        let mut pause = RETRY.0;
        loop {
            let attempt = timeout(2 * self.timeout, self.connect(scripts)).await;
            match attempt.unwrap_or_else(|_| Err(BrokerError("no answer from Redis".into()))) {
                Ok(connection) => {
                    pause = RETRY.0;
                    *self.connection() = Some(connection);
                    self.is_up.send_replace(true);
                    tracing::info!("Redis is there");
                    // Fails only when the sender is gone, and that is in `self`.
                    self.is_up.subscribe().wait_for(|is_up| !is_up).await.ok();
                    tokio::time::sleep(pause).await;
                }
                Err(error) => {
                    self.was_away.store(true, Ordering::Release);
                    tracing::debug!(%error, "Redis is still away");
                    tokio::time::sleep(pause).await;
                    pause = (2 * pause).min(RETRY.1);
                }
            }
        }
    }

    /// Connects, and sees whether the server takes writes: a replica, or one that is loading or full, serves no broker.
    async fn connect(&self, scripts: &Scripts) -> BrokerResult<Connection> {
        let refused = |error: redis::RedisError| BrokerError(error.to_string());
        let mut connection = self.servers.connect(self.timeout).await.map_err(refused)?;
        let mut hello = redis::cmd("SET");
        hello.arg(scripts.key("hello")).arg(1).arg("PX").arg(60_000);
        connection.command::<()>(&hello).await.map_err(refused)?;
        // What fails from here on is told next time.
        if self.has_lost.swap(false, Ordering::AcqRel) {
            let rebuild = taskforge_domain::TaskId::generate().to_string();
            let told = connection
                .run::<String>(&scripts.completeness("lose", &rebuild))
                .await;
            if let Err(error) = told {
                self.has_lost.store(true, Ordering::Release);
                return Err(refused(error));
            }
        }
        if self.was_away.load(Ordering::Acquire) {
            connection.run::<()>(&scripts.uncount()).await.map_err(refused)?;
            self.was_away.store(false, Ordering::Release);
        }
        Ok(connection)
    }

    /// Never held across a wait.
    fn connection(&self) -> MutexGuard<'_, Option<Connection>> {
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }
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
        Err(refused.unwrap_or_else(|| (redis::ErrorKind::InvalidClientConfig, "no server is named").into()))
    }
}

impl Connection {
    async fn run<T: FromRedisValue>(&mut self, script: &ScriptInvocation<'_>) -> RedisResult<T> {
        match self {
            Self::Single(connection) => script.invoke_async(connection).await,
            Self::Cluster(connection) => script.invoke_async(connection).await,
        }
    }

    async fn command<T: FromRedisValue>(&mut self, command: &redis::Cmd) -> RedisResult<T> {
        match self {
            Self::Single(connection) => command.query_async(connection).await,
            Self::Cluster(connection) => command.query_async(connection).await,
        }
    }
}
