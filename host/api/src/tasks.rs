//! Tasks: accepted, listed, watched to their end, cancelled, run again, deleted. This file has
//! `/tasks` and `/tasks/batch`: many tasks, or a new one.

pub(crate) mod completion_waiters;
pub(crate) mod enqueue;
mod history;
pub(crate) mod page;
mod submission;
pub(crate) mod task;
pub(crate) mod view;

use axum::{extract::State, response::Response};
use http::{HeaderValue, StatusCode, header};
use taskforge_domain::{FailureKind, TaskState, TenantId};
use taskforge_store::TaskFilter;
use utoipa::IntoParams;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    Problem, Tenant,
    http::{
        answer::json,
        body::JsonBody,
        query::{Params, number, time},
    },
    state::App,
    tasks::{
        page::{IdPrefix, read_cursor},
        submission::{BatchBody, NewTaskBody, Submitter},
        view::{BatchAccepted, Pruned, TaskList, TaskView},
    },
};

/// Bodies from this size on are read on a thread that may block: parsing and checking 8 MiB takes
/// tens of milliseconds, in which other requests would wait.
const LARGE_BODY: usize = 32 << 10;
const FILTERS: &str = "status, task_type, error_kind, created_from, created_before";

/// The parameters that choose tasks, besides their state: all of them hold together.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "describes the parameters for OpenAPI")]
struct Chosen {
    /// Of one of these types
    #[param(style = Form, explode = false)]
    task_type: Option<Vec<String>>,
    /// Whose last failure is of one of these kinds
    #[param(style = Form, explode = false)]
    error_kind: Option<Vec<FailureKind>>,
    /// Created at this time or later
    #[param(format = DateTime)]
    created_from: Option<String>,
    /// Created before this time
    #[param(format = DateTime)]
    created_before: Option<String>,
}

/// The routes of tasks.
pub(crate) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(create, list, prune))
        .routes(routes!(create_batch))
        .routes(routes!(task::read))
        .routes(routes!(task::logs))
        .routes(routes!(task::cancel))
        .routes(routes!(task::retry))
}

/// Accept a task.
///
/// When this answers 201 the task is committed, and will run at least once.
#[utoipa::path(
    post, path = "/tasks", tag = "tasks", operation_id = "createTask",
    request_body(content = NewTaskBody<'_>, content_type = "application/json", examples(
        ("fibonacci" = (value = json!({"task_type": "fibonacci", "input": {"n": 10}}))),
        ("later, with retries of its own" = (value = json!({
            "task_type": "scraper", "input": {"url": "https://example.com"}, "priority": 5,
            "delay": "10m", "max_retries": 10, "retry_base": "2s", "retry_cap": "1h"}))),
    )),
    responses((status = 201, description = "The task, committed", body = TaskView<'_>,
        headers(("Location" = String, description = "Where to read it: `/tasks/{id}`")))),
)]
pub(crate) async fn create(
    State(app): State<App>,
    Tenant(tenant): Tenant,
    JsonBody(body): JsonBody,
) -> Result<Response, Problem> {
    let large = body.len() >= LARGE_BODY;
    let task = read(&app, tenant, large, move |submitter| submitter.one(&body)).await?;
    let location = format!("/tasks/{}", task.id);
    // Written before the task goes into the store, so that its input is not copied for the answer.
    let mut response = json(StatusCode::CREATED, &TaskView::from(&task));
    app.enqueuer.submit(vec![task]).await?;
    if let Ok(location) = HeaderValue::from_str(&location) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    Ok(response)
}

/// Accept many tasks.
///
/// Up to 10,000, all or none. An error names the task by its index: `/tasks/17/input/n`.
#[utoipa::path(
    post, path = "/tasks/batch", tag = "tasks", operation_id = "createTasks",
    request_body(content = BatchBody<'_>, content_type = "application/json",
        example = json!({"tasks": [
            {"task_type": "fibonacci", "input": {"n": 10}},
            {"task_type": "fibonacci", "input": {"n": 20}}]})),
    responses((status = 201, description = "Every task is committed", body = BatchAccepted)),
)]
pub(crate) async fn create_batch(
    State(app): State<App>,
    Tenant(tenant): Tenant,
    JsonBody(body): JsonBody,
) -> Result<Response, Problem> {
    let large = body.len() >= LARGE_BODY;
    let tasks = read(&app, tenant, large, move |submitter| submitter.batch(&body)).await?;
    let ids = tasks.iter().map(|task| task.id).collect();
    app.enqueuer.submit(tasks).await?;
    Ok(json(StatusCode::CREATED, &BatchAccepted { ids }))
}

