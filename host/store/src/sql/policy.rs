//! What operators have said about sharing the fleet out.

use taskforge_domain::{QueuePolicy, TaskType, TenantId, TenantPolicy, TypePolicy, Weight};

use super::{
    driver::{Attempted, Connection, Row},
    row::{self, corrupt},
};

/// One statement, so that both halves are of one moment.
const READ: &str = "
    select task_type, null, max_running, paused, 0 from type_policies
    union all
    select null, tenant, max_running, false, weight from tenant_policies";

const SET_TYPE: &str = "
    insert into type_policies (task_type, paused, max_running) values ($1, $2, $3)
    on conflict (task_type) do update set paused = excluded.paused, max_running = excluded.max_running";
const SET_TENANT: &str = "
    insert into tenant_policies (tenant, weight, max_running) values ($1, $2, $3)
    on conflict (tenant) do update set weight = excluded.weight, max_running = excluded.max_running";

pub(super) async fn read(connection: &mut Connection) -> Attempted<QueuePolicy> {
    let mut policy = QueuePolicy::default();
    for row in sqlx::query(READ).fetch_all(connection).await? {
        let max_running = cap(&row)?;
        if let Some(task_type) = row::optional_word(&row, 0)? {
            let paused = row::get(&row, 3)?;
            policy.types.insert(task_type, TypePolicy { paused, max_running });
        } else {
            let weight = Weight::new(row::number(&row, 4)?);
            let weight = weight.map_err(|error| corrupt(&row, 4, error))?;
            policy.tenants.insert(row::word(&row, 1)?, TenantPolicy { weight, max_running });
        }
    }
    Ok(policy)
}

fn cap(row: &Row) -> Attempted<Option<u32>> {
    row::get::<Option<i64>>(row, 2)?
        .map(|cap| u32::try_from(cap).map_err(|error| corrupt(row, 2, error)))
        .transpose()
}

pub(super) async fn set_type(
    connection: &mut Connection,
    task_type: &TaskType,
    policy: TypePolicy,
) -> Attempted<()> {
    let query = if policy == TypePolicy::default() {
        sqlx::query("delete from type_policies where task_type = $1").bind(task_type.as_str())
    } else {
        let query = sqlx::query(SET_TYPE).bind(task_type.as_str());
        query.bind(policy.paused).bind(policy.max_running.map(i64::from))
    };
    query.execute(connection).await?;
    Ok(())
}

pub(super) async fn set_tenant(
    connection: &mut Connection,
    tenant: &TenantId,
    policy: TenantPolicy,
) -> Attempted<()> {
    let query = if policy == TenantPolicy::default() {
        sqlx::query("delete from tenant_policies where tenant = $1").bind(tenant.as_str())
    } else {
        let query = sqlx::query(SET_TENANT).bind(tenant.as_str());
        query.bind(i64::from(policy.weight.get())).bind(policy.max_running.map(i64::from))
    };
    query.execute(connection).await?;
    Ok(())
}
