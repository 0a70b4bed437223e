//! Which versions of a plugin run.

use axum::{extract::State, response::Response};
use http::StatusCode;
use taskforge_domain::{CanaryGuard, RegisteredPlugin, TaskType, TenantId, VersionNumber};
use taskforge_registry::Force;
use utoipa::IntoResponses;

use crate::{
    Problem, Tenant,
    http::{
        answer::json,
        body::JsonObject,
        fields::{flag, object, parsed, whole},
        json::strict,
        path::{By, PathParam},
        query::NoQuery,
    },
    plugins::view::RolloutView,
    queues,
    state::App,
};

object! {
    /// Which version is to run.
    #[schema(as = Activate)]
    pub(crate) struct ActivateBody {
        /// The version.
        #[schema(value_type = String)]
        version: VersionNumber = parsed,
        /// Also if it refuses inputs that the running version takes.
        #[schema(default = false)]
        force: Option<bool> = flag,
        /// Also if it is older than a version that was active, where the server requires
        /// signatures.
        #[schema(default = false)]
        allow_downgrade: Option<bool> = flag,
    }
}

object! {
    /// Which version is to run on trial, and how.
    #[schema(as = StartCanary)]
    pub(crate) struct CanaryBody {
        /// The version.
        #[schema(value_type = String)]
        version: VersionNumber = parsed,
        /// The share of tasks that it is to run.
        #[schema(minimum = 1, maximum = 99)]
        percent: u8 = whole(1, 99),
        /// When it is taken back by itself. What is left out gets its default.
        guard: Option<CanaryGuard> = |raw| strict::<CanaryGuard>(raw, ""),
        /// Also if it refuses inputs that the running version takes.
        #[schema(default = false)]
        force: Option<bool> = flag,
        /// Also if it is older than a version that was active, where the server requires
        /// signatures.
        #[schema(default = false)]
        allow_downgrade: Option<bool> = flag,
    }
}

object! {
    /// What is to be retired.
    #[schema(as = Retire)]
    pub(crate) struct RetireBody {
        /// Only this version, which must not be running; the whole plugin if left out.
        #[schema(value_type = Option<String>)]
        version: Option<VersionNumber> = parsed::<VersionNumber>,
    }
}

/// Why a version does not run.
#[derive(IntoResponses)]
#[expect(dead_code, reason = "describes answers for OpenAPI")]
enum Refused {
    #[response(status = 403, description = "Its signature does not hold")]
    Signature,
    #[response(
        status = 409,
        description = "It breaks clients of the running version, is retired or older than one \
            that was live, or is to be tried where nothing runs yet"
    )]
    Conflict,
}

/// Activate a version.
///
/// It is to run all tasks of the plugin. Workers hear of it within two seconds and take it when
/// they have compiled it; until then attempts begin on the version before, and an attempt ends on
/// the version that it began with. Ends a trial. A retired plugin takes tasks again. A version that
/// refuses inputs which the running one takes is refused, with every field named, unless it is
/// forced; so is one that imports what the running one is granted and it is not.
///
/// Where the server requires signatures, a version that is older than the highest that was ever
/// active is refused unless `allow_downgrade` is true; the record says so.
#[utoipa::path(
    post, path = "/plugins/{name}/activate", tag = "plugins", operation_id = "activatePlugin",
    request_body(content = ActivateBody, content_type = "application/json",
        example = json!({"version": "1.0.0"})),
    responses(
        (status = 200, description = "The version runs", body = RolloutView<'_>),
        Refused,
    ),
)]
pub(crate) async fn activate(
    State(app): State<App>,
    Tenant(tenant): Tenant,
    PathParam(name): PathParam<TaskType>,
    By(by): By,
    JsonObject(body): JsonObject<ActivateBody>,
) -> Result<Response, Problem> {
    let force = force(body.force, body.allow_downgrade);
    let registry = &app.services.registry;
    let plugin = registry.activate(&name, body.version.as_str(), force, &by).await?;
    shown(&app, tenant, &plugin).await
}

/// Roll back to the version before.
///
/// The version that ran before runs again. Ends a trial. Once more undoes it.
#[utoipa::path(
    post, path = "/plugins/{name}/rollback", tag = "plugins", operation_id = "rollBackPlugin",
    responses(
        (status = 200, description = "The version before runs", body = RolloutView<'_>),
        (status = 409, description = "There is none"),
    ),
)]
pub(crate) async fn roll_back(
    State(app): State<App>,
    Tenant(tenant): Tenant,
    PathParam(name): PathParam<TaskType>,
    By(by): By,
    _: NoQuery,
) -> Result<Response, Problem> {
    let plugin = app.services.registry.rollback(&name, &by).await?;
    shown(&app, tenant, &plugin).await
}

