//! Tasks as clients see them.

use serde::Serialize;
use taskforge_domain::{
    FailureKind, Fingerprint, Json, NewTask, Task, TaskId, TaskState, TaskType, Timestamp,
};
use utoipa::ToSchema;

/// A task.
#[derive(Serialize, ToSchema)]
#[schema(as = Task, example = json!({
    "id": "019a2f6e-8c3a-7cc0-9d8e-2f1f5d0c7b11", "task_type": "fibonacci",
    "status": "completed", "priority": 4, "input": {"n": 10}, "result": {"result": 55},
    "error": null, "error_kind": null, "error_group": null, "attempt": 1, "retry_count": 0,
    "lapses": 0, "max_retries": 3, "progress": null, "created_at": "2026-11-01T10:00:00Z",
    "run_at": "2026-11-01T10:00:00Z",
    "started_at": "2026-11-01T10:00:00.004Z", "finished_at": "2026-11-01T10:00:00.005Z"}))]
pub(crate) struct TaskView<'a> {
    /// UUIDv7.
    #[schema(value_type = uuid::Uuid)]
    id: TaskId,
    /// The plugin that handles it.
    #[schema(value_type = String)]
    task_type: &'a TaskType,
    /// Where it is in its life.
    status: TaskState,
    /// 1 (lowest) to 5 (highest).
    #[schema(minimum = 1, maximum = 5)]
    priority: u8,
    /// As the client wrote it.
    #[schema(value_type = Value)]
    input: &'a Json,
    /// The handler's output, once completed.
    #[schema(value_type = Value, nullable)]
    result: Option<&'a Json>,
    /// Why the last attempt failed.
    #[schema(required)]
    error: Option<&'a str>,
    /// The class of that failure.
    #[schema(required)]
    error_kind: Option<FailureKind>,
    /// What failures of the same sort have in common: `GET /dlq?group=…` finds the dead letters
    /// among them.
    #[schema(value_type = Option<String>, required, pattern = "^[0-9a-f]{16}$")]
    error_group: Option<Fingerprint>,
    /// Attempts begun since it was created or last retried by hand.
    attempt: u32,
    /// Attempts after the first.
    retry_count: u32,
    /// Times since then that its worker died or fell silent, which is not counted as an attempt.
    lapses: u32,
    /// Retries allowed.
    max_retries: u32,
    /// The running attempt's latest report.
    #[schema(required)]
    progress: Option<ProgressView<'a>>,
    /// When it was accepted.
    #[schema(value_type = String, format = DateTime)]
    created_at: Timestamp,
    /// When it may run, or might have.
    #[schema(value_type = String, format = DateTime)]
    run_at: Timestamp,
    /// When its latest attempt began.
    #[schema(value_type = Option<String>, format = DateTime, required)]
    started_at: Option<Timestamp>,
    /// When it completed, failed for good or was cancelled.
    #[schema(value_type = Option<String>, format = DateTime, required)]
    finished_at: Option<Timestamp>,
}

/// How far a running attempt is.
#[derive(Serialize, ToSchema)]
#[schema(as = Progress)]
pub(crate) struct ProgressView<'a> {
    /// 0.0 to 1.0.
    #[schema(minimum = 0.0, maximum = 1.0)]
    fraction: f64,
    /// What the handler is doing.
    #[schema(required)]
    note: Option<&'a str>,
}

impl<'a> From<&'a Task> for TaskView<'a> {
    fn from(task: &'a Task) -> Self {
        Self {
            id: task.id,
            task_type: &task.task_type,
            status: task.state,
            priority: task.priority.get(),
            input: &task.input,
            result: task.result.as_ref(),
            error: task.error.as_ref().map(|error| error.message.as_str()),
            error_kind: task.error.as_ref().map(|error| error.kind),
            error_group: task
                .error
                .as_ref()
                .map(|error| Fingerprint::of(error.kind, &error.message)),
            attempt: task.attempt,
            retry_count: task.retry_count(),
            lapses: task.lapses,
            max_retries: task.retry.max_retries,
            progress: task.progress.as_ref().map(|progress| ProgressView {
                fraction: progress.fraction,
                note: progress.note.as_deref(),
            }),
            created_at: task.created_at,
            run_at: task.run_at,
            started_at: task.started_at,
            finished_at: task.finished_at,
        }
    }
}

impl<'a> From<&'a NewTask> for TaskView<'a> {
    fn from(task: &'a NewTask) -> Self {
        Self {
            id: task.id,
            task_type: &task.task_type,
            status: task.first_state(),
            priority: task.priority.get(),
            input: &task.input,
            result: None,
            error: None,
            error_kind: None,
            error_group: None,
            attempt: 0,
            retry_count: 0,
            lapses: 0,
            max_retries: task.retry.max_retries,
            progress: None,
            created_at: task.created_at,
            run_at: task.run_at.map_or(task.created_at, |at| at.max(task.created_at)),
            started_at: None,
            finished_at: None,
        }
    }
}

/// A page of tasks, newest first.
#[derive(Serialize, ToSchema)]
pub(crate) struct TaskList<'a> {
    /// The tasks. Fewer than `limit` does not mean that these are the last: large tasks make
    /// shorter pages.
    #[schema(value_type = Vec<TaskView<'_>>)]
    pub(crate) tasks: Vec<TaskView<'a>>,
    /// Hand it back as `cursor` for the next page. Null on the last page.
    #[schema(required)]
    pub(crate) next_cursor: Option<String>,
}

/// The ids of a batch, in the order of its tasks.
#[derive(Serialize, ToSchema)]
pub(crate) struct BatchAccepted {
    /// One for each task.
    #[schema(value_type = Vec<uuid::Uuid>)]
    pub(crate) ids: Vec<TaskId>,
}

/// What a prune did.
#[derive(Serialize, ToSchema)]
pub(crate) struct Pruned {
    /// Tasks that were deleted.
    pub(crate) deleted: u64,
}
