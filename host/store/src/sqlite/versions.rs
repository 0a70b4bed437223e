//! Versions of plugins: what never changes of them, and what an operator sets; and their
//! components.

use sqlx::{
    Row, SqliteConnection, SqliteExecutor, SqlitePool, SqliteTransaction, sqlite::SqliteRow,
};
use taskforge_domain::{
    Digest, PluginEvent, PluginInfo, PluginSettings, PluginVersion, Revision, TaskType, TenantId,
    VersionId, VersionState,
};

use super::{
    edit::Edit,
    param::{count, text, time, version_array, version_id},
    row,
};
use crate::{
    Added, Quota, StoreResult,
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
const OF_PLUGIN: &str = concat!(select_version!(), " where plugin = ?1 order by id desc");
const BY_ID: &str =
    concat!(select_version!(), " where id in (select unhex(value) from jsonb_each(?1))");
const NUMBERED: &str = concat!(select_version!(), " where plugin = ?1 and version = ?2");

const COLLECTED: &str =
    "select digest, retired from plugin_collected where plugin = ?1 and version = ?2";

/// A version that is stored again was not collected.
const RECALL: &str = "delete from plugin_collected where plugin = ?1 and version = ?2";

const COUNT: &str = "select count(*) from plugin_versions where plugin = ?1";

/// The bytes of an owner's components, each counted once, without that of a digest.
const BYTES: &str = "
    select coalesce(sum(size), 0) from (
        select distinct digest, size from plugins join plugin_versions on plugin = name
        where owner is ?1 and digest <> ?2)";

const OWNER: &str = "select owner from plugins where name = ?1";

/// Its first version makes a plugin, which then has nothing that runs.
const INSERT_PLUGIN: &str = "
    insert into plugins (name, owner, revision, phase, paused, retired) values (?1, ?2, ?3, 0, false, false)
    on conflict (name) do nothing";

const INSERT: &str = "
    insert into plugin_versions (id, plugin, version, shape, digest, size, summary, input_schema, output_schema, capabilities,
                                 imports, exports, limits, grants, config, signature, state, state_reason, pushed_by, pushed_at)
    values (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20)";

const HAS_COMPONENT: &str = "select exists (select 1 from plugin_components where digest = ?1)";
const PUT_COMPONENT: &str = "insert into plugin_components (digest, bytes) values (?1, ?2)";
const COMPONENT: &str = "select bytes from plugin_components where digest = ?1";

const SET_SETTINGS: &str = "
    update plugin_versions set limits = ?2, grants = ?3, config = ?4
    where id = ?1 and signature is ?5 returning plugin";

const SET_SIGNATURE: &str = "
    update plugin_versions set signature = ?3
    where id = ?1 and exists (select 1 from plugins where name = plugin and revision = ?2) returning plugin";

/// What was retired stays so.
const SET_STATE: &str = "
    update plugin_versions set state = ?2, state_reason = ?3
    where id = ?1 and (state <> 'retired' or ?2 = 'retired')
    returning plugin";

const RUNS: &str = "
    select exists (select 1 from plugins where name = ?1 and (stable = ?2 or canary = ?2))";

#[cfg(test)]
pub(super) const STATEMENTS: &[&str] = &[
    OF_PLUGIN,
    BY_ID,
    NUMBERED,
    OWNER,
    COLLECTED,
    COUNT,
    HAS_COMPONENT,
    COMPONENT,
    SET_SETTINGS,
    SET_STATE,
    RUNS,
];

pub(super) async fn add(
    transaction: SqliteTransaction<'_>,
    owner: Option<&TenantId>,
    version: &PluginVersion,
    component: &[u8],
    quota: Quota,
    event: &PluginEvent,
) -> StoreResult<Added> {
    let mut edit = Edit::begin(transaction).await?;
    if let Some(there) = refusal(edit.connection(), owner, version, quota).await? {
        return Ok(there);
    }
    let revision = edit.revision();
    sqlx::query(INSERT_PLUGIN)
        .bind(version.info.name.as_str().to_owned())
        .bind(owner.map(|owner| owner.as_str().to_owned()))
        .bind(revision.0)
        .execute(edit.connection())
        .await?;
    insert(edit.connection(), version).await?;
    put_component(edit.connection(), &version.info.digest, component).await?;
    sqlx::query(RECALL)
        .bind(version.info.name.as_str().to_owned())
        .bind(version.info.version.clone())
        .execute(edit.connection())
        .await?;
    edit.commit(&version.info.name, event).await?;
    Ok(Added::Stored)
}

/// Why a version cannot be added: because of what is there, what was there, or how much.
async fn refusal(
    connection: &mut SqliteConnection,
    owner: Option<&TenantId>,
    version: &PluginVersion,
    quota: Quota,
) -> StoreResult<Option<Added>> {
    if let Some(there) = conflict(connection, owner, version).await? {
        return Ok(Some(there));
    }
    let name = version.info.name.as_str().to_owned();
    let collected = sqlx::query(COLLECTED)
        .bind(name.clone())
        .bind(version.info.version.clone())
        .fetch_optional(&mut *connection)
        .await?;
    if let Some(collected) = collected {
        let (digest, retired) = (row::digest(&collected, 0)?, collected.try_get(1)?);
        if retired || digest != version.info.digest {
            return Ok(Some(Added::Collected { digest, retired }));
        }
    }
    let versions: i64 = sqlx::query_scalar(COUNT).bind(name).fetch_one(&mut *connection).await?;
    let bytes: i64 = sqlx::query_scalar(BYTES)
        .bind(owner.map(|owner| owner.as_str().to_owned()))
        .bind(version.info.digest.as_bytes().to_vec())
        .fetch_one(connection)
        .await?;
    Ok(quota.refusal(versions.unsigned_abs(), bytes.unsigned_abs(), version.info.size))
}

/// The version that is there, or whose the name is.
async fn conflict(
    connection: &mut SqliteConnection,
    owner: Option<&TenantId>,
    version: &PluginVersion,
) -> StoreResult<Option<Added>> {
    let name = version.info.name.as_str().to_owned();
    let plugin = sqlx::query(OWNER).bind(name.clone()).fetch_optional(&mut *connection).await?;
    let Some(plugin) = plugin else {
        return Ok(None);
    };
    let there = row::optional_word::<TenantId>(&plugin, 0)?;
    if there.as_ref() != owner {
        return Ok(Some(Added::NameTaken(there)));
    }
    let numbered = sqlx::query(NUMBERED)
        .bind(name)
        .bind(version.info.version.clone())
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

async fn insert(connection: &mut SqliteConnection, version: &PluginVersion) -> StoreResult<()> {
    let (info, columns) = (&version.info, Columns::of(version)?);
    let (state, reason) = column::state(&version.state);
    sqlx::query(INSERT)
        .bind(version_id(version.id))
        .bind(info.name.as_str().to_owned())
        .bind(info.version.clone())
        .bind(info.shape.as_str())
        .bind(info.digest.as_bytes().to_vec())
        .bind(count(info.size))
        .bind(text(&info.summary))
        .bind(info.input_schema.as_str().to_owned())
        .bind(info.output_schema.as_str().to_owned())
        .bind(columns.capabilities)
        .bind(columns.imports)
        .bind(columns.exports)
        .bind(columns.settings.limits)
        .bind(columns.settings.grants)
        .bind(columns.settings.config)
        .bind(version.signature.clone())
        .bind(state)
        .bind(reason.map(text))
        .bind(text(&version.pushed_by))
        .bind(time(version.pushed_at))
        .execute(connection)
        .await?;
    Ok(())
}

async fn put_component(
    connection: &mut SqliteConnection,
    digest: &Digest,
    component: &[u8],
) -> StoreResult<()> {
    let digest = digest.as_bytes().to_vec();
    let is_there: bool =
        sqlx::query_scalar(HAS_COMPONENT).bind(digest.clone()).fetch_one(&mut *connection).await?;
    if !is_there {
        sqlx::query(PUT_COMPONENT)
            .bind(digest)
            .bind(component.to_vec())
            .execute(connection)
            .await?;
    }
    Ok(())
}

pub(super) async fn component(
    readers: &SqlitePool,
    digest: &Digest,
) -> StoreResult<Option<Vec<u8>>> {
    let query = sqlx::query_scalar(COMPONENT).bind(digest.as_bytes().to_vec());
    Ok(query.fetch_optional(readers).await?)
}

pub(super) async fn of_plugin(
    readers: &SqlitePool,
    plugin: &TaskType,
) -> StoreResult<Vec<PluginVersion>> {
    let rows = sqlx::query(OF_PLUGIN).bind(plugin.as_str().to_owned()).fetch_all(readers).await?;
    rows.iter().map(read_version).collect()
}

pub(super) async fn by_id<'e>(
    executor: impl SqliteExecutor<'e>,
    ids: &[VersionId],
) -> StoreResult<Vec<PluginVersion>> {
    let rows = sqlx::query(BY_ID).bind(version_array(ids)).fetch_all(executor).await?;
    rows.iter().map(read_version).collect()
}

pub(super) async fn set_settings(
    transaction: SqliteTransaction<'_>,
    version: VersionId,
    settings: &PluginSettings,
    signature: Option<&[u8]>,
    event: &PluginEvent,
) -> StoreResult<bool> {
    let columns = SettingsColumns::of(settings)?;
    let mut edit = Edit::begin(transaction).await?;
    let set = sqlx::query(SET_SETTINGS)
        .bind(version_id(version))
        .bind(columns.limits)
        .bind(columns.grants)
        .bind(columns.config)
        .bind(signature.map(<[u8]>::to_vec))
        .fetch_optional(edit.connection())
        .await?;
    let Some(set) = set else {
        return Ok(false);
    };
    edit.commit(&row::word(&set, 0)?, event).await?;
    Ok(true)
}

pub(super) async fn set_signature(
    transaction: SqliteTransaction<'_>,
    version: VersionId,
    expected: Revision,
    signature: &[u8],
    event: &PluginEvent,
) -> StoreResult<bool> {
    let mut edit = Edit::begin(transaction).await?;
    let set = sqlx::query(SET_SIGNATURE)
        .bind(version_id(version))
        .bind(expected.0)
        .bind(signature.to_vec())
        .fetch_optional(edit.connection())
        .await?;
    let Some(set) = set else {
        return Ok(false);
    };
    edit.commit(&row::word(&set, 0)?, event).await?;
    Ok(true)
}

pub(super) async fn change_state(
    transaction: SqliteTransaction<'_>,
    version: VersionId,
    state: &VersionState,
    event: &PluginEvent,
) -> StoreResult<bool> {
    let mut edit = Edit::begin(transaction).await?;
    let Some(plugin) = set_state(edit.connection(), version, state).await? else {
        return Ok(false);
    };
    let runs: bool = sqlx::query_scalar(RUNS)
        .bind(plugin.as_str().to_owned())
        .bind(version_id(version))
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
    connection: &mut SqliteConnection,
    version: VersionId,
    state: &VersionState,
) -> StoreResult<Option<TaskType>> {
    let (name, reason) = column::state(state);
    let set = sqlx::query(SET_STATE)
        .bind(version_id(version))
        .bind(name)
        .bind(reason.map(text))
        .fetch_optional(connection)
        .await?;
    set.as_ref().map(|row| row::word(row, 0)).transpose()
}

fn read_version(row: &SqliteRow) -> StoreResult<PluginVersion> {
    let state = column::read_state(row.try_get(16)?, row::optional_text(row, 17)?)
        .ok_or_else(|| row::corrupt(row, 16, "it is not a state, or lacks its reason"))?;
    Ok(PluginVersion {
        id: row::version_id(row, 0)?,
        info: PluginInfo {
            name: row::word(row, 1)?,
            version: row::text(row, 2)?,
            shape: row::word(row, 3)?,
            digest: row::digest(row, 4)?,
            size: row::number(row, 5)?,
            summary: row::text(row, 6)?,
            input_schema: row::json(row, 7)?,
            output_schema: row::json(row, 8)?,
            capabilities: row::parsed(row, 9)?,
            imports: row::parsed(row, 10)?,
            exports: row::parsed(row, 11)?,
            limits: row::parsed(row, 12)?,
            grants: row::parsed(row, 13)?,
            config: row::parsed(row, 14)?,
        },
        signature: row.try_get(15)?,
        state,
        pushed_by: row::text(row, 18)?,
        pushed_at: row::time(row, 19)?,
    })
}
