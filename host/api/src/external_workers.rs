//! `/task/next`, `/task/heartbeat` and `/complete_task`: for workers outside the fleet, whose
//! handlers are no WebAssembly.

mod completion;
mod lease;
pub(crate) mod lease_token;
mod report;

use std::time::Duration;

use axum::{extract::State, response::Response};
use http::StatusCode;
use serde::Serialize;
use taskforge_domain::{Json, TaskId, TaskState, TaskType, TenantId, Timestamp, is_hidden};
use tokio::time::Instant;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    FieldError, Problem, checks,
    external_workers::{
        completion::Beat,
        lease::{LeaseRequest, Leased},
        lease_token::{EXAMPLE, LeaseTokens},
        report::CompleteBody,
    },
    http::{
        answer::json,
        body::{JsonBody, JsonObject},
        fields::{DurationText, Object as _, duration, object, parsed, several, whole},
        query::MAX_WAIT,
        request::Gone,
    },
    state::App,
};

/// The route that waits.
pub(crate) const NEXT: &str = "/task/next";
const MAX_TYPES: usize = 100;
const MAX_TASKS: u32 = 100;
const DEFAULT_LEASE: Duration = Duration::from_secs(60);
/// Shorter ones would be over before an answer has travelled.
const MIN_LEASE: Duration = Duration::from_secs(1);
const MAX_LEASE: Duration = Duration::from_secs(3600);
const MAX_NAME: usize = 200;
/// Said to a worker whose type nobody knows.
const DECLARE: &str = "A type that only external workers handle is declared to the server, with \
                       --external-types NAME or a file NAME.external.toml in its plugins folder";

object! {
    /// What a worker asks for.
    pub(crate) struct NextTask {
        /// The types that it serves, 1 to 100.
        #[schema(value_type = Vec<String>, min_items = 1, max_items = 100)]
        task_types: Vec<TaskType> = several(MAX_TYPES),
        /// The most tasks that it can take now.
        #[schema(minimum = 1, maximum = 100, default = 1)]
        max: Option<u32> = whole(1, MAX_TASKS),
        /// How long each is its own without a heartbeat: 1 s to 1 h.
        #[schema(value_type = Option<DurationText>, required = false, default = "60s")]
        lease: Option<Duration> = lease_length,
        /// How long to wait while there is none, at most 60 s.
        #[schema(value_type = Option<DurationText>, required = false, default = "0s")]
        wait: Option<Duration> = duration(MAX_WAIT, "60 seconds"),
        /// What it calls itself, for operators: kept with its leases while they hold.
        #[schema(max_length = 200)]
        worker: Option<String> = worker_name,
    }
}

fn lease_length(raw: &str) -> Result<Duration, String> {
    let length = duration(MAX_LEASE, "1 hour")(raw)?;
    if length < MIN_LEASE {
        return Err("must be at least 1 second".to_owned());
    }
    // As the store keeps it.
    let millis = u64::try_from(length.as_millis()).unwrap_or(u64::MAX);
    Ok(Duration::from_millis(millis))
}

fn worker_name(raw: &str) -> Result<String, String> {
    let name: String = parsed(raw)?;
    let is_name = name.chars().count() <= MAX_NAME && !name.contains(is_hidden);
    let rule =
        || format!("must be at most {MAX_NAME} characters, none of them a control character");
    is_name.then_some(name).ok_or_else(rule)
}

/// Tasks for a worker.
#[derive(Serialize, ToSchema)]
pub(crate) struct NextTasks<'a> {
    /// The tasks, the most urgent first. None: nothing came up in time. Fewer than `max` does not
    /// mean that there are no more.
    #[schema(value_type = Vec<LeasedView<'_>>)]
    tasks: Vec<LeasedView<'a>>,
}

/// A task that is the worker's until its lease is over.
#[derive(Serialize, ToSchema)]
#[schema(as = LeasedTask, example = json!({
    "id": "019a2f6e-8c3a-7cc0-9d8e-2f1f5d0c7b11", "task_type": "ocr",
    "input": {"image": "scan-17.png"}, "attempt": 1, "max_attempts": 4, "priority": 3,
    "lease_token": EXAMPLE,
    "lease_expires_at": "2026-11-01T10:01:00Z"}))]
pub(crate) struct LeasedView<'a> {
    /// The task.
    #[schema(value_type = uuid::Uuid)]
    id: TaskId,
    /// Its type.
    #[schema(value_type = String)]
    task_type: &'a TaskType,
    /// Its input, as the client wrote it.
    #[schema(value_type = serde_json::Value)]
    input: &'a Json,
    /// The number of this attempt, from 1.
    attempt: u32,
    /// Attempts in all, if it fails as often.
    max_attempts: u32,
    /// 1 (lowest) to 5 (highest).
    #[schema(minimum = 1, maximum = 5)]
    priority: u8,
    /// Proves that the lease is the worker's own. Keep it secret, and do not look into it.
    lease_token: String,
    /// When the lease is over, unless a heartbeat renews it.
    #[schema(value_type = String, format = DateTime)]
    lease_expires_at: Timestamp,
}

impl<'a> LeasedView<'a> {
    fn new(leased: &'a Leased, tokens: &LeaseTokens) -> Self {
        let task = &leased.task;
        Self {
            id: task.id,
            task_type: &task.task_type,
            input: &task.input,
            attempt: task.attempt,
            max_attempts: task.retry.max_attempts(),
            priority: task.priority.get(),
            lease_token: tokens.write(&leased.lease),
            lease_expires_at: leased.expires_at,
        }
    }
}

object! {
    /// A lease to renew.
    pub(crate) struct Heartbeat {
        /// The task.
        #[schema(value_type = uuid::Uuid)]
        task_id: TaskId = parsed,
        /// What came with it from `POST /task/next`.
        lease_token: String = parsed,
    }
}

