//! Plugins, and which of their versions run.

use taskforge_domain::{
    Canary, CanaryGuard, PluginEvent, RegisteredPlugin, Revision, Rollout, TaskType, VersionId,
};

use super::{
    driver::{self, Attempted, Connection, Row, any_id, fault, ids},
    edit::Edit,
    param::time,
    row, versions,
};
use crate::{RegistrySnapshot, RolloutChange, StoreError};

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
const PLUGIN: &str = concat!(select_plugin!(), " where name = $1");

/// Guarded by the revision that it was made from.
const ROLL_OUT: &str = "
    update plugins
    set phase = $3, since = $4, stable = $5, previous = $6, canary = $7, canary_percent = $8, canary_min_attempts = $9,
        canary_failure_margin = $10, canary_latency_factor = $11, paused = $12, retired = $13, highest = $14
    where name = $1 and revision = $2";

/// The versions that the rollout names until now were named until now.
const RELEASE: &str = "
    update plugin_versions set released_at = $2
    where plugin = $1 and id in (select stable from plugins where name = $1 union all
                                 select previous from plugins where name = $1 union all
                                 select canary from plugins where name = $1)";

/// Those of a plugin's versions that may run.
const MAY_RUN: &str = concat!(
    "select count(*) from plugin_versions where plugin = $1 and state <> 'retired' and id",
    any_id!("$2")
);

/// The latest came last.
const EVENTS: &str = "
    select at, kind, version, who, detail from plugin_events where plugin = $1 order by seq desc limit $2";

#[cfg(test)]
pub(super) const STATEMENTS: &[&str] = &[REVISION, PLUGIN, ROLL_OUT, RELEASE, MAY_RUN, EVENTS];

pub(super) async fn revision(connection: &mut Connection) -> Attempted<Revision> {
    let row = sqlx::query(REVISION).fetch_one(connection).await?;
    Ok(Revision(row::get(&row, 0)?))
}

pub(super) async fn snapshot(connection: &mut Connection) -> Attempted<RegistrySnapshot> {
    // One snapshot, so that the three reads are of one moment.
    let mut snapshot = driver::snapshot(connection).await?;
    let revision = revision(&mut snapshot).await?;
    let rows = sqlx::query(PLUGINS).fetch_all(&mut *snapshot).await?;
    let plugins: Vec<_> = rows.iter().map(read_plugin).collect::<Attempted<_>>()?;
    let running: Vec<_> = plugins.iter().flat_map(|plugin| plugin.rollout.running()).collect();
    let versions = versions::by_id(&mut snapshot, &running).await?;
    snapshot.commit().await?;
    Ok(RegistrySnapshot { revision, plugins, versions })
}

pub(super) async fn plugin(
    connection: &mut Connection,
    name: &TaskType,
) -> Attempted<Option<RegisteredPlugin>> {
    let row = sqlx::query(PLUGIN).bind(name.as_str()).fetch_optional(connection).await?;
    row.as_ref().map(read_plugin).transpose()
}

pub(super) async fn change(
    connection: &mut Connection,
    change: &RolloutChange,
) -> Attempted<Option<Revision>> {
    let RolloutChange { plugin, expected, rollout, states, event } = change;
    let mut edit = Edit::begin(connection).await?;
    sqlx::query(RELEASE)
        .bind(plugin.as_str())
        .bind(time(event.at))
        .execute(edit.connection())
        .await?;
    let guard = rollout.canary.map(|canary| canary.guard);
    let changed = sqlx::query(ROLL_OUT)
        .bind(plugin.as_str())
        .bind(expected.0)
        .bind(rollout.phase)
        .bind(rollout.since.map(time))
        .bind(rollout.stable.as_ref().map(VersionId::as_uuid))
        .bind(rollout.previous.as_ref().map(VersionId::as_uuid))
        .bind(rollout.canary.as_ref().map(|canary| canary.version.as_uuid()))
        .bind(rollout.canary.map(|canary| i64::from(canary.percent)))
        .bind(guard.map(|guard| i64::from(guard.min_attempts)))
        .bind(guard.map(|guard| guard.failure_margin))
        .bind(guard.map(|guard| guard.latency_factor))
        .bind(rollout.paused)
        .bind(rollout.retired)
        .bind(rollout.highest.as_deref())
        .execute(edit.connection())
        .await?;
    if changed.rows_affected() == 0 {
        return Ok(None);
    }
    for (version, state) in states {
        if versions::set_state(edit.connection(), *version, state).await?.as_ref() != Some(plugin) {
            return Err(fault(StoreError::Refused(format!(
                "plugin {plugin}: the state of version {version} cannot change: it is not there or was retired"
            ))));
        }
    }
    let running: Vec<_> = rollout.running().collect();
    let may_run: i64 = sqlx::query_scalar(MAY_RUN)
        .bind(plugin.as_str())
        .bind(ids(running.iter().map(VersionId::as_uuid)))
        .fetch_one(edit.connection())
        .await?;
    if usize::try_from(may_run).ok() != Some(running.len()) {
        return Err(fault(StoreError::Refused(format!(
            "plugin {plugin}: a version that is not there or was retired cannot run"
        ))));
    }
    edit.commit(plugin, event).await.map(Some)
}

pub(super) async fn events(
    connection: &mut Connection,
    plugin: &TaskType,
    limit: u32,
) -> Attempted<Vec<PluginEvent>> {
    let rows = sqlx::query(EVENTS)
        .bind(plugin.as_str())
        .bind(i64::from(limit))
        .fetch_all(connection)
        .await?;
    rows.iter().map(read_event).collect()
}

fn read_plugin(row: &Row) -> Attempted<RegisteredPlugin> {
    let canary = match row::optional_version_id(row, 7)? {
        Some(version) => Some(Canary {
            version,
            percent: row::number(row, 8)?,
            guard: CanaryGuard {
                min_attempts: row::number(row, 9)?,
                failure_margin: row::get(row, 10)?,
                latency_factor: row::get(row, 11)?,
            },
        }),
        None => None,
    };
    Ok(RegisteredPlugin {
        name: row::word(row, 0)?,
        owner: row::optional_word(row, 1)?,
        revision: Revision(row::get(row, 2)?),
        rollout: Rollout {
            phase: row::get(row, 3)?,
            since: row::optional_time(row, 4)?,
            stable: row::optional_version_id(row, 5)?,
            previous: row::optional_version_id(row, 6)?,
            highest: row::get(row, 14)?,
            canary,
            paused: row::get(row, 12)?,
            retired: row::get(row, 13)?,
        },
    })
}

fn read_event(row: &Row) -> Attempted<PluginEvent> {
    Ok(PluginEvent {
        at: row::time(row, 0)?,
        kind: row::word(row, 1)?,
        version: row::get(row, 2)?,
        by: row::get(row, 3)?,
        detail: row::get(row, 4)?,
    })
}
