//! `/tasks/{id}`: one task.

use std::time::Duration;

use axum::{extract::State, response::Response};
use http::StatusCode;
use taskforge_broker::Signal;
use taskforge_domain::{QueuedTask, Task, TaskId, TaskState, TenantId};
use taskforge_store::{CancelOutcome, RetryOutcome};
use tokio::time::{Instant, sleep_until};

use crate::{
    Problem, ProblemKind, Tenant,
    http::{
        answer::json,
        path::PathParam,
        query::{MAX_WAIT, NoQuery, Params, duration},
        request::Gone,
    },
    state::App,
    tasks::{
        enqueue,
        history::{self, LogView},
        view::TaskView,
    },
};

/// A signal may get lost, so whoever waits looks for itself this often.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Read a task.
///
/// With `wait` the answer comes when the task has ended, or after that time with whatever state it
/// is in then.
#[utoipa::path(
    get, path = "/tasks/{id}", tag = "tasks", operation_id = "readTask",
    params(
        ("wait" = Option<String>, Query,
            description = "How long to wait for its end, at most `60s`", example = "10s"),
    ),
    responses((status = 200, description = "The task", body = TaskView<'_>)),
)]
pub(crate) async fn read(
    State(app): State<App>,
    Tenant(tenant): Tenant,
    PathParam(id): PathParam<TaskId>,
    gone: Gone,
    mut params: Params,
) -> Result<Response, Problem> {
    let wait = params.one("wait", duration(MAX_WAIT))?.unwrap_or_default();
    params.end("wait")?;
    let task = ended(&app, &tenant, id, wait, &gone).await?;
    Ok(json(StatusCode::OK, &TaskView::from(&task)))
}

/// Reads the task when it has ended, when the time is over, when the server shuts down, or when
/// nobody waits any more.
async fn ended(
    app: &App,
    tenant: &TenantId,
    id: TaskId,
    wait: Duration,
    Gone(gone): &Gone,
) -> Result<Task, Problem> {
    let deadline = Instant::now() + wait;
    let watch = app.completion_waiters.watch(id);
    loop {
        // Listens from here on, so an end between this read and the wait below is not missed.
        let finished = watch.finished();
        let task = app.services.store.task(tenant, id).await?.ok_or_else(|| unknown(id))?;
        let now = Instant::now();
        let is_over = now >= deadline || app.draining.is_cancelled() || gone.is_cancelled();
        if task.state.is_terminal() || is_over {
            return Ok(task);
        }
        tokio::select! {
            () = finished => {}
            () = sleep_until(deadline.min(now + LOOK_AGAIN)) => {}
            () = app.draining.cancelled() => {}
            () = gone.cancelled() => {}
        }
    }
}

fn unknown(id: TaskId) -> Problem {
    Problem::new(ProblemKind::NotFound, format!("There is no task {id}."))
}

/// Read a task's log.
///
/// The whole history, oldest line first: when it was accepted, who picked it up, what the handler
/// said, how each attempt ended and what it used, and what happened between attempts. Of an attempt
/// that runs, the latest 4 KiB of its lines, a second late at most.
#[utoipa::path(
    get, path = "/tasks/{id}/logs", tag = "tasks", operation_id = "readTaskLogs",
    responses((status = 200, description = "The log", body = Vec<LogView>)),
)]
pub(crate) async fn logs(
    State(app): State<App>,
    Tenant(tenant): Tenant,
    PathParam(id): PathParam<TaskId>,
    _: NoQuery,
) -> Result<Response, Problem> {
    let history = app.services.store.history(&tenant, id).await?.ok_or_else(|| unknown(id))?;
    Ok(json(StatusCode::OK, &history::lines(&history)))
}

/// Cancel a task.
///
/// A waiting task will not run; a running one is stopped. To cancel a cancelled task again changes
/// nothing and succeeds.
#[utoipa::path(
    post, path = "/tasks/{id}/cancel", tag = "tasks", operation_id = "cancelTask",
    responses(
        (status = 200, description = "The task, cancelled", body = TaskView<'_>),
        (status = 409, description = "It has completed or failed"),
    ),
)]
pub(crate) async fn cancel(
    State(app): State<App>,
    Tenant(tenant): Tenant,
    PathParam(id): PathParam<TaskId>,
    _: NoQuery,
) -> Result<Response, Problem> {
    let task = match app.services.store.cancel(&tenant, id, app.now()).await? {
        CancelOutcome::Cancelled(task) => {
            enqueue::publish(&*app.services.broker, &[Signal::Finished(id)]).await;
            task
        }
        CancelOutcome::WasRunning(task) => {
            enqueue::publish(&*app.services.broker, &[Signal::Cancel(id), Signal::Finished(id)])
                .await;
            task
        }
        CancelOutcome::AlreadyFinished(task) if task.state == TaskState::Cancelled => task,
        CancelOutcome::AlreadyFinished(task) => {
            return Err(conflict(&task, "only tasks that have not ended can be cancelled"));
        }
        CancelOutcome::NotFound => return Err(unknown(id)),
    };
    Ok(json(StatusCode::OK, &TaskView::from(&*task)))
}

/// Run a failed or cancelled task again.
///
/// Its attempts are counted from zero; its history stays.
#[utoipa::path(
    post, path = "/tasks/{id}/retry", tag = "tasks", operation_id = "retryTask",
    responses(
        (status = 200, description = "The task, pending again", body = TaskView<'_>),
        (status = 409, description = "It waits, runs or has completed"),
    ),
)]
pub(crate) async fn retry(
    State(app): State<App>,
    Tenant(tenant): Tenant,
    PathParam(id): PathParam<TaskId>,
    _: NoQuery,
) -> Result<Response, Problem> {
    match app.services.store.retry(&tenant, id, app.now()).await? {
        RetryOutcome::Requeued(task) => {
            enqueue::push(&*app.services.broker, &[QueuedTask::from(&*task)]).await;
            Ok(json(StatusCode::OK, &TaskView::from(&*task)))
        }
        RetryOutcome::NotRetryable(task) => {
            Err(conflict(&task, "only failed and cancelled tasks can be retried"))
        }
        RetryOutcome::NotFound => Err(unknown(id)),
    }
}

fn conflict(task: &Task, rule: &str) -> Problem {
    Problem::new(ProblemKind::StateConflict, format!("Task {} is {}; {rule}.", task.id, task.state))
}
