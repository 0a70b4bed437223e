//! `/queues` and `/tenants`: how the fleet is shared out.

use std::{collections::BTreeSet, time::Duration};

use axum::{extract::State, response::Response};
use http::StatusCode;
use serde::Serialize;
use taskforge_broker::Signal;
use taskforge_domain::{
    QueuePolicy, TaskState, TaskType, TenantId, TenantPolicy, Timestamp, TypePolicy, Weight,
};
use taskforge_registry::{KnownTypes, RegistryError};
use taskforge_store::{Counts, StoreError};
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    Problem, ProblemKind,
    http::{
        answer::json,
        body::JsonObject,
        fields::{flag, object, typed, whole},
        path::{By, PathParam},
        query::NoQuery,
    },
    state::App,
    tasks::enqueue,
};

/// More than any fleet runs; a larger number is a slip.
const MAX_RUNNING: u32 = 1_000_000;

/// How long the store may take to count.
const COUNTING: Duration = Duration::from_secs(10);

/// The queue of a task type.
#[derive(Serialize, ToSchema)]
#[schema(as = Queue,
    example = json!({"task_type": "fibonacci", "paused": false, "max_running": null}))]
pub(crate) struct QueueView<'a> {
    /// The type.
    #[schema(value_type = String)]
    task_type: &'a TaskType,
    /// Its tasks wait, whether the queue was paused or its plugin. Those that run go on.
    paused: bool,
    /// The most attempts that may run at once in the whole fleet; null: as many as workers have
    /// room for.
    #[schema(required)]
    max_running: Option<u32>,
    /// How many tasks there are of it. Only in the list.
    #[serde(skip_serializing_if = "Option::is_none")]
    tasks: Option<QueueTasks>,
}

/// How many tasks of a type there are, of all tenants. Completed and cancelled ones are not
/// counted.
#[derive(Serialize, ToSchema, Default)]
#[schema(example = json!({"pending": 12, "scheduled": 3, "running": 4, "failed": 1,
    "oldest_pending_at": "2026-01-31T08:00:00Z"}))]
pub(crate) struct QueueTasks {
    /// They could run now and wait.
    pending: u64,
    /// They are to run later: with a delay, or after a failed attempt.
    scheduled: u64,
    /// An attempt of them runs.
    running: u64,
    /// They have failed for good: dead letters.
    failed: u64,
    /// When the oldest pending one was enqueued.
    #[schema(value_type = Option<String>, format = DateTime, required)]
    oldest_pending_at: Option<Timestamp>,
}

impl QueueTasks {
    fn of(name: &TaskType, counts: &Counts) -> Self {
        let of_type = counts.by_type.iter().filter(|(of, ..)| of == name);
        let mut tasks = of_type.fold(Self::default(), |mut tasks, (_, state, count)| {
            match state {
                TaskState::Pending => tasks.pending = *count,
                TaskState::Scheduled => tasks.scheduled = *count,
                TaskState::Running => tasks.running = *count,
                TaskState::Failed => tasks.failed = *count,
                TaskState::Completed | TaskState::Cancelled => {}
            }
            tasks
        });
        let oldest = counts.oldest_pending.iter().find(|(of, _)| of == name);
        tasks.oldest_pending_at = oldest.and_then(|(_, id)| id.made_at());
        tasks
    }
}

/// A tenant's share of the fleet.
#[derive(Serialize, ToSchema)]
#[schema(as = Tenant, example = json!({"tenant": "default", "weight": 1, "max_running": null}))]
pub(crate) struct TenantView<'a> {
    /// The tenant.
    #[schema(value_type = String)]
    tenant: &'a TenantId,
    /// Of tenants that wait in the same priority, one of weight 3 is served three times as often as
    /// one of weight 1.
    #[schema(value_type = u32, minimum = 1, maximum = 1000)]
    weight: Weight,
    /// The most attempts that may run at once in the whole fleet; null: as many as workers have
    /// room for.
    #[schema(required)]
    max_running: Option<u32>,
}

/// How the fleet is shared out.
#[derive(Serialize, ToSchema)]
pub(crate) struct QueueList<'a> {
    /// Every type that is known, has a policy or has tasks, by name.
    #[schema(value_type = Vec<QueueView<'_>>)]
    queues: Vec<QueueView<'a>>,
    /// The tenants that have a policy, and the default one.
    #[schema(value_type = Vec<TenantView<'_>>)]
    tenants: Vec<TenantView<'a>>,
}

/// How the fleet is shared between tenants.
#[derive(Serialize, ToSchema)]
pub(crate) struct TenantList<'a> {
    /// The tenants that have a policy, and the default one.
    #[schema(value_type = Vec<TenantView<'_>>)]
    tenants: Vec<TenantView<'a>>,
}

