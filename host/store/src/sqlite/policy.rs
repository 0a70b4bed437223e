//! How the fleet is shared out.

use sqlx::{Row, SqliteConnection, SqlitePool, sqlite::SqliteRow};
use taskforge_domain::{QueuePolicy, TaskType, TenantId, TenantPolicy, TypePolicy, Weight};

use super::row;
use crate::StoreResult;

const SET_TYPE: &str = "
    insert into type_policies (task_type, paused, max_running) values (?1, ?2, ?3)
    on conflict (task_type) do update set paused = excluded.paused, max_running = excluded.max_running";

const SET_TENANT: &str = "
    insert into tenant_policies (tenant, weight, max_running) values (?1, ?2, ?3)
    on conflict (tenant) do update set weight = excluded.weight, max_running = excluded.max_running";

pub(super) async fn read(readers: &SqlitePool) -> StoreResult<QueuePolicy> {
    // One transaction, so that both halves are of one moment.
    let mut snapshot = readers.begin().await?;
    let types = sqlx::query("select task_type, paused, max_running from type_policies")
        .fetch_all(&mut *snapshot)
        .await?;
    let tenants = sqlx::query("select tenant, weight, max_running from tenant_policies")
        .fetch_all(&mut *snapshot)
        .await?;
    let types = types.iter().map(|row| {
        let policy = TypePolicy { paused: row.try_get(1)?, max_running: cap(row, 2)? };
        Ok((row::word(row, 0)?, policy))
    });
    let tenants = tenants.iter().map(|row| {
        let weight =
            Weight::new(row::number(row, 1)?).map_err(|error| row::corrupt(row, 1, error))?;
        let policy = TenantPolicy { weight, max_running: cap(row, 2)? };
        Ok((row::word(row, 0)?, policy))
    });
    Ok(QueuePolicy {
        types: types.collect::<StoreResult<_>>()?,
        tenants: tenants.collect::<StoreResult<_>>()?,
    })
}

fn cap(row: &SqliteRow, column: usize) -> StoreResult<Option<u32>> {
    row.try_get::<Option<i64>, _>(column)?
        .map(|cap| u32::try_from(cap).map_err(|error| row::corrupt(row, column, error)))
        .transpose()
}

pub(super) async fn set_type(
    connection: &mut SqliteConnection,
    task_type: &TaskType,
    policy: TypePolicy,
) -> StoreResult<()> {
    let name = task_type.as_str().to_owned();
    let query = if policy == TypePolicy::default() {
        sqlx::query("delete from type_policies where task_type = ?1").bind(name)
    } else {
        let query = sqlx::query(SET_TYPE).bind(name);
        query.bind(policy.paused).bind(policy.max_running)
    };
    query.execute(connection).await?;
    Ok(())
}

pub(super) async fn set_tenant(
    connection: &mut SqliteConnection,
    tenant: &TenantId,
    policy: TenantPolicy,
) -> StoreResult<()> {
    let name = tenant.as_str().to_owned();
    let query = if policy == TenantPolicy::default() {
        sqlx::query("delete from tenant_policies where tenant = ?1").bind(name)
    } else {
        let query = sqlx::query(SET_TENANT).bind(name);
        query.bind(policy.weight.get()).bind(policy.max_running)
    };
    query.execute(connection).await?;
    Ok(())
}
