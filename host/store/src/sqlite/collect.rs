//! Versions that nothing refers to go, and components of which there is none.

use sqlx::{SqliteExecutor, SqliteTransaction, sqlite::SqliteRow};
use taskforge_domain::{PluginEvent, TaskType, VersionId};

use super::{
    edit::Edit,
    lead,
    param::{millis, time, version_array},
    row,
};
use crate::{CollectRule, CollectedVersion, SETTLED_AFTER, StoreResult, Term, plugins::describe};

/// What [`CollectRule`] says. ?1: a plugin, or null for all. Tasks that run are few, and the last
/// to be looked at.
const COLLECTABLE: &str = "
    select v.id, v.plugin, v.version, v.digest, v.size
    from (select *, row_number() over (partition by plugin order by id desc) as place from plugin_versions
          where ?1 is null or plugin = ?1) as v
    join plugins as p on p.name = v.plugin
    where v.place > ?2 and v.pushed_at < ?3
      and v.id is not p.stable and v.id is not p.previous and v.id is not p.canary
      and (v.released_at is null
           or v.released_at < ?4
              and not exists (select 1 from tasks indexed by tasks_running
                              where state = 'running' and task_type = v.plugin and started_at < v.released_at + ?5))
    order by v.plugin, v.id
    limit ?6";

/// Their numbers stay taken.
const REMEMBER: &str = "
    insert or replace into plugin_collected (plugin, version, digest, retired)
    select plugin, version, digest, state = 'retired' from plugin_versions
    where id in (select unhex(value) from jsonb_each(?1))";

const DELETE: &str =
    "delete from plugin_versions where id in (select unhex(value) from jsonb_each(?1))";
const DELETE_USAGE: &str =
    "delete from plugin_usage where version in (select unhex(value) from jsonb_each(?1))";

const DELETE_COMPONENTS: &str = "
    delete from plugin_components
    where digest in (select digest from plugin_components as c
                     where not exists (select 1 from plugin_versions as v where v.digest = c.digest)
                     limit ?1)";

#[cfg(test)]
pub(super) const STATEMENTS: &[&str] = &[REMEMBER, DELETE, DELETE_USAGE];

pub(super) async fn collectable<'e>(
    executor: impl SqliteExecutor<'e>,
    plugin: Option<&TaskType>,
    rule: CollectRule,
    limit: u32,
) -> StoreResult<Vec<CollectedVersion>> {
    let rows = sqlx::query(COLLECTABLE)
        .bind(plugin.map(|plugin| plugin.as_str().to_owned()))
        .bind(rule.keep)
        .bind(time(rule.pushed_before))
        .bind(time(rule.released_before))
        .bind(millis(SETTLED_AFTER).saturating_mul(1_000))
        .bind(limit)
        .fetch_all(executor)
        .await?;
    rows.iter().map(read).collect()
}

pub(super) async fn collect(
    mut transaction: SqliteTransaction<'_>,
    term: Option<Term>,
    plugin: &TaskType,
    rule: CollectRule,
    limit: u32,
    event: &PluginEvent,
) -> StoreResult<Vec<CollectedVersion>> {
    if let Some(term) = term {
        lead::fence(&mut transaction, term).await?;
    }
    let mut edit = Edit::begin(transaction).await?;
    let collected = collectable(edit.connection(), Some(plugin), rule, limit).await?;
    if collected.is_empty() {
        return Ok(collected);
    }
    let ids: Vec<VersionId> = collected.iter().map(|version| version.id).collect();
    for statement in [REMEMBER, DELETE_USAGE, DELETE] {
        sqlx::query(statement).bind(version_array(&ids)).execute(edit.connection()).await?;
    }
    edit.commit(plugin, &describe(event, &collected)).await?;
    Ok(collected)
}

pub(super) async fn components(
    mut transaction: SqliteTransaction<'_>,
    term: Option<Term>,
    limit: u32,
) -> StoreResult<u64> {
    if let Some(term) = term {
        lead::fence(&mut transaction, term).await?;
    }
    let deleted = sqlx::query(DELETE_COMPONENTS).bind(limit).execute(&mut *transaction).await?;
    transaction.commit().await?;
    Ok(deleted.rows_affected())
}

fn read(row: &SqliteRow) -> StoreResult<CollectedVersion> {
    Ok(CollectedVersion {
        id: row::version_id(row, 0)?,
        plugin: row::word(row, 1)?,
        version: row::text(row, 2)?,
        digest: row::digest(row, 3)?,
        size: row::number(row, 4)?,
    })
}
