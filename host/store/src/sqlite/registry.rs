//! Plugins, and which of their versions run.

use sqlx::{Row, SqliteExecutor, SqlitePool, SqliteTransaction, sqlite::SqliteRow};
use taskforge_domain::{
    Canary, CanaryGuard, PluginEvent, RegisteredPlugin, Revision, Rollout, TaskType, VersionId,
};

use super::{
    edit::Edit,
    param::{time, version_array, version_id},
    row, versions,
};
use crate::{RegistrySnapshot, RolloutChange, StoreError, StoreResult};

const REVISION: &str = "select revision from registry_revision where one = 1";

/// What [`read_plugin`] reads.
macro_rules! select_plugin {
    () => {
        "select name, owner, revision, phase, since, stable, previous, canary, canary_percent, canary_min_attempts,
                canary_failure_margin, canary_latency_factor, paused, retired, highest
         from plugins"
    };
}

const PLUGINS: &str = concat!(select_plugin!(), " order by name");
const PLUGIN: &str = concat!(select_plugin!(), " where name = ?1");

/// Guarded by the revision that it was made from.
const ROLL_OUT: &str = "
    update plugins
    set phase = ?3, since = ?4, stable = ?5, previous = ?6, canary = ?7, canary_percent = ?8, canary_min_attempts = ?9,
        canary_failure_margin = ?10, canary_latency_factor = ?11, paused = ?12, retired = ?13, highest = ?14
    where name = ?1 and revision = ?2";

/// The versions that the rollout names until now were named until now.
const RELEASE: &str = "
    update plugin_versions set released_at = ?2
    where plugin = ?1 and id in (select stable from plugins where name = ?1 union all
                                 select previous from plugins where name = ?1 union all
                                 select canary from plugins where name = ?1)";

/// Those of a plugin's versions that may run.
const MAY_RUN: &str = "
    select count(*) from plugin_versions
    where plugin = ?1 and id in (select unhex(value) from jsonb_each(?2)) and state <> 'retired'";

/// The latest came last.
const EVENTS: &str = "
    select at, kind, version, who, detail from plugin_events where plugin = ?1 order by seq desc limit ?2";

#[cfg(test)]
pub(super) const STATEMENTS: &[&str] = &[REVISION, PLUGIN, ROLL_OUT, RELEASE, MAY_RUN, EVENTS];

pub(super) async fn revision<'e>(executor: impl SqliteExecutor<'e>) -> StoreResult<Revision> {
    let row = sqlx::query(REVISION).fetch_one(executor).await?;
    row::revision(&row, 0)
}

pub(super) async fn snapshot(readers: &SqlitePool) -> StoreResult<RegistrySnapshot> {
    // One transaction, so that the three reads are of one moment.
    let mut snapshot = readers.begin().await?;
    let revision = revision(&mut *snapshot).await?;
    let rows = sqlx::query(PLUGINS).fetch_all(&mut *snapshot).await?;
    let plugins: Vec<_> = rows.iter().map(read_plugin).collect::<StoreResult<_>>()?;
    let running: Vec<_> = plugins.iter().flat_map(|plugin| plugin.rollout.running()).collect();
    let versions = versions::by_id(&mut *snapshot, &running).await?;
    Ok(RegistrySnapshot { revision, plugins, versions })
}

pub(super) async fn plugin(
    readers: &SqlitePool,
    name: &TaskType,
) -> StoreResult<Option<RegisteredPlugin>> {
    let row = sqlx::query(PLUGIN).bind(name.as_str().to_owned()).fetch_optional(readers).await?;
    row.as_ref().map(read_plugin).transpose()
}

pub(super) async fn change(
    transaction: SqliteTransaction<'_>,
    change: &RolloutChange,
) -> StoreResult<Option<Revision>> {
    let RolloutChange { plugin, expected, rollout, states, event } = change;
    let mut edit = Edit::begin(transaction).await?;
    sqlx::query(RELEASE)
        .bind(plugin.as_str().to_owned())
        .bind(time(event.at))
        .execute(edit.connection())
        .await?;
    let guard = rollout.canary.map(|canary| canary.guard);
    let changed = sqlx::query(ROLL_OUT)
        .bind(plugin.as_str().to_owned())
        .bind(expected.0)
        .bind(rollout.phase)
        .bind(rollout.since.map(time))
        .bind(rollout.stable.map(version_id))
        .bind(rollout.previous.map(version_id))
        .bind(rollout.canary.map(|canary| version_id(canary.version)))
        .bind(rollout.canary.map(|canary| canary.percent))
        .bind(guard.map(|guard| guard.min_attempts))
        .bind(guard.map(|guard| guard.failure_margin))
        .bind(guard.map(|guard| guard.latency_factor))
        .bind(rollout.paused)
        .bind(rollout.retired)
        .bind(rollout.highest.clone())
        .execute(edit.connection())
        .await?;
    if changed.rows_affected() == 0 {
        return Ok(None);
    }
    for (version, state) in states {
        let owner = versions::set_state(edit.connection(), *version, state).await?;
        if owner.as_ref() != Some(plugin) {
            return Err(StoreError::Refused(format!(
                "plugin {plugin}: the state of version {version} cannot change: it is not there or was retired"
            )));
        }
    }
    let running: Vec<VersionId> = rollout.running().collect();
    let may_run: i64 = sqlx::query_scalar(MAY_RUN)
        .bind(plugin.as_str().to_owned())
        .bind(version_array(&running))
        .fetch_one(edit.connection())
        .await?;
    if usize::try_from(may_run).ok() != Some(running.len()) {
        return Err(StoreError::Refused(format!(
            "plugin {plugin}: a version that is not there or was retired cannot run"
        )));
    }
    edit.commit(plugin, event).await.map(Some)
}

pub(super) async fn events(
    readers: &SqlitePool,
    plugin: &TaskType,
    limit: u32,
) -> StoreResult<Vec<PluginEvent>> {
    let rows =
        sqlx::query(EVENTS).bind(plugin.as_str().to_owned()).bind(limit).fetch_all(readers).await?;
    rows.iter().map(read_event).collect()
}

fn read_plugin(row: &SqliteRow) -> StoreResult<RegisteredPlugin> {
    let canary = match row::optional_version_id(row, 7)? {
        Some(version) => Some(Canary {
            version,
            percent: row::number(row, 8)?,
            guard: CanaryGuard {
                min_attempts: row::number(row, 9)?,
                failure_margin: row.try_get(10)?,
                latency_factor: row.try_get(11)?,
            },
        }),
        None => None,
    };
    Ok(RegisteredPlugin {
        name: row::word(row, 0)?,
        owner: row::optional_word(row, 1)?,
        revision: row::revision(row, 2)?,
        rollout: Rollout {
            phase: row.try_get(3)?,
            since: row::optional_time(row, 4)?,
            stable: row::optional_version_id(row, 5)?,
            previous: row::optional_version_id(row, 6)?,
            highest: row::optional_text(row, 14)?,
            canary,
            paused: row.try_get(12)?,
            retired: row.try_get(13)?,
        },
    })
}

fn read_event(row: &SqliteRow) -> StoreResult<PluginEvent> {
    Ok(PluginEvent {
        at: row::time(row, 0)?,
        kind: row::word(row, 1)?,
        version: row::optional_text(row, 2)?,
        by: row::text(row, 3)?,
        detail: row::text(row, 4)?,
    })
}
