//! The bytes of components.

use sqlx::SqliteConnection;
use taskforge_domain::{Digest, PluginEvent, PluginVersion, TenantId};

use super::{
    SqliteStore, versions,
    writer::{read, run},
};
use crate::{Added, Quota, StoreResult};

const IS_THERE: &str = "select exists (select 1 from plugin_components where digest = $1)";
const PUT: &str = "insert into plugin_components (digest, bytes) values ($1, $2)";
const GET: &str = "select bytes from plugin_components where digest = $1";

const DELETE_UNUSED: &str = "
    delete from plugin_components
    where digest in (select digest from plugin_components as c
                     where not exists (select 1 from plugin_versions as v where v.digest = c.digest)
                     limit $1)";

#[cfg(test)]
pub(super) const STATEMENTS: &[&str] = &[IS_THERE, GET];

/// Writes a component in the caller's transaction, unless it is there.
pub(super) async fn put(
    connection: &mut SqliteConnection,
    digest: &Digest,
    component: &[u8],
) -> StoreResult<()> {
    let digest = &digest.as_bytes()[..];
    let is_there: bool =
        sqlx::query_scalar(IS_THERE).bind(digest).fetch_one(&mut *connection).await?;
    if !is_there {
        sqlx::query(PUT).bind(digest).bind(component).execute(connection).await?;
    }
    Ok(())
}

async fn get(connection: &mut SqliteConnection, digest: &Digest) -> StoreResult<Option<Vec<u8>>> {
    let query = sqlx::query_scalar(GET).bind(&digest.as_bytes()[..]);
    Ok(query.fetch_optional(connection).await?)
}

/// Deletes components of which no version is made, in the caller's transaction.
pub(super) async fn delete_unused(
    connection: &mut SqliteConnection,
    limit: u32,
) -> StoreResult<u64> {
    let deleted = sqlx::query(DELETE_UNUSED).bind(limit).execute(connection).await?;
    Ok(deleted.rows_affected())
}

impl SqliteStore {
    pub(super) async fn push(
        &self,
        owner: Option<&TenantId>,
        version: &PluginVersion,
        component: &[u8],
        quota: Quota,
        event: &PluginEvent,
    ) -> StoreResult<Added> {
        run!(self, |connection| versions::add(connection, owner, version, component, quota, event))
    }

    pub(super) async fn read_component(&self, digest: &Digest) -> StoreResult<Option<Vec<u8>>> {
        read!(self, |connection| get(connection, digest))
    }
}