object! {
    /// What a queue is set to. What is left out gets its default.
    pub(crate) struct QueueBody {
        /// Its tasks are to wait.
        #[schema(default = false)]
        paused: Option<bool> = flag,
        /// The most attempts that may run at once in the whole fleet.
        #[schema(maximum = 1_000_000)]
        max_running: Option<u32> = max_running,
    }
}

object! {
    /// What a tenant's share is set to. What is left out gets its default.
    pub(crate) struct TenantBody {
        /// Its share, against those of others.
        #[schema(value_type = Option<u32>, minimum = 1, maximum = 1000, default = 1)]
        weight: Option<Weight> =
            typed::<Weight>("must be a whole number from 1 to 1000"),
        /// The most attempts that may run at once in the whole fleet.
        #[schema(maximum = 1_000_000)]
        max_running: Option<u32> = max_running,
    }
}

fn max_running(raw: &str) -> Result<u32, String> {
    whole(0, MAX_RUNNING)(raw).map_err(|rule| format!("{rule}, or null for no cap"))
}

/// The routes of queues and of tenants' shares.
pub(crate) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(list))
        .routes(routes!(set))
        .routes(routes!(pause))
        .routes(routes!(resume))
        .routes(routes!(list_tenants))
        .routes(routes!(set_tenant))
}

/// List the queues.
///
/// How many tasks each type has, which types are paused or capped, and how tenants share the fleet.
#[utoipa::path(
    get, path = "/queues", tag = "queues", operation_id = "listQueues",
    responses((status = 200, description = "Every queue and tenant", body = QueueList<'_>)),
)]
pub(crate) async fn list(State(app): State<App>, _: NoQuery) -> Result<Response, Problem> {
    let counts = counts(&app).await?;
    let set = app.services.store.policy().await?;
    let known = app.services.catalog.known();
    let types: BTreeSet<&TaskType> = known
        .all()
        .into_keys()
        .chain(set.types.keys())
        .chain(counts.by_type.iter().map(|(name, ..)| name))
        .collect();
    let default_tenant = TenantId::default();
    let queues = types.into_iter().map(|name| QueueView {
        tasks: Some(QueueTasks::of(name, &counts)),
        ..queue(name, &set, &known)
    });
    let list = QueueList { queues: queues.collect(), tenants: tenants(&set, &default_tenant) };
    Ok(json(StatusCode::OK, &list))
}

/// List the tenants' shares.
#[utoipa::path(
    get, path = "/tenants", tag = "queues", operation_id = "listTenants",
    responses((status = 200,
        description = "Every tenant that has a policy, and the default one",
        body = TenantList<'_>)),
)]
pub(crate) async fn list_tenants(State(app): State<App>, _: NoQuery) -> Result<Response, Problem> {
    let policy = app.services.store.policy().await?;
    let default_tenant = TenantId::default();
    let tenants = tenants(&policy, &default_tenant);
    Ok(json(StatusCode::OK, &TenantList { tenants }))
}

/// The numbers of all types. A backlog of millions takes the store a while.
async fn counts(app: &App) -> Result<Counts, Problem> {
    let counting = tokio::time::timeout(COUNTING, app.services.store.counts());
    counting
        .await
        .unwrap_or_else(|_| Err(StoreError::Unavailable("counting took too long".to_owned())))
        .map_err(Problem::from)
}

fn queue<'a>(task_type: &'a TaskType, policy: &QueuePolicy, known: &KnownTypes) -> QueueView<'a> {
    QueueView {
        task_type,
        paused: policy.is_paused(task_type) || known.is_paused(task_type),
        max_running: policy.type_cap(task_type),
        tasks: None,
    }
}

fn tenants<'a>(policy: &'a QueuePolicy, default: &'a TenantId) -> Vec<TenantView<'a>> {
    let names: BTreeSet<&TenantId> = policy.tenants.keys().chain([default]).collect();
    names.into_iter().map(|name| tenant(name, policy)).collect()
}

fn tenant<'a>(tenant: &'a TenantId, policy: &QueuePolicy) -> TenantView<'a> {
    TenantView { tenant, weight: policy.weight(tenant), max_running: policy.tenant_cap(tenant) }
}

/// Set a queue's policy.
///
/// Replaces the whole policy of a task type. Workers and brokers follow within a second or so. What
/// is not paused any more runs, also if its plugin was paused.
#[utoipa::path(
    put, path = "/queues/{type}", tag = "queues", operation_id = "setQueue",
    request_body(content = QueueBody, content_type = "application/json",
        example = json!({"paused": false, "max_running": 20})),
    responses(
        (status = 200, description = "The queue", body = QueueView<'_>),
    ),
)]
pub(crate) async fn set(
    State(app): State<App>,
    PathParam(name): PathParam<TaskType>,
    By(by): By,
    JsonObject(body): JsonObject<QueueBody>,
) -> Result<Response, Problem> {
    let QueueBody { paused, max_running } = body;
    let policy = TypePolicy { paused: paused.unwrap_or_default(), max_running };
    // Who sets a cap and says nothing of a pause did not mean the plugin's.
    let resumes = paused == Some(false);
    change(&app, &name, resumes.then_some(by.as_str()), |_| policy).await
}

