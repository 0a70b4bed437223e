//! A task begins to exist.

use sqlx::{Connection, PgConnection};
use taskforge_domain::NewTask;

use super::{
    fault::Attempted,
    param::{millis, statements, time},
};

/// An id that is there is left as it is: a repeated enqueue changes nothing.
pub(super) const INSERT: &str = "
    insert into tasks (id, tenant, task_type, state, priority, max_retries, retry_base_ms, retry_cap_ms, created_at, run_at, input)
    select * from unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::smallint[], $6::bigint[], $7::bigint[], $8::bigint[],
                         $9::bigint[], $10::bigint[], $11::text[])
    on conflict (id) do nothing";

/// Inserts tasks, all or none.
pub(super) async fn run(connection: &mut PgConnection, tasks: &[NewTask]) -> Attempted<()> {
    let mut tasks: Vec<&NewTask> = tasks.iter().collect();
    // In the order of ids, the same for everybody: two enqueues of the same tasks wait for each
    // other and not in a circle. The sort is stable, so that of two tasks with one id the first is
    // taken.
    tasks.sort_by_key(|task| task.id);
    let all = tasks.len();
    let mut statements = statements(&tasks, |task| task.input.as_str().len()).peekable();
    match statements.peek() {
        Some(only) if only.len() == all => insert(connection, only).await,
        _ => {
            let mut transaction = connection.begin().await?;
            for some in statements {
                insert(&mut transaction, some).await?;
            }
            Ok(transaction.commit().await?)
        }
    }
}

async fn insert(connection: &mut PgConnection, tasks: &[&NewTask]) -> Attempted<()> {
    macro_rules! column {
        ($task:ident => $value:expr) => {
            tasks.iter().map(|$task| $value).collect::<Vec<_>>()
        };
    }
    sqlx::query(INSERT)
        .bind(column!(task => *task.id.as_uuid()))
        .bind(column!(task => task.tenant.as_str()))
        .bind(column!(task => task.task_type.as_str()))
        .bind(column!(task => task.first_state().as_str()))
        .bind(column!(task => i16::from(task.priority.get())))
        .bind(column!(task => i64::from(task.retry.max_retries)))
        .bind(column!(task => millis(task.retry.base)))
        .bind(column!(task => millis(task.retry.cap)))
        .bind(column!(task => time(task.created_at)))
        .bind(column!(task => time(task.run_at.unwrap_or(task.created_at))))
        .bind(column!(task => task.input.as_str()))
        .execute(connection)
        .await?;
    Ok(())
}
