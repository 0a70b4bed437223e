//! One sweeper at a time.
//!
//! A row is the fence, and not a lock: that would stay with a leader whose process was stopped, and
//! end with its connection instead of its term.

use std::time::Duration;

use taskforge_domain::{Timestamp, WorkerId};

use super::{
    driver::{self, Attempted, Connection, HOLD, LEAD, RESIGN, Transaction, fault},
    param::{time, time_after},
};
use crate::{StoreError, Term};

pub(super) async fn lead(
    connection: &mut Connection,
    who: WorkerId,
    now: Timestamp,
    ttl: Duration,
) -> Attempted<Option<Term>> {
    let term = sqlx::query_scalar(LEAD)
        .bind(who.as_uuid())
        .bind(time(now))
        .bind(time_after(now, ttl))
        .fetch_optional(connection)
        .await?;
    Ok(term.map(Term))
}

pub(super) async fn resign(connection: &mut Connection, term: Term) -> Attempted<()> {
    sqlx::query(RESIGN).bind(term.0).execute(connection).await?;
    Ok(())
}

/// Begins a transaction that writes: of a leader, or of somebody who needs no leadership. It fails
/// unless the term holds, and nobody begins the next one before it ends.
pub(super) async fn begin(
    connection: &mut Connection,
    term: Option<Term>,
) -> Attempted<Transaction<'_>> {
    let mut transaction = driver::begin(connection).await?;
    let Some(term) = term else {
        return Ok(transaction);
    };
    match sqlx::query(HOLD).bind(term.0).fetch_optional(&mut *transaction).await? {
        Some(_) => Ok(transaction),
        None => Err(fault(StoreError::Deposed)),
    }
}
