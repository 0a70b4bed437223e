//! What every process of a fleet shares: the database, and the broker before it.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use async_trait::async_trait;
use taskforge_broker::{
    Broker, BrokerError, BrokerResult, Bulletin, FleetBroker, RedisBroker, RedisConfig, StoreBroker,
};
use taskforge_store::{Notices, PostgresConfig, PostgresStore, StoreClock as _, StoreError};
use tokio::sync::broadcast;

use crate::{
    args::{BrokerArgs, BrokerKind, DatabaseArgs},
    authorities,
};

/// Between two tries of a database that is not there yet.
const STARTUP_PAUSE: Duration = Duration::from_secs(1);

const UNUSABLE: &str = "cannot use the database (--database-url, DATABASE_URL)";

/// A process's place in the fleet.
pub(crate) struct Fleet {
    pub(crate) store: Arc<PostgresStore>,
    pub(crate) broker: Arc<dyn Broker>,
}

impl Fleet {
    /// Connects to the database, which is waited for, and to the broker, which may come later.
    pub(crate) async fn join(database: &DatabaseArgs, broker: &BrokerArgs) -> anyhow::Result<Self> {
        let store = connect(database).await?;
        let config = config(database);
        let notices = patiently(database.startup_timeout, || Notices::connect(&config))
            .await
            .context(UNUSABLE)?;
        let bulletin: Arc<dyn Bulletin> = Arc::new(Noticeboard(notices));
        let kind = broker.broker.unwrap_or(match &broker.redis_url {
            Some(_) => BrokerKind::Redis,
            None => BrokerKind::Postgres,
        });
        let broker: Arc<dyn Broker> = match (kind, &broker.redis_url) {
            (BrokerKind::Postgres, _) => Arc::new(StoreBroker::new(bulletin)),
            (BrokerKind::Redis, None) => {
                bail!("the broker is redis, but no server is named (--redis-url, REDIS_URL)")
            }
            (BrokerKind::Redis, Some(url)) => {
                let fleet = patiently(database.startup_timeout, || store.fleet_id()).await;
                let config = RedisConfig {
                    prefix: broker.redis_prefix.clone(),
                    authorities: authorities::of_redis()?,
                    fleet: Some(fleet.context(UNUSABLE)?),
                    clock: store.clock().clone(),
                    ..RedisConfig::new(url)
                };
                let redis =
                    RedisBroker::connect(&config).await.context("--redis-url, REDIS_URL")?;
                Arc::new(FleetBroker::new(redis, bulletin))
            }
        };
        Ok(Self { store, broker })
    }

    /// Flushes what is queued and closes the connections.
    pub(crate) async fn leave(self) {
        self.store.close().await;
    }
}

/// The database's settings, as the arguments give them.
pub(crate) fn config(args: &DatabaseArgs) -> PostgresConfig {
    PostgresConfig {
        schema: args.database_schema.clone(),
        max_connections: args.database_connections,
        statement_timeout: args.statement_timeout,
        ..PostgresConfig::new(authorities::of_database(&args.database_url))
    }
}

/// Connects to the database. One that does not answer may be starting too, so it is asked again for
/// a while; one with another schema is not what this process can wait for.
pub(crate) async fn connect(args: &DatabaseArgs) -> anyhow::Result<Arc<PostgresStore>> {
    let config = config(args);
    patiently(args.startup_timeout, || PostgresStore::connect(&config)).await.context(UNUSABLE)
}

/// Repeats what fails because the database is not there.
pub(crate) async fn patiently<T, F: Future<Output = Result<T, StoreError>>>(
    longest: Duration,
    mut ask: impl FnMut() -> F,
) -> Result<T, StoreError> {
    let began = Instant::now();
    loop {
        match ask().await {
            Err(StoreError::Unavailable(reason)) if began.elapsed() < longest => {
                tracing::warn!(error = reason, "waiting for the database");
                tokio::time::sleep(STARTUP_PAUSE).await;
            }
            answer => return answer,
        }
    }
}

/// The database's `listen` and `notify`, as the broker knows it.
struct Noticeboard(Arc<Notices>);

#[async_trait]
impl Bulletin for Noticeboard {
    async fn post(&self, notices: &[String]) -> BrokerResult<()> {
        self.0.post(notices).await.map_err(|error| BrokerError(error.to_string()))
    }

    fn listen(&self) -> broadcast::Receiver<String> {
        self.0.listen()
    }
}
