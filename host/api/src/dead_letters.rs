//! `/dlq`: tasks that have failed for good.

mod requeue;

use axum::{extract::State, response::Response};
use http::StatusCode;
use serde::Serialize;
use taskforge_domain::{FailureKind, Fingerprint, TaskId, TaskState, TaskType, Timestamp};
use taskforge_store::{DeadLetterGroup, TaskFilter};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    Problem, Tenant,
    dead_letters::requeue::{MAX_MOVED, PAGE, Requeue, RequeueBody, Requeued},
    http::{
        answer::json,
        body::JsonBody,
        fields::{True, only_true},
        query::{Params, number, time},
    },
    state::App,
    tasks::{
        page::{self, read_cursor},
        view::TaskList,
    },
};

const FILTERS: &str = "id, task_type, error_kind, group, failed_from, failed_before";

/// The parameters that choose dead letters: all of them hold together.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "describes the parameters for OpenAPI")]
struct Chosen {
    /// One of these
    #[param(style = Form, explode = false)]
    id: Option<Vec<uuid::Uuid>>,
    /// Of one of these types
    #[param(style = Form, explode = false)]
    task_type: Option<Vec<String>>,
    /// With a failure of one of these kinds
    #[param(style = Form, explode = false)]
    error_kind: Option<Vec<FailureKind>>,
    /// In one of these groups, as `GET /dlq/groups` names them
    #[param(style = Form, explode = false)]
    group: Option<Vec<String>>,
    /// Failed at this time or later
    #[param(format = DateTime)]
    failed_from: Option<String>,
    /// Failed before this time
    #[param(format = DateTime)]
    failed_before: Option<String>,
}

/// Dead letters of one type with the same sort of error.
#[derive(Serialize, ToSchema)]
#[schema(as = DeadLetterGroup, example = json!({
    "group": "8913193a363691af", "task_type": "scraper", "error_kind": "retryable",
    "example": "connection refused",
    "newest": "019a2f6e-8c3a-7cc0-9d8e-2f1f5d0c7b11", "count": 4711,
    "first_failed_at": "2026-11-01T10:00:00Z", "last_failed_at": "2026-11-01T12:00:00Z"}))]
pub(crate) struct GroupView {
    /// The fingerprint of the error: messages that differ only in numbers, ids and quoted text have
    /// the same.
    #[schema(value_type = String, pattern = "^[0-9a-f]{16}$")]
    group: Fingerprint,
    /// Their type.
    #[schema(value_type = String)]
    task_type: TaskType,
    /// The kind of their failure.
    error_kind: FailureKind,
    /// The message of one of them.
    example: String,
    /// The newest of them.
    #[schema(value_type = uuid::Uuid)]
    newest: TaskId,
    /// How many there are.
    count: u64,
    /// When the first of them failed.
    #[schema(value_type = String, format = DateTime)]
    first_failed_at: Timestamp,
    /// When the last of them failed.
    #[schema(value_type = String, format = DateTime)]
    last_failed_at: Timestamp,
}

impl From<DeadLetterGroup> for GroupView {
    fn from(group: DeadLetterGroup) -> Self {
        Self {
            group: group.fingerprint,
            task_type: group.task_type,
            error_kind: group.kind,
            example: group.example,
            newest: group.newest,
            count: group.count,
            first_failed_at: group.first_failed_at,
            last_failed_at: group.last_failed_at,
        }
    }
}

/// Groups of dead letters, the largest first.
#[derive(Serialize, ToSchema)]
pub(crate) struct GroupList {
    /// The groups.
    groups: Vec<GroupView>,
}

/// What a deletion did.
#[derive(Serialize, ToSchema)]
pub(crate) struct Discarded {
    /// Dead letters that were deleted.
    deleted: u64,
    /// It stopped at 100,000, and there may be more: repeat the request.
    more: bool,
}

/// The routes of dead letters.
pub(crate) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(list, discard))
        .routes(routes!(groups))
        .routes(routes!(requeue))
}

/// Takes the parameters that choose dead letters.
fn filter(params: &mut Params) -> Result<TaskFilter, Problem> {
    Ok(TaskFilter {
        ids: params.many("id")?,
        states: vec![TaskState::Failed],
        types: params.many("task_type")?,
        error_kinds: params.many("error_kind")?,
        fingerprints: params.many("group")?,
        finished_from: params.one("failed_from", time)?,
        finished_before: params.one("failed_before", time)?,
        ..TaskFilter::default()
    })
}

