//! Versions that nothing refers to go, and components of which there is none.

use taskforge_domain::{PluginEvent, TaskType};

use super::{
    components,
    driver::{Attempted, Connection, Row, any_id, ids, running_tasks},
    edit::Edit,
    lead,
    param::{millis, time},
    row,
};
use crate::{CollectRule, CollectedVersion, SETTLED_AFTER, Term, plugins::describe};

/// What [`CollectRule`] says. $1: a plugin, or null for all. Tasks that run are few, and the last
/// to be looked at.
const COLLECTABLE: &str = concat!(
    "select v.id, v.plugin, v.version, v.digest, v.size
    from (select *, row_number() over (partition by plugin order by id desc) as place from plugin_versions
          where cast($1 as text) is null or plugin = $1) as v
    join plugins as p on p.name = v.plugin
    where v.place > $2 and v.pushed_at < $3
      and v.id is distinct from p.stable and v.id is distinct from p.previous and v.id is distinct from p.canary
      and (v.released_at is null
           or v.released_at < $4
              and not exists (select 1 from ", running_tasks!(), "
                              where state = 'running' and task_type = v.plugin and started_at < v.released_at + $5))
    order by v.plugin, v.id
    limit $6"
);

/// Their numbers stay taken.
const REMEMBER: &str = concat!(
    "insert into plugin_collected (plugin, version, digest, retired)
     select plugin, version, digest, state = 'retired' from plugin_versions where id",
    any_id!("$1"),
    " on conflict (plugin, version) do update set digest = excluded.digest, retired = excluded.retired"
);

const DELETE: &str = concat!("delete from plugin_versions where id", any_id!("$1"));
const DELETE_USAGE: &str = concat!("delete from plugin_usage where version", any_id!("$1"));

#[cfg(test)]
pub(super) const STATEMENTS: &[&str] = &[REMEMBER, DELETE, DELETE_USAGE];

pub(super) async fn collectable(
    connection: &mut Connection,
    plugin: Option<&TaskType>,
    rule: CollectRule,
    limit: u32,
) -> Attempted<Vec<CollectedVersion>> {
    let rows = sqlx::query(COLLECTABLE)
        .bind(plugin.map(TaskType::as_str))
        .bind(i64::from(rule.keep))
        .bind(time(rule.pushed_before))
        .bind(time(rule.released_before))
        .bind(millis(SETTLED_AFTER).saturating_mul(1_000))
        .bind(i64::from(limit))
        .fetch_all(connection)
        .await?;
    rows.iter().map(read).collect()
}

pub(super) async fn collect(
    connection: &mut Connection,
    term: Option<Term>,
    plugin: &TaskType,
    rule: CollectRule,
    limit: u32,
    event: &PluginEvent,
) -> Attempted<Vec<CollectedVersion>> {
    let mut edit = Edit::within(lead::begin(connection, term).await?).await?;
    // The lock is held: no rollout changes until this is committed, and one that was made from what
    // was before is refused by its revision.
    let collected = collectable(edit.connection(), Some(plugin), rule, limit).await?;
    if collected.is_empty() {
        return Ok(collected);
    }
    let ids = ids(collected.iter().map(|version| version.id.as_uuid()));
    for statement in [REMEMBER, DELETE_USAGE, DELETE] {
        sqlx::query(statement).bind(&ids).execute(edit.connection()).await?;
    }
    edit.commit(plugin, &describe(event, &collected)).await?;
    Ok(collected)
}

/// Under the registry's lock, though nothing of it changes: who pushes looks again under the same
/// lock whether the component is there.
pub(super) async fn components(
    connection: &mut Connection,
    term: Option<Term>,
    limit: u32,
) -> Attempted<u64> {
    let mut edit = Edit::within(lead::begin(connection, term).await?).await?;
    let deleted = components::delete_unused(edit.connection(), limit).await?;
    if deleted > 0 {
        edit.commit_silently().await?;
    }
    Ok(deleted)
}

fn read(row: &Row) -> Attempted<CollectedVersion> {
    Ok(CollectedVersion {
        id: row::version_id(row, 0)?,
        plugin: row::word(row, 1)?,
        version: row::get(row, 2)?,
        digest: row::digest(row, 3)?,
        size: row::number(row, 4)?,
    })
}
