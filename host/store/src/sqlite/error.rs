//! What the driver says into what the room says.

use crate::StoreError;

/// Primary result codes, <https://sqlite.org/rescode.html>.
const BUSY: i32 = 5;
const LOCKED: i32 = 6;
const OUT_OF_MEMORY: i32 = 7;
const READ_ONLY: i32 = 8;
const INPUT_OUTPUT: i32 = 10;
const CORRUPT: i32 = 11;
const FULL: i32 = 13;
const CANNOT_OPEN: i32 = 14;
const NOT_A_DATABASE: i32 = 26;

/// Whether the database's lock was in somebody else's hands for too long.
pub(super) fn is_locked(error: &StoreError) -> bool {
    // What SQLite says to BUSY.
    matches!(error, StoreError::Unavailable(why) if why.contains("database is locked"))
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        match error {
            sqlx::Error::Database(error) => {
                // The low byte of the extended code is the primary one.
                let code =
                    error.code().and_then(|code| code.parse::<i32>().ok()).unwrap_or(0) & 0xff;
                match code {
                    BUSY | LOCKED | OUT_OF_MEMORY | READ_ONLY | INPUT_OUTPUT | FULL
                    | CANNOT_OPEN => Self::Unavailable(error.to_string()),
                    CORRUPT | NOT_A_DATABASE => Self::Corrupt(error.to_string()),
                    _ => Self::Refused(error.to_string()),
                }
            }
            sqlx::Error::PoolClosed | sqlx::Error::WorkerCrashed => Self::Closed,
            error @ (sqlx::Error::Io(_) | sqlx::Error::PoolTimedOut) => {
                Self::Unavailable(error.to_string())
            }
            error @ (sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_)) => {
                Self::Corrupt(error.to_string())
            }
            error => Self::Refused(error.to_string()),
        }
    }
}