/// List dead letters.
///
/// Tasks that have failed for good, with their errors: the newest first (by when they were
/// accepted), page by page.
#[utoipa::path(
    get, path = "/dlq", tag = "dead letters", operation_id = "listDeadLetters",
    params(
        Chosen,
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
    params.end(&format!("{FILTERS}, limit, cursor"))?;
    page::answer(&app, &tenant, &filter, None, after, limit).await
}

/// Group dead letters by error.
///
/// One group for each type and sort of error, the largest first.
#[utoipa::path(
    get, path = "/dlq/groups", tag = "dead letters", operation_id = "groupDeadLetters",
    params(
        Chosen,
        ("limit" = Option<u32>, Query, minimum = 1, maximum = 1000,
            description = "The most groups; 100 unless told"),
    ),
    responses((status = 200, description = "The groups", body = GroupList)),
)]
pub(crate) async fn groups(
    State(app): State<App>,
    Tenant(tenant): Tenant,
    mut params: Params,
) -> Result<Response, Problem> {
    let filter = filter(&mut params)?;
    let limit = params.one("limit", number(1, 1000))?.unwrap_or(100);
    params.end(&format!("{FILTERS}, limit"))?;
    let groups = app.services.store.dead_letters(&tenant, &filter, limit).await?;
    let groups = groups.into_iter().map(GroupView::from).collect();
    Ok(json(StatusCode::OK, &GroupList { groups }))
}

/// Run dead letters again.
///
/// Exactly one of `ids`, `filter`, `group` and `all` says which. Their attempts are counted from
/// zero; their history stays. At most 100,000 at once, in transactions of 1000: what was moved
/// before an error stays moved.
#[utoipa::path(
    post, path = "/dlq/requeue", tag = "dead letters", operation_id = "requeueDeadLetters",
    request_body(content = RequeueBody<'_>, content_type = "application/json", examples(
        ("a group, after its cause was mended" = (value = json!(
            {"group": "8913193a363691af", "task_type": "scraper"}))),
        ("what failed since a deployment" = (value = json!(
            {"filter": {"error_kind": ["trap"], "failed_from": "2026-11-01T10:00:00Z"}}))),
        ("one, with another input" = (value = json!(
            {"ids": ["019a2f6e-8c3a-7cc0-9d8e-2f1f5d0c7b11"], "input": {"n": 10}}))),
        ("every one" = (value = json!({"all": true}))),
    )),
    responses((status = 200, description = "They are pending again", body = Requeued)),
)]
pub(crate) async fn requeue(
    State(app): State<App>,
    Tenant(tenant): Tenant,
    JsonBody(body): JsonBody,
) -> Result<Response, Problem> {
    let mut requeue = Requeue::read(&body)?;
    requeue.check(&app, &tenant).await?;
    let done = requeue.run(&app, &tenant).await?;
    Ok(json(StatusCode::OK, &done))
}

/// Delete dead letters.
///
/// With their logs, and for good. Without a filter `all=true` must say that every one is meant. At
/// most 100,000 at once.
#[utoipa::path(
    delete, path = "/dlq", tag = "dead letters", operation_id = "deleteDeadLetters",
    params(
        ("all" = inline(Option<True>), Query,
            description = "Every one: needed if there is no filter, and not allowed together with \
                one"),
        Chosen,
    ),
    responses((status = 200, description = "They are gone", body = Discarded)),
)]
pub(crate) async fn discard(
    State(app): State<App>,
    Tenant(tenant): Tenant,
    mut params: Params,
) -> Result<Response, Problem> {
    let is_filtered = !params.is_empty_but_for("all");
    let filter = filter(&mut params)?;
    let all = params.one("all", only_true)?;
    params.end(&format!("all, {FILTERS}"))?;
    match (all.is_some(), is_filtered) {
        (true, true) => {
            return Err(Problem::parameter("all", "cannot be given together with a filter"));
        }
        (false, false) => {
            let detail =
                format!("must be true to delete every dead letter; otherwise filter by {FILTERS}");
            return Err(Problem::parameter("all", detail));
        }
        _ => {}
    }
    let mut done = Discarded { deleted: 0, more: false };
    loop {
        let deleted = app.services.store.prune(&tenant, &filter, PAGE).await?;
        done.deleted += deleted;
        done.more = deleted == u64::from(PAGE);
        if !done.more || done.deleted >= MAX_MOVED {
            return Ok(json(StatusCode::OK, &done));
        }
    }
}
