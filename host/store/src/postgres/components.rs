//! The bytes of components, in parts.
//!
//! A component may be larger than what should travel in one message: while the database waits for
//! the rest of a message, the transaction counts as idle, and the server holds each message and
//! each answer in memory as a whole.

use std::time::Duration;

use sqlx::PgConnection;
use taskforge_domain::{Digest, PluginEvent, PluginVersion, TenantId};

use super::{
    PostgresStore,
    connect::{on, run},
    fault::{Attempted, Repeat},
    versions,
};
use crate::{Added, Quota, StoreResult};

/// Bytes of a part. All but the last have so many.
const PART: usize = 1 << 20;

const IS_THERE: &str = "select exists (select 1 from plugin_components where digest = $1)";

/// Whoever pushes the same at once waits for the first and then finds its parts.
const PUT: &str = "
    insert into plugin_components (digest, part, bytes) values ($1, $2, $3)
    on conflict (digest, part) do nothing";

const GET: &str = "select bytes from plugin_components where digest = $1 and part = $2";

/// Every component has a part 0.
const DELETE_UNUSED: &str = "
    delete from plugin_components
    where digest = any (array(
        select digest from plugin_components as c
        where part = 0 and not exists (select 1 from plugin_versions as v where v.digest = c.digest)
        limit $1))
    returning part";

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
async fn part(
    connection: &mut PgConnection,
    digest: &Digest,
    part: i32,
) -> Attempted<Option<Vec<u8>>> {
    let query = sqlx::query_scalar(GET).bind(&digest.as_bytes()[..]).bind(part);
    Ok(query.fetch_optional(connection).await?)
}

/// Deletes components of which no version is made, in the caller's transaction.
pub(super) async fn delete_unused(connection: &mut PgConnection, limit: u32) -> Attempted<u64> {
    let query = sqlx::query_scalar(DELETE_UNUSED).bind(i64::from(limit));
    let parts: Vec<i32> = query.fetch_all(connection).await?;
    Ok(parts.iter().filter(|part| **part == 0).count() as u64)
}

/// What a mebibyte of a component may take on its way, beyond what any answer may. A slow network
/// takes a tenth of it.
const TIME_A_PART: Duration = Duration::from_secs(1);

impl PostgresStore {
    pub(super) async fn push(
        &self,
        owner: Option<&TenantId>,
        version: &PluginVersion,
        component: &[u8],
        quota: Quota,
        event: &PluginEvent,
    ) -> StoreResult<Added> {
        let parts = u32::try_from(component.len() / PART).unwrap_or(u32::MAX);
        let connections = self.connections.with_more_time(TIME_A_PART.saturating_mul(parts));
        on!(&connections, Repeat::Unsafe, |connection| versions::add(
            connection, owner, version, component, quota, event
        ))
    }

    pub(super) async fn read_component(&self, digest: &Digest) -> StoreResult<Option<Vec<u8>>> {
        // All parts were committed at once and none ever changes, so they need not be read at once.
        let mut component = None;
        for number in 0.. {
            let bytes = run!(self, |connection| part(connection, digest, number))?;
            let Some(bytes) = bytes else { break };
            component.get_or_insert_with(Vec::new).extend(bytes);
        }
        Ok(component)
    }
}