/// Try a version on a share of the tasks.
///
/// Which tasks is decided by their ids. The trial ends by itself, and the version is taken back,
/// when it fails more often or takes longer than the stable one by the guard's margins. To repeat
/// it with another share changes the running trial.
#[utoipa::path(
    post, path = "/plugins/{name}/canary", tag = "plugins", operation_id = "startCanary",
    request_body(content = CanaryBody, content_type = "application/json",
        example = json!({"version": "1.1.0", "percent": 10, "guard": {"min_attempts": 100}})),
    responses(
        (status = 200, description = "The version is on trial", body = RolloutView<'_>),
        Refused,
    ),
)]
pub(crate) async fn start_canary(
    State(app): State<App>,
    Tenant(tenant): Tenant,
    PathParam(name): PathParam<TaskType>,
    By(by): By,
    JsonObject(body): JsonObject<CanaryBody>,
) -> Result<Response, Problem> {
    let guard = body.guard.unwrap_or_default();
    let force = force(body.force, body.allow_downgrade);
    let registry = &app.services.registry;
    let plugin =
        registry.canary(&name, body.version.as_str(), body.percent, guard, force, &by).await?;
    shown(&app, tenant, &plugin).await
}

/// End a trial.
///
/// The stable version runs all tasks again. The version that was on trial stays available.
#[utoipa::path(
    delete, path = "/plugins/{name}/canary", tag = "plugins", operation_id = "stopCanary",
    responses(
        (status = 200, description = "No version is on trial", body = RolloutView<'_>),
        (status = 409, description = "None was"),
    ),
)]
pub(crate) async fn stop_canary(
    State(app): State<App>,
    Tenant(tenant): Tenant,
    PathParam(name): PathParam<TaskType>,
    By(by): By,
    _: NoQuery,
) -> Result<Response, Problem> {
    let plugin = app.services.registry.stop_canary(&name, &by).await?;
    shown(&app, tenant, &plugin).await
}

/// Pause a plugin.
///
/// Its tasks are accepted, and wait; attempts that run go on. To pause a paused plugin changes
/// nothing. To pause its queue does the same.
#[utoipa::path(
    post, path = "/plugins/{name}/pause", tag = "plugins", operation_id = "pausePlugin",
    responses((status = 200, description = "Its tasks wait", body = RolloutView<'_>)),
)]
pub(crate) async fn pause(
    State(app): State<App>,
    Tenant(tenant): Tenant,
    PathParam(name): PathParam<TaskType>,
    By(by): By,
    _: NoQuery,
) -> Result<Response, Problem> {
    let plugin = app.services.registry.pause(&name, &by).await?;
    shown(&app, tenant, &plugin).await
}

/// Resume a plugin.
///
/// Its tasks run again, also if its queue was paused. To resume a plugin that is not paused changes
/// nothing.
#[utoipa::path(
    post, path = "/plugins/{name}/resume", tag = "plugins", operation_id = "resumePlugin",
    responses((status = 200, description = "Its tasks run", body = RolloutView<'_>)),
)]
pub(crate) async fn resume(
    State(app): State<App>,
    Tenant(tenant): Tenant,
    PathParam(name): PathParam<TaskType>,
    By(by): By,
    _: NoQuery,
) -> Result<Response, Problem> {
    let plugin = app.services.registry.resume(&name, &by).await?;
    queues::resume_type(&app, &name).await?;
    shown(&app, tenant, &plugin).await
}

/// Retire a plugin, or a version of it.
///
/// A retired plugin accepts no more tasks; what was accepted still runs. A retired version may not
/// run again.
#[utoipa::path(
    post, path = "/plugins/{name}/retire", tag = "plugins", operation_id = "retirePlugin",
    request_body(content = Option<RetireBody>, content_type = "application/json",
        example = json!({"version": "0.9.0"})),
    responses(
        (status = 200, description = "It is retired", body = RolloutView<'_>),
        (status = 409, description = "The version runs"),
    ),
)]
pub(crate) async fn retire(
    State(app): State<App>,
    Tenant(tenant): Tenant,
    PathParam(name): PathParam<TaskType>,
    By(by): By,
    body: Option<JsonObject<RetireBody>>,
) -> Result<Response, Problem> {
    let registry = &app.services.registry;
    let plugin = match body.and_then(|JsonObject(body)| body.version) {
        Some(version) => {
            registry.retire_version(&name, version.as_str(), &by).await?;
            registry.plugin(&name).await?
        }
        None => registry.retire(&name, &by).await?,
    };
    shown(&app, tenant, &plugin).await
}

fn force(breaking: Option<bool>, downgrade: Option<bool>) -> Force {
    Force { breaking: breaking.unwrap_or_default(), downgrade: downgrade.unwrap_or_default() }
}

/// Offers what was changed, and shows it.
async fn shown(
    app: &App,
    tenant: TenantId,
    plugin: &RegisteredPlugin,
) -> Result<Response, Problem> {
    app.refresh().await;
    let versions = app.services.registry.versions(&plugin.name).await?;
    let queueing = app.queueing(tenant).await?;
    Ok(json(StatusCode::OK, &RolloutView::new(plugin, &versions, &queueing)))
}
