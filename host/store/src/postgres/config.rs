//! How a process uses the database.

use std::{net::IpAddr, path::PathBuf, str::FromStr, time::Duration};

use sqlx::{
    ConnectOptions,
    postgres::{PgConnectOptions, PgSslMode},
};

use super::fault::Fault;
use crate::{StoreError, StoreResult};

/// How a process uses the database; every field but the URL has a default.
#[derive(Debug, Clone)]
pub struct PostgresConfig {
    /// `postgres://user:password@host:port/database`. TLS is asked for in it: `?sslmode=verify-full&sslrootcert=/path/ca.pem` (`disable`,
    /// `prefer`, `require`, `verify-ca`, `verify-full`; the system's certificates if it names none). If it says nothing: `disable` for a
    /// server on this very host, and `prefer` for any other.
    pub url: String,
    /// The most connections that this process opens, [`Notices`](super::Notices) apart, which take two, and the heartbeat of each worker
    /// in it, which takes one. Six are kept for the hot
    /// operations; the others are opened as they are needed. At least 8.
    pub max_connections: u32,
    /// How long to wait for a connection, new or free, before the operation counts as failed.
    pub acquire_timeout: Duration,
    /// How long the database may work on one statement. An answer that takes twice as long is given up by this side, because then it is
    /// the network that is silent. Whole milliseconds; zero: for ever.
    pub statement_timeout: Duration,
    /// How long a transaction of ours may sit idle before the database ends it: a process that is frozen halfway must not keep its locks
    /// for ever. Whole milliseconds; zero: for ever.
    pub idle_transaction_timeout: Duration,
    /// Whether a claim waits for the disk, as everything else does. If not, a task is in its worker's hands one fsync earlier, and a crash of
    /// the *database* (not of a worker) may forget the claims of its last half second. Their tasks then wait again and are run again: no
    /// task is lost and no result committed twice, but for once a lease number is given out twice.
    pub durable_claims: bool,
    /// What the database calls this process in `pg_stat_activity`.
    pub application_name: String,
    /// A file of PEM certificates of authorities that are believed besides the system's (or those that `SSL_CERT_FILE`
    /// and `SSL_CERT_DIR` name), unless the URL has an `sslrootcert`.
    pub authorities: Option<PathBuf>,
}

impl PostgresConfig {
    /// The least that [`PostgresConfig::max_connections`] may be.
    pub const MIN_CONNECTIONS: u32 = 8;

    /// The defaults for a database.
    #[must_use]
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            max_connections: 12,
            acquire_timeout: Duration::from_secs(5),
            statement_timeout: Duration::from_secs(10),
            idle_transaction_timeout: Duration::from_secs(5),
            durable_claims: true,
            application_name: "taskforge".into(),
            authorities: None,
        }
    }

    /// # Errors
    /// [`StoreError::Refused`] when the URL is none. The message does not repeat it, since it may hold a password.
    pub(super) fn options(&self) -> StoreResult<PgConnectOptions> {
        let mut options = parse(&self.url)?;
        if let Some(file) = self
            .authorities
            .as_ref()
            .filter(|_| !self.url.contains("sslrootcert="))
        {
            options = options.ssl_root_cert(file);
        }
        let options = options.application_name(&self.application_name).options([
            (
                "statement_timeout",
                self.statement_timeout.as_millis().to_string(),
            ),
            (
                "idle_in_transaction_session_timeout",
                self.idle_transaction_timeout.as_millis().to_string(),
            ),
            // A process that is frozen or gone in the middle of an answer must not keep the locks of its statement: `statement_timeout`
            // does not end one that cannot be sent.
            ("tcp_user_timeout", "15000".to_owned()),
            ("tcp_keepalives_idle", "10".to_owned()),
            ("tcp_keepalives_interval", "3".to_owned()),
            // Statements are short and many: compiling one would take longer than running it.
            ("jit", "off".to_owned()),
        ]);
        Ok(options)
    }

    /// How long to wait for an answer.
    pub(super) fn patience(&self) -> Duration {
        if self.statement_timeout.is_zero() {
            Duration::MAX
        } else {
            self.statement_timeout.saturating_mul(2)
        }
    }
}

/// # Errors
/// [`StoreError::Refused`], as [`PostgresConfig::options`].
pub(super) fn parse(url: &str) -> StoreResult<PgConnectOptions> {
    match PgConnectOptions::from_str(url) {
        // TLS on the loopback protects nothing, and costs.
        Ok(options) if is_loopback(options.get_host()) && !url.contains("sslmode=") => {
            Ok(options.ssl_mode(PgSslMode::Disable).disable_statement_logging())
        }
        Ok(options) => Ok(options.disable_statement_logging()),
        Err(error) => Err(StoreError::Refused(format!(
            "the database URL cannot be used: {}",
            Fault::Sql(error)
        ))),
    }
}

fn is_loopback(host: &str) -> bool {
    host == "localhost"
        || host
            .trim_matches(['[', ']'])
            .parse()
            .is_ok_and(|ip: IpAddr| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(url: &str) -> PgSslMode {
        parse(url).unwrap().get_ssl_mode()
    }

    #[test]
    fn tls_is_what_the_url_says_and_off_on_the_loopback() {
        for local in ["localhost", "127.0.0.1:5433", "[::1]"] {
            assert!(matches!(
                mode(&format!("postgres://{local}/db")),
                PgSslMode::Disable
            ));
            let explicit = format!("postgres://{local}/db?sslmode=require");
            assert!(matches!(mode(&explicit), PgSslMode::Require));
        }
        assert!(matches!(mode("postgres://db.example/db"), PgSslMode::Prefer));
    }

    #[test]
    fn a_bad_url_is_refused_without_being_repeated() {
        let error = parse("postgres//me:secret@").unwrap_err();
        assert!(
            matches!(&error, StoreError::Refused(why) if !why.contains("secret")),
            "{error}"
        );
    }
}
