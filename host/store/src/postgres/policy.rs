//! What operators have said about sharing the fleet out.

use sqlx::PgConnection;
use taskforge_domain::{QueuePolicy, TaskType, TenantId, TenantPolicy, TypePolicy, Weight};

use super::{
    fault::Attempted,
    row::{self, corrupt},
};

const TYPES: &str = "select task_type, paused, max_running from type_policies";
const TENANTS: &str = "select tenant, weight, max_running from tenant_policies";

const SET_TYPE: &str = "
    insert into type_policies (task_type, paused, max_running) values ($1, $2, $3)
    on conflict (task_type) do update set paused = excluded.paused, max_running = excluded.max_running";
const SET_TENANT: &str = "
    insert into tenant_policies (tenant, weight, max_running) values ($1, $2, $3)
    on conflict (tenant) do update set weight = excluded.weight, max_running = excluded.max_running";

pub(super) async fn read(connection: &mut PgConnection) -> Attempted<QueuePolicy> {
    let mut policy = QueuePolicy::default();
    for row in sqlx::query(TYPES).fetch_all(&mut *connection).await? {
        let of_type = TypePolicy { paused: row::get(&row, 1)?, max_running: cap(&row)? };
        policy.types.insert(row::word(&row, 0)?, of_type);
    }
    for row in sqlx::query(TENANTS).fetch_all(connection).await? {
        let weight = row::small_number(&row, 1)?;
        let of_tenant = TenantPolicy {
            weight: Weight::new(weight).map_err(|error| corrupt(&row, 1, error))?,
            max_running: cap(&row)?,
        };
        policy.tenants.insert(row::word(&row, 0)?, of_tenant);
    }
    Ok(policy)
}

fn cap(row: &sqlx::postgres::PgRow) -> Attempted<Option<u32>> {
    row::get::<Option<i64>>(row, 2)?
        .map(|cap| u32::try_from(cap).map_err(|error| corrupt(row, 2, error)))
        .transpose()
}

pub(super) async fn set_type(
    connection: &mut PgConnection,
    task_type: &TaskType,
    policy: TypePolicy,
) -> Attempted<()> {
    if policy == TypePolicy::default() {
        sqlx::query("delete from type_policies where task_type = $1")
            .bind(task_type.as_str())
            .execute(connection)
            .await?;
        return Ok(());
    }
    sqlx::query(SET_TYPE)
        .bind(task_type.as_str())
        .bind(policy.paused)
        .bind(policy.max_running.map(i64::from))
        .execute(connection)
        .await?;
    Ok(())
}

pub(super) async fn set_tenant(
    connection: &mut PgConnection,
    tenant: &TenantId,
    policy: TenantPolicy,
) -> Attempted<()> {
    if policy == TenantPolicy::default() {
        sqlx::query("delete from tenant_policies where tenant = $1")
            .bind(tenant.as_str())
            .execute(connection)
            .await?;
        return Ok(());
    }
    sqlx::query(SET_TENANT)
        .bind(tenant.as_str())
        .bind(i32::try_from(policy.weight.get()).unwrap_or(i32::MAX))
        .bind(policy.max_running.map(i64::from))
        .execute(connection)
        .await?;
    Ok(())
}
