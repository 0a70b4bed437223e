//! The bytes of components, in parts.
//!
//! A component may be larger than what should travel in one message: while the database waits for
//! the rest of a message, the transaction counts as idle, and the server holds each message and
//! each answer in memory as a whole.

use sqlx::PgConnection;
use taskforge_domain::Digest;

use super::fault::Attempted;

/// Bytes of a part. All but the last have so many.
pub(super) const PART: usize = 1 << 20;

const IS_THERE: &str = "select exists (select 1 from plugin_components where digest = $1)";

/// Whoever pushes the same at once waits for the first and then finds its parts.
const PUT: &str = "
    insert into plugin_components (digest, part, bytes) values ($1, $2, $3)
    on conflict (digest, part) do nothing";

const GET: &str = "select bytes from plugin_components where digest = $1 and part = $2";

#[cfg(test)]
pub(super) const STATEMENTS: &[&str] = &[IS_THERE, GET];

/// Writes a component in the caller's transaction, unless it is there.
///
/// Called again under the registry's lock, it sees whether the component was collected meanwhile.
pub(super) async fn put(
    connection: &mut PgConnection,
    digest: &Digest,
    component: &[u8],
) -> Attempted<()> {
    let is_there: bool = sqlx::query_scalar(IS_THERE)
        .bind(&digest.as_bytes()[..])
        .fetch_one(&mut *connection)
        .await?;
    if is_there {
        return Ok(());
    }
    // An empty one has one part, too.
    let (first, rest) = component.split_at(component.len().min(PART));
    for (part, bytes) in (0_i32..).zip(std::iter::once(first).chain(rest.chunks(PART))) {
        sqlx::query(PUT)
            .bind(&digest.as_bytes()[..])
            .bind(part)
            .bind(bytes)
            .execute(&mut *connection)
            .await?;
    }
    Ok(())
}

/// Reads a part; `None` beyond the last.
pub(super) async fn part(
    connection: &mut PgConnection,
    digest: &Digest,
    part: i32,
) -> Attempted<Option<Vec<u8>>> {
    let query = sqlx::query_scalar(GET).bind(&digest.as_bytes()[..]).bind(part);
    Ok(query.fetch_optional(connection).await?)
}
