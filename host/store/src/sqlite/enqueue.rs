//! A task begins to exist.

use sqlx::SqliteConnection;
use taskforge_domain::NewTask;

use super::param::{arrays, id, json, millis, time};
use crate::StoreResult;

/// An id that is there is left as it is: a repeated enqueue changes nothing.
const INSERT_TASKS: &str = "
    insert into tasks (id, tenant, task_type, state, priority, max_retries, retry_base_ms, retry_cap_ms, created_at, run_at)
    select unhex(value ->> 0), value ->> 1, value ->> 2, value ->> 3, value ->> 4, value ->> 5, value ->> 6, value ->> 7,
           value ->> 8, value ->> 9
    from jsonb_each($1) where true
    on conflict (id) do nothing";

/// Written together with its task and never again, so it is left alone in the same cases.
const INSERT_INPUTS: &str = "
    insert into task_inputs (task_id, input)
    select unhex(value ->> 0), value ->> 1 from jsonb_each($1) where true
    on conflict (task_id) do nothing";

#[cfg(test)]
pub(super) const STATEMENTS: &[&str] = &[INSERT_TASKS, INSERT_INPUTS];

/// A task on its way in.
pub(super) struct EnqueueRow {
    task: String,
    input: String,
}

impl EnqueueRow {
    pub(super) fn new(task: &NewTask) -> Self {
        let created_at = time(task.created_at);
        let id = id(task.id.as_uuid());
        let row = (
            &id,
            task.tenant.as_str(),
            task.task_type.as_str(),
            task.first_state().as_str(),
            task.priority.get(),
            task.retry.max_retries,
            millis(task.retry.base),
            millis(task.retry.cap),
            created_at,
            task.run_at.map_or(created_at, time),
        );
        Self { task: json(&row), input: json(&(&id, task.input.as_str())) }
    }
}

/// Inserts tasks in the caller's transaction.
pub(super) async fn run(
    connection: &mut SqliteConnection,
    rows: &[&EnqueueRow],
) -> StoreResult<()> {
    for array in arrays(rows.iter().map(|row| row.task.as_str())) {
        sqlx::query(INSERT_TASKS).bind(array).execute(&mut *connection).await?;
    }
    for array in arrays(rows.iter().map(|row| row.input.as_str())) {
        sqlx::query(INSERT_INPUTS).bind(array).execute(&mut *connection).await?;
    }
    Ok(())
}
