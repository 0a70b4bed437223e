//! Who sweeps.

use std::time::Duration;

use sqlx::SqliteConnection;
use taskforge_domain::{Timestamp, WorkerId};

use super::param::{time, time_after, worker_id};
use crate::{StoreError, StoreResult, Term};

/// A vacancy, one's own term, or one whose time is up. Only a change of leader begins a new term. A
/// clock that goes back does not shorten one.
const LEAD: &str = "
    update leadership
    set term = term + (leader is not ?1), leader = ?1, until = iif(leader is ?1, max(until, ?3), ?3)
    where leader is null or leader = ?1 or until <= ?2
    returning term";

const RESIGN: &str = "update leadership set leader = null where term = ?1";

/// The latest term, unless its leader resigned.
const HOLDS: &str =
    "select exists (select 1 from leadership where term = ?1 and leader is not null)";

pub(super) async fn lead(
    connection: &mut SqliteConnection,
    who: WorkerId,
    now: Timestamp,
    ttl: Duration,
) -> StoreResult<Option<Term>> {
    let term =
        sqlx::query_scalar(LEAD).bind(worker_id(who)).bind(time(now)).bind(time_after(now, ttl));
    Ok(term.fetch_optional(connection).await?.map(Term))
}

pub(super) async fn resign(connection: &mut SqliteConnection, term: Term) -> StoreResult<()> {
    sqlx::query(RESIGN).bind(term.0).execute(connection).await?;
    Ok(())
}

/// Ends whatever leadership there is. Whoever opens the file knows that its leader is gone, because
/// the file has one owner.
pub(super) async fn vacate(connection: &mut SqliteConnection) -> StoreResult<()> {
    sqlx::query("update leadership set leader = null where leader is not null")
        .execute(connection)
        .await?;
    Ok(())
}

/// Fails unless the term holds. What follows in the caller's transaction happens under it: nobody
/// else writes meanwhile.
pub(super) async fn fence(transaction: &mut SqliteConnection, term: Term) -> StoreResult<()> {
    let holds: bool = sqlx::query_scalar(HOLDS).bind(term.0).fetch_one(transaction).await?;
    if holds { Ok(()) } else { Err(StoreError::Deposed) }
}
