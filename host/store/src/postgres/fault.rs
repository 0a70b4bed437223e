//! What goes wrong between here and the database, and when it makes sense to try again.

use std::time::{Duration, Instant};

use sqlx::postgres::{PgDatabaseError, PgSeverity};

use crate::{StoreError, StoreResult};

/// Why an attempt at an operation failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum Fault {
    /// What the driver says.
    #[error(transparent)]
    Sql(#[from] sqlx::Error),
    /// What this room says.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// There is no connection, and this is why.
    #[error("cannot connect: {0}")]
    NoConnection(String),
    /// There is none of several servers, and each has a reason that does not pass by itself.
    #[error("cannot connect: {0}")]
    NoneWillDo(String),
    /// A pooler stands in between.
    #[error(
        "the connections have no sessions of their own: a pooler such as PgBouncer gives them \
         another one with each transaction (pool_mode = transaction or statement), in which \
         settings, prepared statements and notices are lost. Let it pool sessions \
         (pool_mode = session), or connect to the server itself"
    )]
    SharedSession,
    /// The connection is there, but no answer comes.
    #[error("no answer within {0:?}")]
    Silence(Duration),
}

pub(super) type Attempted<T> = Result<T, Fault>;

/// What a fault says about the operation and its connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// It was rolled back, because it got in another's way. The connection is good.
    Conflict,
    /// It was not begun: there is no connection, or the one there was is of no use any more. A new
    /// one may do.
    NotBegun,
    /// The connection is gone or of no use, and with it the knowledge whether the operation was
    /// carried out.
    Lost,
    /// The same would fail again until somebody has put something right; then it succeeds. Nothing
    /// was carried out, and the connection is good.
    Later,
    /// The database is not the one that this program knows.
    Schema,
    /// The database cannot read its own data.
    Corrupt,
    /// The same again would fail in the same way: a fault of ours.
    Never,
}

impl Fault {
    pub(super) fn kind(&self) -> Kind {
        match self {
            Self::Store(_) => Kind::Never,
            Self::NoConnection(_) | Self::NoneWillDo(_) => Kind::NotBegun,
            Self::Silence(_) => Kind::Lost,
            Self::SharedSession => Kind::Later,
            Self::Sql(error) => match error {
                sqlx::Error::Database(error) => of_database(error.as_ref()),
                sqlx::Error::Io(_) | sqlx::Error::Tls(_) | sqlx::Error::Protocol(_) => Kind::Lost,
                // The last two: the connection was left in a transaction by somebody else.
                sqlx::Error::PoolTimedOut
                | sqlx::Error::BeginFailed
                | sqlx::Error::InvalidSavePointStatement => Kind::NotBegun,
                sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_) => Kind::Corrupt,
                _ => Kind::Never,
            },
        }
    }

    /// Whether the operation's connection must not be used again: it is gone, or nobody knows what
    /// it is in the middle of.
    pub(super) fn loses_connection(&self) -> bool {
        match self {
            // Said by an operation of ours, which has ended.
            Self::Store(_) => false,
            Self::Sql(sqlx::Error::Database(error)) => {
                ends_session(error.as_ref()) || matches!(self.kind(), Kind::Lost | Kind::NotBegun)
            }
            _ => true,
        }
    }
}

fn of_database(error: &dyn sqlx::error::DatabaseError) -> Kind {
    let code = error.code().unwrap_or_default();
    let kind = of_code(&code);
    // After a change of the schema, plans that a connection keeps cannot be used by it any more.
    let is_stale_plan = code == "0A000"
        && error
            .try_downcast_ref::<PgDatabaseError>()
            .is_some_and(|error| error.routine() == Some("RevalidateCachedQuery"));
    match kind {
        _ if is_stale_plan => Kind::NotBegun,
        // Two sessions made the same table at once, of which `if not exists` knows nothing: the
        // other may be one of ours that was ended in the middle.
        _ if is_of_catalog(error) => Kind::Conflict,
        // Whatever it was about, the connection is gone.
        Kind::Never if ends_session(error) => Kind::Lost,
        kind => kind,
    }
}

/// Whether a constraint of the system's own tables was in the way.
fn is_of_catalog(error: &dyn sqlx::error::DatabaseError) -> bool {
    let constraint = error.constraint().unwrap_or_default();
    error.is_unique_violation() && constraint.starts_with("pg_")
}

/// FATAL and PANIC.
fn ends_session(error: &dyn sqlx::error::DatabaseError) -> bool {
    error
        .try_downcast_ref::<PgDatabaseError>()
        .is_none_or(|error| !matches!(error.severity(), PgSeverity::Error | PgSeverity::Warning))
}

