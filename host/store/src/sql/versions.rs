//! Versions of plugins: what never changes of them, and what an operator sets.

use taskforge_domain::{
    PluginEvent, PluginInfo, PluginSettings, PluginVersion, Revision, TaskType, TenantId,
    VersionId, VersionState,
};

use super::{
    components,
    driver::{Attempted, Connection, Row, any_id, begin, ids},
    edit::Edit,
    param::{count, text, time},
    row::{self, corrupt},
};
use crate::{
    Added, Quota,
    plugins::column::{self, Columns, SettingsColumns, is_same},
};

/// What [`read_version`] reads.
macro_rules! select_version {
    () => {
        "select id, plugin, version, shape, digest, size, summary, input_schema, output_schema, capabilities, imports, exports,
                limits, grants, config, signature, state, state_reason, pushed_by, pushed_at
         from plugin_versions"
    };
}

/// The latest came last.
const OF_PLUGIN: &str = concat!(select_version!(), " where plugin = $1 order by id desc");
const BY_ID: &str = concat!(select_version!(), " where id", any_id!("$1"));
const NUMBERED: &str = concat!(select_version!(), " where plugin = $1 and version = $2");

const COLLECTED: &str =
    "select digest, retired from plugin_collected where plugin = $1 and version = $2";

/// A version that is stored again was not collected.
const RECALL: &str = "delete from plugin_collected where plugin = $1 and version = $2";

const COUNT: &str = "select count(*) from plugin_versions where plugin = $1";

/// The bytes of an owner's components, each counted once, without that of a digest.
const BYTES: &str = "
    select cast(coalesce(sum(size), 0) as bigint) from (
        select distinct digest, size from plugin_versions join plugins on name = plugin
        where owner is not distinct from $1 and digest <> $2) as components";

const OWNER: &str = "select owner from plugins where name = $1";

/// Its first version makes a plugin, which then has nothing that runs.
const INSERT_PLUGIN: &str = "
    insert into plugins (name, owner, revision, phase, paused, retired) values ($1, $2, $3, 0, false, false)
    on conflict (name) do nothing";

const INSERT: &str = "
    insert into plugin_versions (id, plugin, version, shape, digest, size, summary, input_schema, output_schema, capabilities,
                                 imports, exports, limits, grants, config, signature, state, state_reason, pushed_by, pushed_at)
    values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20)";

const SET_SETTINGS: &str = "
    update plugin_versions set limits = $2, grants = $3, config = $4
    where id = $1 and signature is not distinct from $5 returning plugin";

const SET_SIGNATURE: &str = "
    update plugin_versions set signature = $3
    where id = $1 and exists (select 1 from plugins where name = plugin and revision = $2) returning plugin";

/// What was retired stays so.
const SET_STATE: &str = "
    update plugin_versions set state = $2, state_reason = $3
    where id = $1 and (state <> 'retired' or $2 = 'retired')
    returning plugin";

const RUNS: &str = "
    select exists (select 1 from plugins where name = $1 and (stable = $2 or canary = $2))";

#[cfg(test)]
pub(super) const STATEMENTS: &[&str] =
    &[OF_PLUGIN, BY_ID, NUMBERED, OWNER, COLLECTED, COUNT, SET_SETTINGS, SET_STATE, RUNS];

pub(super) async fn add(
    connection: &mut Connection,
    owner: Option<&TenantId>,
    version: &PluginVersion,
    component: &[u8],
    quota: Quota,
    event: &PluginEvent,
) -> Attempted<Added> {
    // Whoever pushes what is there already, or may not, should not have to send a large component
    // for that answer.
    if let Some(there) = refusal(connection, owner, version, quota).await? {
        return Ok(there);
    }
    let mut transaction = begin(connection).await?;
    // The component goes first: its way is long, and the registry's lock is everybody's.
    components::put(&mut transaction, &version.info.digest, component).await?;
    let mut edit = Edit::within(transaction).await?;
    if let Some(there) = refusal(edit.connection(), owner, version, quota).await? {
        return Ok(there);
    }
    // It may have been there before the lock was, and collected since.
    components::put(edit.connection(), &version.info.digest, component).await?;
    let revision = edit.revision();
    sqlx::query(INSERT_PLUGIN)
        .bind(version.info.name.as_str())
        .bind(owner.map(TenantId::as_str))
        .bind(revision.0)
        .execute(edit.connection())
        .await?;
    insert(edit.connection(), version).await?;
    sqlx::query(RECALL)
        .bind(version.info.name.as_str())
        .bind(&version.info.version)
        .execute(edit.connection())
        .await?;
    edit.commit(&version.info.name, event).await?;
    Ok(Added::Stored)
}

