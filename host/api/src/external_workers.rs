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
    FieldError, Problem,
    external_workers::{
        completion::Beat,
        lease::{Ask, Leased},
        lease_token::LeaseTokens,
        report::{CompleteBody, Report},
    },
    http::{
        answer::json,
        body::JsonBody,
        fields::{self, DurationText, Fields, duration, parsed, several},
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

/// What a worker asks for.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "describes the body for OpenAPI")]
pub(crate) struct NextTask {
    /// The types that it serves, 1 to 100.
    #[schema(min_items = 1, max_items = 100)]
    task_types: Vec<String>,
    /// The most tasks that it can take now.
    #[schema(minimum = 1, maximum = 100, default = 1)]
    max: Option<u32>,
    /// How long each is its own without a heartbeat: 1 s to 1 h.
    #[schema(value_type = Option<DurationText>, required = false, default = "60s")]
    lease: String,
    /// How long to wait while there is none, at most 60 s.
    #[schema(value_type = Option<DurationText>, required = false, default = "0s")]
    wait: String,
    /// What it calls itself, for operators: kept with its leases while they hold.
    #[schema(max_length = 200)]
    worker: Option<String>,
}

/// Tasks for a worker.
#[derive(Serialize, ToSchema)]
pub(crate) struct NextTasks<'a> {
    /// The tasks, the most urgent first. None: nothing came up in time. Fewer than `max` does not mean that there are no more.
    #[schema(value_type = Vec<LeasedView<'_>>)]
    tasks: Vec<LeasedView<'a>>,
}

/// A task that is the worker's until its lease is over.
#[derive(Serialize, ToSchema)]
#[schema(as = LeasedTask, example = json!({
    "id": "019a2f6e-8c3a-7cc0-9d8e-2f1f5d0c7b11", "task_type": "ocr", "input": {"image": "scan-17.png"}, "attempt": 1,
    "max_attempts": 4, "priority": 3, "lease_token": "AQGaL26MOnzAnY4vH10MexEAAAAAAAAAAQAA6mAAZGVmYXVsdEk_p2Zt8Xb0xu5RkHk8Vw",
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

/// A lease to renew.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "describes the body for OpenAPI")]
pub(crate) struct Heartbeat {
    /// The task.
    #[schema(value_type = uuid::Uuid)]
    task_id: TaskId,
    /// What came with it from `POST /task/next`.
    lease_token: String,
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
    /// `completed`, `scheduled` (it is tried again later), `failed` (a dead letter), or `cancelled` (by somebody else, before this).
    status: TaskState,
}

/// The routes of external workers.
pub(crate) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(next))
        .routes(routes!(heartbeat))
        .routes(routes!(complete))
}

/// Lease tasks to a worker outside the fleet.
///
/// For handlers that cannot be WebAssembly. Each task is the worker's own for the time of the lease; `POST /task/heartbeat` renews it,
/// `POST /complete_task` ends it. A lease that runs out is counted as a lapse and not as an attempt, and the task is given to others. Types that plugins handle may be
/// asked for as well: whoever comes first, the fleet or this worker, gets the task.
#[utoipa::path(
    post, path = "/task/next", tag = "external workers", operation_id = "nextTasks",
    request_body(content = NextTask, content_type = "application/json",
        example = json!({"task_types": ["fibonacci"], "max": 4, "lease": "30s", "wait": "5s", "worker": "gpu-7"})),
    responses((status = 200, description = "The tasks, perhaps none", body = NextTasks<'_>)),
)]
pub(crate) async fn next(
    State(app): State<App>,
    gone: Gone,
    JsonBody(body): JsonBody,
) -> Result<Response, Problem> {
    let (ask, wait) = read_ask(&app, &body)?;
    let leased = lease::take(&app, ask, Instant::now() + wait, &gone).await?;
    // No wait from here on: what is leased now is the client's.
    let tasks = leased
        .iter()
        .map(|leased| LeasedView::new(leased, &app.lease_tokens))
        .collect();
    Ok(json(StatusCode::OK, &NextTasks { tasks }))
}

