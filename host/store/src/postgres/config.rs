//! How a process uses the database.

use std::{path::PathBuf, time::Duration};

/// How a process uses the database; every field but the URL has a default.
#[derive(Debug, Clone)]
pub struct PostgresConfig {
    /// `postgres://user:password@host:port/database`, in which characters with a meaning of their
    /// own are written as `%XX`, and an IPv6 address in brackets. Several servers with commas
    /// between are asked in turn for the one that takes writes. TLS is asked for with
    /// `?sslmode=verify-full&sslrootcert=/path/ca.pem` (`disable`, `prefer`, `require`,
    /// `verify-ca`, `verify-full`; the system's certificates if it names none). If it says nothing:
    /// `disable` for a server on this very host, and `prefer` for any other.
    pub url: String,
    /// The schema that holds everything of TaskForge, for a database that is shared with other
    /// applications: small letters, digits and `_`. `None`: the first of the user's search path.
    pub schema: Option<String>,
    /// The most connections that this process opens, [`Notices`](super::Notices) apart, which take
    /// two, and the heartbeat of each worker in it, which takes one. Seven are kept for the hot
    /// operations; the others are opened as they are needed. At least 9.
    pub max_connections: u32,
    /// How long to wait for a connection, new or free, before the operation counts as failed.
    pub acquire_timeout: Duration,
    /// How long the database may work on one statement. An answer that takes twice as long is given
    /// up by this side, because then it is the network that is silent. Whole milliseconds; zero:
    /// for ever.
    pub statement_timeout: Duration,
    /// How long a transaction of ours may sit idle before the database ends it: a process that is
    /// frozen halfway must not keep its locks for ever. Whole milliseconds; zero: for ever.
    pub idle_transaction_timeout: Duration,
    /// Whether a claim waits for the disk, as everything else does. If not, a task is in its
    /// worker's hands one fsync earlier, and a crash of the *database* (not of a worker) may forget
    /// the claims of its last half second. Their tasks then wait again and are run again: no task
    /// is lost and no result committed twice, but for once a lease number is given out twice.
    pub durable_claims: bool,
    /// What the database calls this process in `pg_stat_activity`.
    pub application_name: String,
    /// A file of PEM certificates of authorities that are believed besides the system's (or those
    /// that `SSL_CERT_FILE` and `SSL_CERT_DIR` name), unless the URL has an `sslrootcert`.
    pub authorities: Option<PathBuf>,
}

impl PostgresConfig {
    /// The least that [`PostgresConfig::max_connections`] may be.
    pub const MIN_CONNECTIONS: u32 = 9;

    /// The defaults for a database.
    #[must_use]
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            schema: None,
            max_connections: 12,
            acquire_timeout: Duration::from_secs(5),
            statement_timeout: Duration::from_secs(10),
            idle_transaction_timeout: Duration::from_secs(5),
            durable_claims: true,
            application_name: "taskforge".into(),
            authorities: None,
        }
    }

    /// How long to wait for an answer.
    pub(super) fn time_limit(&self) -> Duration {
        if self.statement_timeout.is_zero() {
            Duration::MAX
        } else {
            self.statement_timeout.saturating_mul(2)
        }
    }
}