/// Why a version cannot be added: because of what is there, what was there, or how much.
async fn refusal(
    connection: &mut Connection,
    owner: Option<&TenantId>,
    version: &PluginVersion,
    quota: Quota,
) -> Attempted<Option<Added>> {
    if let Some(there) = conflict(connection, owner, version).await? {
        return Ok(Some(there));
    }
    let name = version.info.name.as_str();
    let collected = sqlx::query(COLLECTED)
        .bind(name)
        .bind(&version.info.version)
        .fetch_optional(&mut *connection)
        .await?;
    if let Some(collected) = collected {
        let (digest, retired) = (row::digest(&collected, 0)?, row::get(&collected, 1)?);
        if retired || digest != version.info.digest {
            return Ok(Some(Added::Collected { digest, retired }));
        }
    }
    let versions: i64 = sqlx::query_scalar(COUNT).bind(name).fetch_one(&mut *connection).await?;
    let bytes: i64 = sqlx::query_scalar(BYTES)
        .bind(owner.map(TenantId::as_str))
        .bind(&version.info.digest.as_bytes()[..])
        .fetch_one(connection)
        .await?;
    Ok(quota.refusal(versions.unsigned_abs(), bytes.unsigned_abs(), version.info.size))
}

/// The version that is there, or whose the name is.
async fn conflict(
    connection: &mut Connection,
    owner: Option<&TenantId>,
    version: &PluginVersion,
) -> Attempted<Option<Added>> {
    let name = version.info.name.as_str();
    let plugin = sqlx::query(OWNER).bind(name).fetch_optional(&mut *connection).await?;
    let Some(plugin) = plugin else {
        return Ok(None);
    };
    let there = row::optional_word::<TenantId>(&plugin, 0)?;
    if there.as_ref() != owner {
        return Ok(Some(Added::NameTaken(there)));
    }
    let numbered = sqlx::query(NUMBERED)
        .bind(name)
        .bind(&version.info.version)
        .fetch_optional(connection)
        .await?;
    let there = numbered.as_ref().map(read_version).transpose()?;
    Ok(there.map(|there| {
        if is_same(&there, version) {
            Added::AlreadyThere(Box::new(there))
        } else {
            Added::Different(Box::new(there))
        }
    }))
}

async fn insert(connection: &mut Connection, version: &PluginVersion) -> Attempted<()> {
    let (info, columns) = (&version.info, Columns::of(version)?);
    let (state, reason) = column::state(&version.state);
    sqlx::query(INSERT)
        .bind(version.id.as_uuid())
        .bind(info.name.as_str())
        .bind(&info.version)
        .bind(info.shape.as_str())
        .bind(&info.digest.as_bytes()[..])
        .bind(count(info.size))
        .bind(text(&info.summary))
        .bind(info.input_schema.as_str())
        .bind(info.output_schema.as_str())
        .bind(columns.capabilities)
        .bind(columns.imports)
        .bind(columns.exports)
        .bind(columns.settings.limits)
        .bind(columns.settings.grants)
        .bind(columns.settings.config)
        .bind(version.signature.as_deref())
        .bind(state)
        .bind(reason.map(text))
        .bind(text(&version.pushed_by))
        .bind(time(version.pushed_at))
        .execute(connection)
        .await?;
    Ok(())
}

pub(super) async fn of_plugin(
    connection: &mut Connection,
    plugin: &TaskType,
) -> Attempted<Vec<PluginVersion>> {
    let rows = sqlx::query(OF_PLUGIN).bind(plugin.as_str()).fetch_all(connection).await?;
    rows.iter().map(read_version).collect()
}