/// Pause a queue.
///
/// Tasks of this type wait until it is resumed; those that run go on. To pause a paused queue
/// changes nothing. To pause a plugin does the same.
#[utoipa::path(
    post, path = "/queues/{type}/pause", tag = "queues", operation_id = "pauseQueue",
    responses(
        (status = 200, description = "The queue, paused", body = QueueView<'_>),
    ),
)]
pub(crate) async fn pause(
    State(app): State<App>,
    PathParam(name): PathParam<TaskType>,
    _: NoQuery,
) -> Result<Response, Problem> {
    change(&app, &name, None, |policy| TypePolicy { paused: true, ..policy }).await
}

/// Resume a queue.
///
/// Its tasks run again, also if its plugin was paused. To resume a queue that is not paused changes
/// nothing.
#[utoipa::path(
    post, path = "/queues/{type}/resume", tag = "queues", operation_id = "resumeQueue",
    responses(
        (status = 200, description = "The queue, no longer paused", body = QueueView<'_>),
    ),
)]
pub(crate) async fn resume(
    State(app): State<App>,
    PathParam(name): PathParam<TaskType>,
    By(by): By,
    _: NoQuery,
) -> Result<Response, Problem> {
    change(&app, &name, Some(&by), |policy| TypePolicy { paused: false, ..policy }).await
}

/// Set a tenant's share.
///
/// Replaces the whole policy of a tenant. Workers and brokers follow within a second or so.
#[utoipa::path(
    put, path = "/tenants/{tenant}", tag = "queues", operation_id = "setTenant",
    request_body(content = TenantBody, content_type = "application/json",
        example = json!({"weight": 3, "max_running": 200})),
    responses((status = 200, description = "The tenant", body = TenantView<'_>)),
)]
pub(crate) async fn set_tenant(
    State(app): State<App>,
    PathParam(name): PathParam<TenantId>,
    JsonObject(body): JsonObject<TenantBody>,
) -> Result<Response, Problem> {
    let wanted =
        TenantPolicy { weight: body.weight.unwrap_or_default(), max_running: body.max_running };
    let _changing = app.policy.lock().await;
    app.services.store.set_tenant_policy(&name, wanted).await?;
    let policy = spread(&app).await?;
    Ok(json(StatusCode::OK, &tenant(&name, &policy)))
}

/// Changes what a type's policy is now. Only within this process do changes wait for each other: of
/// two operators who pause and cap one queue through two processes in the same moment, one may have
/// to repeat it. Also resumes the type's plugin if somebody asks for that.
async fn change(
    app: &App,
    name: &TaskType,
    resumed_by: Option<&str>,
    to: impl FnOnce(TypePolicy) -> TypePolicy,
) -> Result<Response, Problem> {
    let changing = app.policy.lock().await;
    let before = app.services.store.policy().await?;
    let known = app.services.catalog.known();
    let is_known = known.get(name).is_some() || before.types.contains_key(name);
    if !is_known && !counts(app).await?.by_type.iter().any(|(of, ..)| of == name) {
        let names: Vec<_> = known.all().into_keys().take(20).map(TaskType::as_str).collect();
        return Err(Problem::new(
            ProblemKind::NotFound,
            format!("There is no task type {name}; known are {}.", names.join(", ")),
        ));
    }
    let before = before.types.get(name).copied().unwrap_or_default();
    let after = to(before);
    app.services.store.set_type_policy(name, after).await?;
    drop(changing);
    if let Some(by) = resumed_by {
        match app.services.registry.resume(name, by).await {
            Ok(_) => app.refresh().await,
            Err(RegistryError::UnknownPlugin(_)) => {}
            Err(error) => return Err(error.into()),
        }
    }
    let policy = spread(app).await?;
    let known = app.services.catalog.known();
    Ok(json(StatusCode::OK, &queue(name, &policy, &known)))
}

/// Lets the queue of a plugin that was resumed run too.
pub(crate) async fn resume_type(app: &App, name: &TaskType) -> Result<(), Problem> {
    let _changing = app.policy.lock().await;
    let policy = app.services.store.policy().await?;
    let Some(paused) = policy.types.get(name).filter(|policy| policy.paused) else {
        return Ok(());
    };
    let resumed = TypePolicy { paused: false, ..*paused };
    app.services.store.set_type_policy(name, resumed).await?;
    spread(app).await.map(drop)
}

/// Tells the fleet at once what it would notice by itself some seconds later.
async fn spread(app: &App) -> Result<QueuePolicy, Problem> {
    let policy = app.services.store.policy().await?;
    let told = app.services.catalog.overlay(policy.clone());
    enqueue::told("set_policy", app.services.broker.set_policy(&told)).await;
    enqueue::publish(&*app.services.broker, &[Signal::Policy]).await;
    Ok(policy)
}
