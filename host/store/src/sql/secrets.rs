//! Sealed secrets of plugins.

use taskforge_domain::{PluginEvent, TaskType};

use super::{
    driver::{Attempted, Connection},
    edit::Edit,
    param::time,
    row,
};
use crate::SealedSecret;

const SET: &str = "
    insert into plugin_secrets (plugin, name, sealed, updated_at) values ($1, $2, $3, $4)
    on conflict (plugin, name) do update set sealed = excluded.sealed, updated_at = excluded.updated_at";

const DELETE: &str = "delete from plugin_secrets where plugin = $1 and name = $2";

const OF_PLUGIN: &str = "
    select name, sealed, updated_at from plugin_secrets where plugin = $1 order by name";

#[cfg(test)]
pub(super) const STATEMENTS: &[&str] = &[DELETE, OF_PLUGIN];

pub(super) async fn set(
    connection: &mut Connection,
    plugin: &TaskType,
    secret: &SealedSecret,
    event: &PluginEvent,
) -> Attempted<()> {
    let mut edit = Edit::begin(connection).await?;
    sqlx::query(SET)
        .bind(plugin.as_str())
        .bind(&secret.name)
        .bind(&secret.sealed)
        .bind(time(secret.updated_at))
        .execute(edit.connection())
        .await?;
    edit.commit(plugin, event).await?;
    Ok(())
}

pub(super) async fn delete(
    connection: &mut Connection,
    plugin: &TaskType,
    name: &str,
    event: &PluginEvent,
) -> Attempted<bool> {
    let mut edit = Edit::begin(connection).await?;
    let deleted =
        sqlx::query(DELETE).bind(plugin.as_str()).bind(name).execute(edit.connection()).await?;
    let was_there = deleted.rows_affected() > 0;
    if was_there {
        edit.commit(plugin, event).await?;
    }
    Ok(was_there)
}

pub(super) async fn of_plugin(
    connection: &mut Connection,
    plugin: &TaskType,
) -> Attempted<Vec<SealedSecret>> {
    let rows = sqlx::query(OF_PLUGIN).bind(plugin.as_str()).fetch_all(connection).await?;
    let secrets = rows.iter().map(|row| {
        Ok(SealedSecret {
            name: row::get(row, 0)?,
            sealed: row::get(row, 1)?,
            updated_at: row::time(row, 2)?,
        })
    });
    secrets.collect()
}
