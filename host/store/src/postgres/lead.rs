//! One sweeper at a time.
//!
//! A row is the fence, and not an advisory lock: that would stay with a leader whose process was
//! stopped, and end with its connection instead of its term.

use std::time::Duration;

use sqlx::{Connection, PgConnection, PgTransaction};
use taskforge_domain::{Timestamp, WorkerId};

use super::{
    fault::Attempted,
    param::{time, time_after},
};
use crate::{StoreError, Term};

/// Begins a new term if the last is over, prolongs it if it is the caller's own. Answers with
/// nothing while another leads.
const LEAD: &str = "
    insert into leadership (name, holder, term, expires_at) values ('sweep', $1, 1, $3)
    on conflict (name) do update
    set holder = excluded.holder,
        expires_at = excluded.expires_at,
        term = leadership.term + (leadership.holder is distinct from excluded.holder)::integer
    where leadership.holder = excluded.holder or leadership.holder is null or leadership.expires_at <= $2
    returning term";

/// The term stays, so that the next one is another.
const RESIGN: &str = "update leadership set holder = null where name = 'sweep' and term = $1";

/// Holds the term until the end of the transaction: who wants to begin the next one waits for that
/// long. A term ends with a resignation.
const HOLD: &str =
    "select 1 from leadership where name = 'sweep' and term = $1 and holder is not null for share";

pub(super) async fn lead(
    connection: &mut PgConnection,
    who: WorkerId,
    now: Timestamp,
    ttl: Duration,
) -> Attempted<Option<Term>> {
    let term: Option<i64> = sqlx::query_scalar(LEAD)
        .bind(who.as_uuid())
        .bind(time(now))
        .bind(time_after(now, ttl))
        .fetch_optional(connection)
        .await?;
    Ok(term.map(Term))
}

pub(super) async fn resign(connection: &mut PgConnection, term: Term) -> Attempted<()> {
    sqlx::query(RESIGN).bind(term.0).execute(connection).await?;
    Ok(())
}

/// Begins a transaction of a leader.
pub(super) async fn begin(
    connection: &mut PgConnection,
    term: Term,
) -> Attempted<PgTransaction<'_>> {
    let mut transaction = connection.begin().await?;
    let holds = sqlx::query(HOLD).bind(term.0).fetch_optional(&mut *transaction).await?;
    match holds {
        Some(_) => Ok(transaction),
        None => Err(StoreError::Deposed.into()),
    }
}