/// What became of a lease.
#[derive(Serialize, ToSchema)]
pub(crate) struct Renewed {
    /// When the lease is over now; null once the task is cancelled.
    #[schema(value_type = Option<String>, format = DateTime, required)]
    lease_expires_at: Option<Timestamp>,
    /// Somebody cancelled the task: stop working on it.
    cancelled: bool,
}

/// What became of a task.
#[derive(Serialize, ToSchema)]
pub(crate) struct Ended {
    /// The task.
    #[schema(value_type = uuid::Uuid)]
    task_id: TaskId,
    /// `completed`, `scheduled` (it is tried again later), `failed` (a dead letter), or `cancelled`
    /// (by somebody else, before this).
    status: TaskState,
}

/// The routes of external workers.
pub(crate) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(next)).routes(routes!(heartbeat)).routes(routes!(complete))
}

/// Lease tasks to a worker outside the fleet.
///
/// For handlers that cannot be WebAssembly. Each task is the worker's own for the time of the
/// lease; `POST /task/heartbeat` renews it, `POST /complete_task` ends it. A lease that runs out is
/// counted as a lapse and not as an attempt, and the task is given to others. Types that plugins
/// handle may be asked for as well: whoever comes first, the fleet or this worker, gets the task.
#[utoipa::path(
    post, path = "/task/next", tag = "external workers", operation_id = "nextTasks",
    request_body(content = NextTask, content_type = "application/json",
        example = json!({"task_types": ["fibonacci"], "max": 4, "lease": "30s", "wait": "5s",
            "worker": "gpu-7"})),
    responses((status = 200, description = "The tasks, perhaps none", body = NextTasks<'_>)),
)]
pub(crate) async fn next(
    State(app): State<App>,
    gone: Gone,
    JsonObject(body): JsonObject<NextTask>,
) -> Result<Response, Problem> {
    let known = app.services.catalog.known();
    let mut types = body.task_types;
    // A slip of the pen would otherwise wait for ever.
    if let Some(unknown) = types.iter().find(|name| known.get(name).is_none()) {
        let unknown = checks::unknown(&known, &TenantId::default(), unknown);
        let error = FieldError::at("/task_types", format!("{unknown}. {DECLARE}"));
        return Err(Problem::validation(vec![error]));
    }
    types.sort_unstable();
    types.dedup();
    let request = LeaseRequest {
        types,
        max: body.max.unwrap_or(1) as usize,
        length: body.lease.unwrap_or(DEFAULT_LEASE),
        worker: body
            .worker
            .filter(|name| !name.is_empty())
            .unwrap_or_else(|| "external".to_owned()),
    };
    let deadline = Instant::now() + body.wait.unwrap_or_default();
    let leased = lease::take(&app, request, deadline, &gone).await?;
    // No wait from here on: what is leased now is the client's.
    let tasks = leased.iter().map(|leased| LeasedView::new(leased, &app.lease_tokens)).collect();
    Ok(json(StatusCode::OK, &NextTasks { tasks }))
}

/// Renew a lease.
///
/// To be sent well before the lease is over, a third of its length apart for example. Also says
/// whether somebody has cancelled the task.
#[utoipa::path(
    post, path = "/task/heartbeat", tag = "external workers", operation_id = "heartbeat",
    request_body(content = Heartbeat, content_type = "application/json", example = json!({
        "task_id": "019a2f6e-8c3a-7cc0-9d8e-2f1f5d0c7b11", "lease_token": EXAMPLE})),
    responses(
        (status = 200, description = "The lease holds, or its task was cancelled", body = Renewed),
        (status = 409, description = "The token is wrong, or the lease is over"),
    ),
)]
pub(crate) async fn heartbeat(
    State(app): State<App>,
    JsonObject(body): JsonObject<Heartbeat>,
) -> Result<Response, Problem> {
    let renewed = match completion::beat(&app, body.task_id, &body.lease_token).await? {
        Beat::Held(until) => Renewed { lease_expires_at: Some(until), cancelled: false },
        Beat::Cancelled => Renewed { lease_expires_at: None, cancelled: true },
    };
    Ok(json(StatusCode::OK, &renewed))
}

/// End an attempt.
///
/// With an output or a failure. Committed when this answers 200; a repeat of the request changes
/// nothing and gets the same answer. A task that was cancelled in the meantime stays cancelled, and
/// the attempt is kept on record.
#[utoipa::path(
    post, path = "/complete_task", tag = "external workers", operation_id = "completeTask",
    request_body(content = CompleteBody<'_>, content_type = "application/json", examples(
        ("an output" = (value = json!({
            "task_id": "019a2f6e-8c3a-7cc0-9d8e-2f1f5d0c7b11", "lease_token": EXAMPLE,
            "output": {"text": "hello"}, "logs": [{"level": "info", "message": "read 1 page"}]}))),
        ("a failure" = (value = json!({
            "task_id": "019a2f6e-8c3a-7cc0-9d8e-2f1f5d0c7b11", "lease_token": EXAMPLE,
            "failure": {"kind": "retryable", "message": "the scanner is out of paper",
                "retry_after": "10m"}}))),
    )),
    responses(
        (status = 200, description = "The attempt is on record", body = Ended),
        (status = 409,
            description = "The token is wrong, or the lease is over; nothing has changed"),
    ),
)]
pub(crate) async fn complete(
    State(app): State<App>,
    JsonBody(body): JsonBody,
) -> Result<Response, Problem> {
    let report = CompleteBody::from_body(&body)?.report()?;
    let (task_id, status) = completion::complete(&app, report).await?;
    Ok(json(StatusCode::OK, &Ended { task_id, status }))
}