pub(super) async fn by_id(
    connection: &mut Connection,
    versions: &[VersionId],
) -> Attempted<Vec<PluginVersion>> {
    let rows = sqlx::query(BY_ID)
        .bind(ids(versions.iter().map(VersionId::as_uuid)))
        .fetch_all(connection)
        .await?;
    rows.iter().map(read_version).collect()
}

pub(super) async fn set_settings(
    connection: &mut Connection,
    version: VersionId,
    settings: &PluginSettings,
    signature: Option<&[u8]>,
    event: &PluginEvent,
) -> Attempted<bool> {
    let columns = SettingsColumns::of(settings)?;
    let mut edit = Edit::begin(connection).await?;
    let set = sqlx::query(SET_SETTINGS)
        .bind(version.as_uuid())
        .bind(columns.limits)
        .bind(columns.grants)
        .bind(columns.config)
        .bind(signature)
        .fetch_optional(edit.connection())
        .await?;
    let Some(set) = set else {
        return Ok(false);
    };
    edit.commit(&row::word(&set, 0)?, event).await?;
    Ok(true)
}

pub(super) async fn set_signature(
    connection: &mut Connection,
    version: VersionId,
    expected: Revision,
    signature: &[u8],
    event: &PluginEvent,
) -> Attempted<bool> {
    let mut edit = Edit::begin(connection).await?;
    let set = sqlx::query(SET_SIGNATURE)
        .bind(version.as_uuid())
        .bind(expected.0)
        .bind(signature)
        .fetch_optional(edit.connection())
        .await?;
    let Some(set) = set else {
        return Ok(false);
    };
    edit.commit(&row::word(&set, 0)?, event).await?;
    Ok(true)
}

pub(super) async fn change_state(
    connection: &mut Connection,
    version: VersionId,
    state: &VersionState,
    event: &PluginEvent,
) -> Attempted<bool> {
    let mut edit = Edit::begin(connection).await?;
    let Some(plugin) = set_state(edit.connection(), version, state).await? else {
        return Ok(false);
    };
    let runs: bool = sqlx::query_scalar(RUNS)
        .bind(plugin.as_str())
        .bind(version.as_uuid())
        .fetch_one(edit.connection())
        .await?;
    if !runs {
        edit.commit(&plugin, event).await?;
    }
    Ok(!runs)
}

/// Sets a state in the caller's transaction. Returns whose version it is; `None`: it is not there,
/// or was retired.
pub(super) async fn set_state(
    connection: &mut Connection,
    version: VersionId,
    state: &VersionState,
) -> Attempted<Option<TaskType>> {
    let (name, reason) = column::state(state);
    let set = sqlx::query(SET_STATE)
        .bind(version.as_uuid())
        .bind(name)
        .bind(reason.map(text))
        .fetch_optional(connection)
        .await?;
    set.as_ref().map(|row| row::word(row, 0)).transpose()
}

fn read_version(row: &Row) -> Attempted<PluginVersion> {
    let state = column::read_state(row::get(row, 16)?, row::get(row, 17)?)
        .ok_or_else(|| corrupt(row, 16, "it is not a state, or lacks its reason"))?;
    Ok(PluginVersion {
        id: row::version_id(row, 0)?,
        info: PluginInfo {
            name: row::word(row, 1)?,
            version: row::get(row, 2)?,
            shape: row::word(row, 3)?,
            digest: row::digest(row, 4)?,
            size: row::number(row, 5)?,
            summary: row::get(row, 6)?,
            input_schema: row::json(row, 7)?,
            output_schema: row::json(row, 8)?,
            capabilities: row::parsed(row, 9)?,
            imports: row::parsed(row, 10)?,
            exports: row::parsed(row, 11)?,
            limits: row::parsed(row, 12)?,
            grants: row::parsed(row, 13)?,
            config: row::parsed(row, 14)?,
        },
        signature: row::get(row, 15)?,
        state,
        pushed_by: row::get(row, 18)?,
        pushed_at: row::time(row, 19)?,
    })
}
