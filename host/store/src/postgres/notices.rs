//! `listen` and `notify`: word that travels between the processes of a fleet when there is no other
//! messenger.

use std::{sync::Arc, time::Duration};

use sqlx::{
    Connection as _,
    postgres::{PgListener, PgPoolOptions},
};
use tokio::{sync::broadcast, task::JoinHandle};

use super::{
    connect::{Connections, Servers, on, within},
    fault::{Attempted, Fault, Repeat},
    nodelay, session,
};
use crate::{PostgresConfig, StoreError, StoreResult};

/// Everybody's channel.
const CHANNEL: &str = "taskforge";

/// All notices of a call in one transaction. Equal ones arrive as one.
const POST: &str = "select count(pg_notify('taskforge', notice)) from unnest($1::text[]) as notice";

/// Nothing is lost with a notice but time, so nobody waits for the disk.
const POSTING: &[(&str, &str)] = &[("synchronous_commit", "off")];

/// Whoever listens is idle by nature.
const LISTENING: &[(&str, &str)] = &[("idle_session_timeout", "0")];

/// The longest notice, in bytes; the database refuses longer ones.
const LONGEST: usize = 7_999;

/// Notices that a slow reader may fall behind.
const BUFFER: usize = 4_096;

/// How long the server may say nothing before it is asked whether it is there.
const SILENCE: Duration = Duration::from_secs(30);

const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// Sends short texts to every process that is connected to the same database, and receives theirs.
///
/// Nothing is kept: whoever is not connected when a notice is posted never sees it. A reader learns
/// that it may have missed something in one of two ways, and must look for itself then: it gets an
/// *empty* notice after the connection was lost and found again, and
/// [`RecvError::Lagged`](broadcast::error::RecvError::Lagged) when it was too slow.
pub struct Notices {
    posting: Connections,
    heard: broadcast::Sender<String>,
    listener: JoinHandle<()>,
}

impl Drop for Notices {
    fn drop(&mut self) {
        self.listener.abort();
    }
}

impl Notices {
    /// Connects, with two connections: one posts, the other listens, and is restored for ever when
    /// it is lost. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] when the database cannot be reached, [`StoreError::Refused`]
    /// when the URL is none.
    pub async fn connect(config: &PostgresConfig) -> StoreResult<Arc<Self>> {
        let servers = Servers::of(config)?;
        let listener = listen(&servers).await?;
        let (heard, _) = broadcast::channel(BUFFER);
        Ok(Arc::new(Self {
            posting: Connections::new(&servers, 1, POSTING),
            listener: tokio::spawn(relay(servers, listener, heard.clone())),
            heard,
        }))
    }

    /// Sends notices to everybody who listens, this process included.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] when the database cannot be reached, [`StoreError::Refused`]
    /// when a notice is empty, has a U+0000 in it or is longer than 7,999 bytes.
    pub async fn post(&self, notices: &[String]) -> StoreResult<()> {
        let is_bad =
            |notice: &String| notice.is_empty() || notice.len() > LONGEST || notice.contains('\0');
        if notices.iter().any(is_bad) {
            return Err(StoreError::Refused(
                "a notice is 1 to 7,999 bytes of text without U+0000".into(),
            ));
        }
        if notices.is_empty() {
            return Ok(());
        }
        on!(&self.posting, Repeat::Safe, |connection| async {
            sqlx::query(POST).bind(notices).execute(connection).await.map(drop)
        })
    }

    /// Listens from now on.
    #[must_use]
    pub fn listen(&self) -> broadcast::Receiver<String> {
        self.heard.subscribe()
    }
}

async fn listen(servers: &Servers) -> Attempted<PgListener> {
    let settings = servers.settings(LISTENING);
    // The driver's listener takes its connection from a pool, which would not say why there is
    // none, nor which of the servers takes writes.
    let (found, options) = servers.connect(&settings).await?;
    within(servers.acquire_timeout(), found.close()).await.ok();
    let pool = PgPoolOptions::new()
        .max_connections(1)
        .acquire_timeout(servers.acquire_timeout())
        .idle_timeout(None)
        .max_lifetime(None)
        .connect_lazy_with(options.clone());
    let begun = async {
        let mut first = pool.acquire().await?;
        nodelay::set(options.get_port());
        session::begin(&mut first, &settings).await?;
        drop(first);
        let mut listener = PgListener::connect_with(&pool).await?;
        // Otherwise it would come back by itself, and nobody would know that something was missed.
        listener.eager_reconnect(false);
        listener.listen(CHANNEL).await?;
        Ok::<_, Fault>(listener)
    };
    within(servers.acquire_timeout(), begun).await
}

/// Hands on what arrives, and comes back after every loss.
async fn relay(servers: Arc<Servers>, mut listener: PgListener, heard: broadcast::Sender<String>) {
    loop {
        let why = hear(&mut listener, servers.acquire_timeout(), &heard).await;
        tracing::warn!(error = %why, "no notices arrive; connecting again");
        drop(listener);
        let mut pause = FIRST_PAUSE;
        listener = loop {
            match listen(&servers).await {
                Ok(listener) => break listener,
                Err(fault) => {
                    tracing::debug!(error = %fault, "still no notices");
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
            }
        };
        // Nobody may be listening, which is no failure.
        heard.send(String::new()).ok();
    }
}

/// Returns when the connection is lost. A server that hangs keeps its connections, so one that says
/// nothing is asked whether it is there.
async fn hear(
    listener: &mut PgListener,
    limit: Duration,
    heard: &broadcast::Sender<String>,
) -> Fault {
    loop {
        // What was read of a notice stays in the connection's buffer.
        let Ok(received) = tokio::time::timeout(SILENCE, listener.try_recv()).await else {
            match within(limit, sqlx::query("select 1").execute(&mut *listener)).await {
                Ok(_) => continue,
                Err(fault) => return fault,
            }
        };
        match received {
            Ok(Some(notice)) => {
                heard.send(notice.payload().to_owned()).ok();
            }
            Ok(None) => {
                return Fault::Sql(sqlx::Error::Io(std::io::ErrorKind::ConnectionAborted.into()));
            }
            Err(error) => return Fault::Sql(error),
        }
    }
}