/// What an SQLSTATE says: <https://www.postgresql.org/docs/current/errcodes-appendix.html>. The
/// first line that fits decides; a code of two characters is a class. What is not here is a fault
/// of ours: bad data (22), broken constraints (23), bad syntax (42) and their like.
const CODES: &[(&str, Kind)] = &[
    // serialization_failure and deadlock_detected: rolled back in favour of somebody else.
    ("40001", Kind::Conflict),
    ("40P01", Kind::Conflict),
    // statement_completion_unknown
    ("40003", Kind::Lost),
    // transaction_rollback: the rest of the class.
    ("40", Kind::Conflict),
    // lock_not_available: `lock_timeout` or `nowait`.
    ("55P03", Kind::Conflict),
    // snapshot_too_old
    ("72000", Kind::Conflict),
    // sqlclient_unable_to_establish_sqlconnection,
    // sqlserver_rejected_establishment_of_sqlconnection
    ("08001", Kind::NotBegun),
    ("08004", Kind::NotBegun),
    // connection_exception: the rest of the class. Poolers report theirs as 08P01.
    ("08", Kind::Lost),
    // idle_in_transaction_session_timeout: ended between two statements of a transaction, which was
    // rolled back.
    ("25P03", Kind::NotBegun),
    // in_failed_sql_transaction, active_sql_transaction, no_active_sql_transaction: the connection
    // is not in the state that every operation begins with.
    ("25P02", Kind::NotBegun),
    ("25001", Kind::NotBegun),
    ("25P01", Kind::NotBegun),
    // read_only_sql_transaction: this was the primary until a failover. A new connection may find
    // the new one.
    ("25006", Kind::NotBegun),
    // transaction_timeout
    ("25P04", Kind::Lost),
    // invalid_sql_statement_name, duplicate_prepared_statement: a pooler or `deallocate all` has
    // forgotten what this connection had prepared, or has kept what another had.
    ("26000", Kind::NotBegun),
    ("42P05", Kind::NotBegun),
    // idle_session_timeout: ended while it waited for the statement that now gets this answer.
    ("57P05", Kind::NotBegun),
    // cannot_connect_now: starting, stopping or recovering.
    ("57P03", Kind::NotBegun),
    // admin_shutdown, crash_shutdown, database_dropped: may strike between a commit and its answer.
    ("57P01", Kind::Lost),
    ("57P02", Kind::Lost),
    ("57P04", Kind::Lost),
    // operator_intervention: the rest of the class, foremost query_canceled, which the statement
    // timeout is too.
    ("57", Kind::Later),
    // too_many_connections: a moment later there may be one.
    ("53300", Kind::NotBegun),
    // insufficient_resources: disk_full, out_of_memory and their like.
    ("53", Kind::Later),
    // system_error: io_error, undefined_file.
    ("58", Kind::Later),
    // configuration_file_error
    ("F0", Kind::Later),
    // invalid_authorization_specification, invalid_password; invalid_catalog_name;
    // insufficient_privilege: for an operator to put right.
    ("28", Kind::Later),
    ("3D000", Kind::Later),
    ("42501", Kind::Later),
    // undefined_table, undefined_column, undefined_function, invalid_schema_name
    ("42P01", Kind::Schema),
    ("42703", Kind::Schema),
    ("42883", Kind::Schema),
    ("3F000", Kind::Schema),
    // internal_error, data_corrupted, index_corrupted
    ("XX", Kind::Corrupt),
];

fn of_code(code: &str) -> Kind {
    let fits = |(known, _): &&(&str, Kind)| code.starts_with(known);
    CODES.iter().find(fits).map_or(Kind::Never, |(_, kind)| *kind)
}

impl From<Fault> for StoreError {
    fn from(fault: Fault) -> Self {
        let text = fault.to_string();
        match (&fault, fault.kind()) {
            (Fault::Store(error), _) => error.clone(),
            (Fault::SharedSession | Fault::NoneWillDo(_), _) => Self::Misconfigured(text),
            (_, Kind::Conflict | Kind::NotBegun | Kind::Lost | Kind::Later) => {
                Self::Unavailable(text)
            }
            (_, Kind::Schema) => Self::Schema(format!("{text}; run `taskforge migrate`")),
            (_, Kind::Corrupt) => Self::Corrupt(text),
            (_, Kind::Never) => Self::Refused(text),
        }
    }
}

/// Whether an operation may be carried out twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Repeat {
    /// The second time finds what the first has done, and answers as the first would have.
    Safe,
    /// The answer of the first time would be lost.
    Unsafe,
}

/// Decides after each attempt whether there is to be another one.
pub(super) struct Retries {
    repeat: Repeat,
    begin: Instant,
    left: u32,
    pause: Duration,
}

/// Attempts after the first. With the pauses below they bridge a second and a half: a restart of
/// the database, but not an outage, which callers should hear of.
const RETRIES: u32 = 6;
const FIRST_PAUSE: Duration = Duration::from_millis(25);