async fn read<T: Send + 'static>(
    app: &App,
    tenant: TenantId,
    large: bool,
    read: impl FnOnce(&Submitter) -> Result<T, Problem> + Send + 'static,
) -> Result<T, Problem> {
    let submitter = Submitter { known: app.services.catalog.known(), tenant, now: app.now() };
    if !large {
        return read(&submitter);
    }
    tokio::task::spawn_blocking(move || read(&submitter)).await.unwrap_or_else(|error| {
        tracing::error!(%error, "reading a body failed");
        Err(Problem::internal())
    })
}

/// Takes the parameters that choose tasks.
fn filter(params: &mut Params) -> Result<TaskFilter, Problem> {
    Ok(TaskFilter {
        states: params.many("status")?,
        types: params.many("task_type")?,
        error_kinds: params.many("error_kind")?,
        created_from: params.one("created_from", time)?,
        created_before: params.one("created_before", time)?,
        ..TaskFilter::default()
    })
}

/// List tasks.
///
/// Newest first, page by page.
#[utoipa::path(
    get, path = "/tasks", tag = "tasks", operation_id = "listTasks",
    params(
        ("status" = Option<Vec<TaskState>>, Query, style = Form, explode = false,
            description = "In one of these states; repeated or between commas"),
        Chosen,
        ("id_prefix" = Option<String>, Query,
            description = "Whose id begins with these hexadecimal digits"),
        ("limit" = Option<u32>, Query, minimum = 1, maximum = 1000,
            description = "The most tasks on the page; 50 unless told"),
        ("cursor" = Option<String>, Query, description = "The `next_cursor` of the page before"),
    ),
    responses((status = 200, description = "A page", body = TaskList<'_>)),
)]
pub(crate) async fn list(
    State(app): State<App>,
    Tenant(tenant): Tenant,
    mut params: Params,
) -> Result<Response, Problem> {
    let filter = filter(&mut params)?;
    let limit = params.one("limit", number(1, 1000))?.unwrap_or(50);
    let after = params.one("cursor", read_cursor)?;
    let prefix = params.one("id_prefix", IdPrefix::read)?;
    params.end(&format!("{FILTERS}, id_prefix, limit, cursor"))?;
    page::answer(&app, &tenant, &filter, prefix, after, limit).await
}

/// Delete tasks that have ended.
///
/// The oldest `first` that match, with their logs. Tasks that have not ended are never deleted.
#[utoipa::path(
    delete, path = "/tasks", tag = "tasks", operation_id = "pruneTasks",
    params(
        ("first" = u32, Query, minimum = 1, maximum = 100_000,
            description = "The most tasks to delete"),
        ("status" = Option<Vec<TaskState>>, Query, style = Form, explode = false,
            description = "Only in these states: `completed`, `failed`, `cancelled`"),
        Chosen,
    ),
    responses((status = 200, description = "How many were deleted", body = Pruned)),
)]
pub(crate) async fn prune(
    State(app): State<App>,
    Tenant(tenant): Tenant,
    mut params: Params,
) -> Result<Response, Problem> {
    let filter = filter(&mut params)?;
    let first = params.one("first", number(1, 100_000))?;
    params.end(&format!("first, {FILTERS}"))?;
    let first = first.ok_or_else(|| {
        Problem::parameter("first", "is required: how many tasks to delete, 1 to 100000")
    })?;
    if let Some(state) = filter.states.iter().find(|state| !state.is_terminal()) {
        let detail = format!("tasks that are {state} have not ended and cannot be deleted");
        return Err(Problem::parameter("status", detail));
    }
    let deleted = app.services.store.prune(&tenant, &filter, first).await?;
    Ok(json(StatusCode::OK, &Pruned { deleted }))
}