fn read_ask(app: &App, body: &[u8]) -> Result<(Ask, Duration), Problem> {
    let known = ["task_types", "max", "lease", "wait", "worker"];
    fields::body(body, &known, |fields, errors| {
        let types = types(app, fields, errors);
        let max = fields.parse("max", errors, |raw| {
            let max = serde_json::from_str::<u32>(raw).ok();
            let max = max.filter(|max| (1..=MAX_TASKS).contains(max));
            max.ok_or_else(|| format!("must be a whole number from 1 to {MAX_TASKS}"))
        });
        let length = fields.parse("lease", errors, |raw| {
            let length = duration(raw, MAX_LEASE, "1 hour")?;
            if length < MIN_LEASE {
                return Err("must be at least 1 second".to_owned());
            }
            // As the store keeps it.
            Ok(Duration::from_millis(
                u64::try_from(length.as_millis()).unwrap_or(u64::MAX),
            ))
        });
        let wait = fields.parse("wait", errors, |raw| duration(raw, MAX_WAIT, "60 seconds"));
        let worker = fields.parse("worker", errors, |raw| {
            let name: String = parsed(raw)?;
            let is_name = name.chars().count() <= MAX_NAME && !name.contains(is_hidden);
            let rule = || format!("must be at most {MAX_NAME} characters, none of them a control character");
            is_name.then_some(name).ok_or_else(rule)
        });
        let ask = Ask {
            types: types?,
            max: max.unwrap_or(1) as usize,
            length: length.unwrap_or(DEFAULT_LEASE),
            worker: worker
                .filter(|name| !name.is_empty())
                .unwrap_or_else(|| "external".to_owned()),
        };
        Some((ask, wait.unwrap_or_default()))
    })
}

fn types(app: &App, fields: &Fields<'_>, errors: &mut Vec<FieldError>) -> Option<Vec<TaskType>> {
    let plugins = app.services.catalog.snapshot();
    fields.required("task_types", errors, |raw| {
        let mut types: Vec<TaskType> = several(raw, MAX_TYPES)?;
        // A slip of the pen would otherwise wait for ever.
        if let Some(unknown) = types.iter().find(|name| plugins.get(name).is_none()) {
            let unknown = plugins.unknown(&TenantId::default(), unknown);
            return Err(format!("{unknown}. {DECLARE}"));
        }
        types.sort_unstable();
        types.dedup();
        Ok(types)
    })
}

/// Renew a lease.
///
/// To be sent well before the lease is over, a third of its length apart for example. Also says whether somebody has cancelled the task.
#[utoipa::path(
    post, path = "/task/heartbeat", tag = "external workers", operation_id = "heartbeat",
    request_body(content = Heartbeat, content_type = "application/json", example = json!({
        "task_id": "019a2f6e-8c3a-7cc0-9d8e-2f1f5d0c7b11", "lease_token": "AQGaL26MOnzAnY4vH10MexEAAAAAAAAAAQAA6mAAZGVmYXVsdEk_p2Zt8Xb0xu5RkHk8Vw"})),
    responses(
        (status = 200, description = "The lease holds, or its task was cancelled", body = Renewed),
        (status = 409, description = "The token is wrong, or the lease is over"),
    ),
)]
pub(crate) async fn heartbeat(State(app): State<App>, JsonBody(body): JsonBody) -> Result<Response, Problem> {
    let (task, token) = fields::body(&body, &["task_id", "lease_token"], |fields, errors| {
        let (task, token) = report::lease_of(fields, errors);
        Some((task?, token?))
    })?;
    let renewed = match completion::beat(&app, task, &token).await? {
        Beat::Held(until) => Renewed {
            lease_expires_at: Some(until),
            cancelled: false,
        },
        Beat::Cancelled => Renewed {
            lease_expires_at: None,
            cancelled: true,
        },
    };
    Ok(json(StatusCode::OK, &renewed))
}

/// End an attempt.
///
/// With an output or a failure. Committed when this answers 200; a repeat of the request changes nothing and gets the same answer. A task that was
/// cancelled in the meantime stays cancelled, and the attempt is kept on record.
#[utoipa::path(
    post, path = "/complete_task", tag = "external workers", operation_id = "completeTask",
    request_body(content = CompleteBody, content_type = "application/json", examples(
        ("an output" = (value = json!({"task_id": "019a2f6e-8c3a-7cc0-9d8e-2f1f5d0c7b11", "lease_token": "AQGaL26MOnzAnY4vH10MexEAAAAAAAAAAQAA6mAAZGVmYXVsdEk_p2Zt8Xb0xu5RkHk8Vw",
            "output": {"text": "hello"}, "logs": [{"level": "info", "message": "read 1 page"}]}))),
        ("a failure" = (value = json!({"task_id": "019a2f6e-8c3a-7cc0-9d8e-2f1f5d0c7b11", "lease_token": "AQGaL26MOnzAnY4vH10MexEAAAAAAAAAAQAA6mAAZGVmYXVsdEk_p2Zt8Xb0xu5RkHk8Vw",
            "failure": {"kind": "retryable", "message": "the scanner is out of paper", "retry_after": "10m"}}))),
    )),
    responses(
        (status = 200, description = "The attempt is on record", body = Ended),
        (status = 409, description = "The token is wrong, or the lease is over; nothing has changed"),
    ),
)]
pub(crate) async fn complete(State(app): State<App>, JsonBody(body): JsonBody) -> Result<Response, Problem> {
    let report = Report::read(&body)?;
    let (task_id, status) = completion::complete(&app, report).await?;
    Ok(json(StatusCode::OK, &Ended { task_id, status }))
}
