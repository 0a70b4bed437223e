//! `/tasks` and `/tasks/batch`: many tasks, or a new one.

use axum::{extract::State, response::Response};
use http::{HeaderValue, StatusCode, header};
use taskforge_domain::{Task, TaskState, TenantId};
use taskforge_store::{Cursor, Page, TaskFilter};

use crate::{
    Problem, Tenant,
    body::JsonBody,
    extract::{IdPrefix, Params, number, read_cursor, write_cursor},
    state::App,
    submission::{BatchBody, NewTaskBody, Submitter},
    view::{BatchAccepted, Pruned, TaskList, TaskView, json},
};

/// Bodies from this size on are read on a thread that may block: parsing and checking 8 MiB takes tens of milliseconds, in which
/// other requests would wait.
const LARGE_BODY: usize = 32 << 10;
/// Where a page of large tasks ends early.
const PAGE_BYTES: usize = 16 << 20;
/// Tasks read at first, before it is known how large they are.
const FIRST_READ: u32 = 16;
const FILTERS: &str = "status, task_type, error_kind, created_from, created_before";

/// Accept a task.
///
/// When this answers 201 the task is committed, and will run at least once.
#[utoipa::path(
    post, path = "/tasks", tag = "tasks", operation_id = "createTask",
    request_body(content = NewTaskBody, content_type = "application/json", examples(
        ("fibonacci" = (value = json!({"task_type": "fibonacci", "input": {"n": 10}}))),
        ("later, with retries of its own" = (value = json!({"task_type": "scraper", "input": {"url": "https://example.com"},
            "priority": 5, "delay": "10m", "max_retries": 10, "retry_base": "2s", "retry_cap": "1h"}))),
    )),
    responses((status = 201, description = "The task, committed", body = TaskView<'_>,
        headers(("Location" = String, description = "Where to read it: `/tasks/{id}`")))),
)]
pub(super) async fn create(
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
    request_body(content = BatchBody, content_type = "application/json",
        example = json!({"tasks": [{"task_type": "fibonacci", "input": {"n": 10}}, {"task_type": "fibonacci", "input": {"n": 20}}]})),
    responses((status = 201, description = "Every task is committed", body = BatchAccepted)),
)]
pub(super) async fn create_batch(
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
    let submitter = Submitter {
        plugins: app.services.catalog.snapshot(),
        tenant,
        now: app.now(),
    };
    if !large {
        return read(&submitter);
    }
    tokio::task::spawn_blocking(move || read(&submitter))
        .await
        .unwrap_or_else(|error| {
            tracing::error!(%error, "reading a body failed");
            Err(Problem::internal())
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
        ("task_type" = Option<Vec<String>>, Query, style = Form, explode = false, description = "Of one of these types"),
        ("error_kind" = Option<Vec<taskforge_domain::FailureKind>>, Query, style = Form, explode = false,
            description = "Whose last failure is of one of these kinds"),
        ("created_from" = Option<String>, Query, format = DateTime, description = "Created at this time or later"),
        ("created_before" = Option<String>, Query, format = DateTime, description = "Created before this time"),
        ("id_prefix" = Option<String>, Query, description = "Whose id begins with these hexadecimal digits"),
        ("limit" = Option<u32>, Query, minimum = 1, maximum = 1000, description = "The most tasks on the page; 50 unless told"),
        ("cursor" = Option<String>, Query, description = "The `next_cursor` of the page before"),
    ),
    responses((status = 200, description = "A page", body = TaskList<'_>)),
)]
pub(super) async fn list(
    State(app): State<App>,
    Tenant(tenant): Tenant,
    mut params: Params,
) -> Result<Response, Problem> {
    let filter = params.filter()?;
    let limit = params.one("limit", number(1, 1000))?.unwrap_or(50);
    let after = params.one("cursor", read_cursor)?;
    let prefix = params.one("id_prefix", IdPrefix::read)?;
    params.end(&format!("{FILTERS}, id_prefix, limit, cursor"))?;
    answer_page(&app, &tenant, &filter, prefix, after, limit).await
}

/// A page of tasks, written out.
pub(super) async fn answer_page(
    app: &App,
    tenant: &TenantId,
    filter: &TaskFilter,
    prefix: Option<IdPrefix>,
    after: Option<Cursor>,
    limit: u32,
) -> Result<Response, Problem> {
    let after = match &prefix {
        Some(prefix) => prefix.begin(after),
        None => after,
    };
    let (mut tasks, mut more) = page(app, tenant, filter, after, limit).await?;
    if let Some(prefix) = prefix {
        let with_prefix = tasks.iter().take_while(|task| prefix.first <= task.id).count();
        more &= with_prefix == tasks.len();
        tasks.truncate(with_prefix);
    }
    let next_cursor = tasks
        .last()
        .filter(|_| more)
        .map(|last| write_cursor(Cursor(last.id)));
    let tasks = tasks.iter().map(TaskView::from).collect();
    Ok(json(StatusCode::OK, &TaskList { tasks, next_cursor }))
}

/// Reads up to `limit` tasks, and whether there are more. A task may weigh megabytes, so a page is read in pieces and ends where it gets
/// too heavy; otherwise a thousand large tasks would be a gigabyte of answer.
async fn page(
    app: &App,
    tenant: &TenantId,
    filter: &TaskFilter,
    mut after: Option<Cursor>,
    limit: u32,
) -> Result<(Vec<Task>, bool), Problem> {
    let mut tasks: Vec<Task> = Vec::new();
    let (mut bytes, mut read) = (0_usize, FIRST_READ);
    loop {
        // One more than wanted tells whether there is a next page.
        let wanted = limit + 1 - u32::try_from(tasks.len()).unwrap_or(limit);
        let asked = wanted.min(read);
        let piece = app
            .services
            .store
            .tasks(tenant, filter, Page { after, limit: asked })
            .await?;
        let complete = piece.len() < asked as usize;
        bytes += piece.iter().map(weight).sum::<usize>();
        after = piece.last().map(|task| Cursor(task.id)).or(after);
        tasks.extend(piece);
        if tasks.len() > limit as usize {
            tasks.truncate(limit as usize);
            return Ok((tasks, true));
        }
        if complete {
            return Ok((tasks, false));
        }
        if bytes >= PAGE_BYTES {
            return Ok((tasks, true));
        }
        // As many as fit into what is left, by the average so far.
        let fit = (PAGE_BYTES - bytes) / (bytes / tasks.len().max(1)).max(1);
        read = u32::try_from(fit).unwrap_or(u32::MAX).max(1);
    }
}

fn weight(task: &Task) -> usize {
    // The rest of a task is about 500 bytes of JSON.
    500 + task.input.as_str().len() + task.result.as_ref().map_or(0, |result| result.as_str().len())
}

/// Delete tasks that have ended.
///
/// The oldest `first` that match, with their logs. Tasks that have not ended are never deleted.
#[utoipa::path(
    delete, path = "/tasks", tag = "tasks", operation_id = "pruneTasks",
    params(
        ("first" = u32, Query, minimum = 1, maximum = 100_000, description = "The most tasks to delete"),
        ("status" = Option<Vec<TaskState>>, Query, style = Form, explode = false,
            description = "Only in these states: `completed`, `failed`, `cancelled`"),
        ("task_type" = Option<Vec<String>>, Query, style = Form, explode = false, description = "Of one of these types"),
        ("error_kind" = Option<Vec<taskforge_domain::FailureKind>>, Query, style = Form, explode = false,
            description = "Whose last failure is of one of these kinds"),
        ("created_from" = Option<String>, Query, format = DateTime, description = "Created at this time or later"),
        ("created_before" = Option<String>, Query, format = DateTime, description = "Created before this time"),
    ),
    responses((status = 200, description = "How many were deleted", body = Pruned)),
)]
pub(super) async fn prune(
    State(app): State<App>,
    Tenant(tenant): Tenant,
    mut params: Params,
) -> Result<Response, Problem> {
    let filter = params.filter()?;
    let first = params.one("first", number(1, 100_000))?;
    params.end(&format!("first, {FILTERS}"))?;
    let first = first
        .ok_or_else(|| Problem::parameter("first", "is required: how many tasks to delete, 1 to 100000"))?;
    if let Some(state) = filter.states.iter().find(|state| !state.is_terminal()) {
        let detail = format!("tasks that are {state} have not ended and cannot be deleted");
        return Err(Problem::parameter("status", detail));
    }
    let deleted = app.services.store.prune(&tenant, &filter, first).await?;
    Ok(json(StatusCode::OK, &Pruned { deleted }))
}
