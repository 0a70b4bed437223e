//! What goes wrong between here and the database, and when it makes sense to try again.

use std::time::{Duration, Instant};

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
    /// The connection is there, but no answer comes.
    #[error("no answer within {0:?}")]
    Silence(Duration),
}

pub(super) type Attempted<T> = Result<T, Fault>;

/// What a fault says about the operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// It was rolled back, because it got in another's way.
    Conflict,
    /// The connection is gone or of no use, and with it the knowledge whether the operation was carried out.
    Lost,
    /// There never was a connection: nothing was carried out.
    Unreachable,
    /// The same again would fail in the same way.
    Final,
}

impl Fault {
    pub(super) fn kind(&self) -> Kind {
        match self {
            Self::Store(_) => Kind::Final,
            Self::NoConnection(_) => Kind::Unreachable,
            Self::Silence(_) => Kind::Lost,
            Self::Sql(error) => match error {
                sqlx::Error::Database(error) => of_code(error.code().as_deref().unwrap_or_default()),
                sqlx::Error::Io(_) | sqlx::Error::Tls(_) | sqlx::Error::Protocol(_) => Kind::Lost,
                sqlx::Error::PoolTimedOut => Kind::Unreachable,
                _ => Kind::Final,
            },
        }
    }
}

/// <https://www.postgresql.org/docs/current/errcodes-appendix.html>
fn of_code(code: &str) -> Kind {
    match code {
        // serialization_failure, deadlock_detected, lock_not_available
        "40001" | "40P01" | "55P03" => Kind::Conflict,
        // admin_shutdown, crash_shutdown, idle_in_transaction_session_timeout; read_only_sql_transaction: this was the primary, until it
        // failed over. A new connection may find the new one.
        "57P01" | "57P02" | "25P03" | "25006" => Kind::Lost,
        // cannot_connect_now, too_many_connections
        "57P03" | "53300" => Kind::Unreachable,
        code if code.starts_with("08") => Kind::Lost,
        _ => Kind::Final,
    }
}

impl From<Fault> for StoreError {
    fn from(fault: Fault) -> Self {
        let text = fault.to_string();
        match &fault {
            Fault::Store(error) => error.clone(),
            Fault::Sql(sqlx::Error::Database(error)) => match error.code().as_deref().unwrap_or_default() {
                // query_canceled: the statement timeout.
                "57014" => Self::Unavailable(text),
                // insufficient_resources, system_error
                code if code.starts_with("53") || code.starts_with("58") => Self::Unavailable(text),
                // undefined_table, undefined_column, undefined_function
                "42P01" | "42703" | "42883" => Self::Schema(format!("{text}; run `taskforge migrate`")),
                // data_corrupted, index_corrupted
                code if code.starts_with("XX") => Self::Corrupt(text),
                // invalid_password, invalid_catalog_name: for an operator to put right, and then the same call succeeds.
                code if code.starts_with("28") || code == "3D000" => Self::Unavailable(text),
                _ if fault.kind() == Kind::Final => Self::Refused(text),
                _ => Self::Unavailable(text),
            },
            Fault::Sql(sqlx::Error::PoolClosed | sqlx::Error::WorkerCrashed) => Self::Closed,
            Fault::Sql(sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_)) => Self::Corrupt(text),
            Fault::Sql(_) if fault.kind() == Kind::Final => Self::Refused(text),
            _ => Self::Unavailable(text),
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

/// Attempts after the first. With the pauses below they bridge a second and a half: a restart of the database, but not an outage, which
/// callers should hear of.
const RETRIES: u32 = 6;
const FIRST_PAUSE: Duration = Duration::from_millis(25);

/// No attempt begins later than this after the first. Where a single one takes so long (a network that swallows everything, a pool that is
/// used up), the caller has waited enough.
const LONGEST: Duration = Duration::from_secs(4);

impl Retries {
    pub(super) fn new(repeat: Repeat) -> Self {
        Self {
            repeat,
            begin: Instant::now(),
            left: RETRIES,
            pause: FIRST_PAUSE,
        }
    }

    /// The answer that the caller gets, or `None` after the pause before the next attempt.
    pub(super) async fn settle<T>(&mut self, attempted: Attempted<T>) -> Option<StoreResult<T>> {
        let fault = match attempted {
            Ok(answer) => return Some(Ok(answer)),
            Err(fault) => fault,
        };
        let again = match fault.kind() {
            Kind::Conflict | Kind::Unreachable => true,
            Kind::Lost => self.repeat == Repeat::Safe,
            Kind::Final => false,
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
        Retries {
            pause: Duration::ZERO,
            ..Retries::new(repeat)
        }
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
        assert!(matches!(
            retries.settle(lost()).await,
            Some(Err(StoreError::Unavailable(_)))
        ));
        let mut retries = impatient(Repeat::Unsafe);
        let unreachable = Err::<(), _>(Fault::Sql(sqlx::Error::PoolTimedOut));
        assert_eq!(retries.settle(unreachable).await, None);
    }

    #[tokio::test]
    async fn what_this_room_refuses_is_not_tried_again() {
        let refused = Err::<(), _>(Fault::Store(StoreError::Deposed));
        let answer = impatient(Repeat::Safe).settle(refused).await;
        assert_eq!(answer, Some(Err(StoreError::Deposed)));
    }
}