/// No attempt begins later than this after the first. Where a single one takes so long (a network
/// that swallows everything, a pool that is used up), the caller has waited enough.
const LONGEST: Duration = Duration::from_secs(4);

impl Retries {
    pub(super) fn new(repeat: Repeat) -> Self {
        Self { repeat, begin: Instant::now(), left: RETRIES, pause: FIRST_PAUSE }
    }

    /// The answer that the caller gets, or `None` after the pause before the next attempt.
    pub(super) async fn settle<T>(&mut self, attempted: Attempted<T>) -> Option<StoreResult<T>> {
        let fault = match attempted {
            Ok(answer) => return Some(Ok(answer)),
            Err(fault) => fault,
        };
        let again = match fault.kind() {
            Kind::Conflict | Kind::NotBegun => true,
            Kind::Lost => self.repeat == Repeat::Safe,
            Kind::Later | Kind::Schema | Kind::Corrupt | Kind::Never => false,
        };
        if !again || self.left == 0 || self.begin.elapsed() > LONGEST {
            return Some(Err(fault.into()));
        }
        tracing::debug!(error = %fault, "a database operation is tried again");
        metrics::counter!("taskforge_store_retries_total").increment(1);
        self.left -= 1;
        // Those that ran into each other must not do so again in step.
        tokio::time::sleep(self.pause.mul_f64(0.5 + jitter())).await;
        self.pause *= 2;
        None
    }
}

/// 0 to 1. The clock's last digits are random enough to part two processes.
fn jitter() -> f64 {
    let nanos = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |time| time.subsec_nanos());
    f64::from(nanos % 1000) / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn impatient(repeat: Repeat) -> Retries {
        Retries { pause: Duration::ZERO, ..Retries::new(repeat) }
    }

    #[tokio::test]
    async fn what_might_have_been_done_is_repeated_only_where_that_is_safe() {
        let lost = || Err::<(), _>(Fault::Silence(Duration::from_secs(1)));
        assert!(matches!(
            impatient(Repeat::Unsafe).settle(lost()).await,
            Some(Err(StoreError::Unavailable(_)))
        ));
        let mut retries = impatient(Repeat::Safe);
        for _ in 0..RETRIES {
            assert_eq!(retries.settle(lost()).await, None);
        }
        assert!(matches!(retries.settle(lost()).await, Some(Err(StoreError::Unavailable(_)))));
        let mut retries = impatient(Repeat::Unsafe);
        let unreachable = Err::<(), _>(Fault::NoConnection("all are in use".into()));
        assert_eq!(retries.settle(unreachable).await, None);
    }

    #[test]
    fn every_class_of_sqlstate_says_what_comes_of_the_operation() {
        for (code, kind) in [
            ("40001", Kind::Conflict),
            ("40P01", Kind::Conflict),
            ("40002", Kind::Conflict),
            ("40003", Kind::Lost),
            ("55P03", Kind::Conflict),
            ("55006", Kind::Never),
            ("08006", Kind::Lost),
            ("08P01", Kind::Lost),
            ("08001", Kind::NotBegun),
            ("57P05", Kind::NotBegun),
            ("57P03", Kind::NotBegun),
            ("25P03", Kind::NotBegun),
            ("25P02", Kind::NotBegun),
            ("25006", Kind::NotBegun),
            ("26000", Kind::NotBegun),
            ("42P05", Kind::NotBegun),
            ("53300", Kind::NotBegun),
            ("57P01", Kind::Lost),
            ("57P02", Kind::Lost),
            ("57P04", Kind::Lost),
            ("57014", Kind::Later),
            ("53100", Kind::Later),
            ("53200", Kind::Later),
            ("58030", Kind::Later),
            ("28P01", Kind::Later),
            ("3D000", Kind::Later),
            ("42501", Kind::Later),
            ("42P01", Kind::Schema),
            ("XX001", Kind::Corrupt),
            ("22021", Kind::Never),
            ("23505", Kind::Never),
            ("42601", Kind::Never),
            ("", Kind::Never),
        ] {
            assert_eq!(of_code(code), kind, "{code}");
        }
    }

    #[test]
    fn no_line_of_the_table_is_hidden_by_one_before_it() {
        for (place, (code, _)) in CODES.iter().enumerate() {
            let hidden = CODES[..place].iter().find(|(before, _)| code.starts_with(before));
            assert_eq!(hidden, None, "{code}");
        }
    }

    #[tokio::test]
    async fn what_this_room_refuses_is_not_tried_again() {
        let refused = Err::<(), _>(Fault::Store(StoreError::Deposed));
        let answer = impatient(Repeat::Safe).settle(refused).await;
        assert_eq!(answer, Some(Err(StoreError::Deposed)));
    }
}
