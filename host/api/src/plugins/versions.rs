//! The versions of a plugin, their components and their settings.

use axum::{
    extract::State,
    response::{IntoResponse, Response},
};
use http::{HeaderValue, StatusCode, header};
use taskforge_domain::{PluginVersion, TaskType, VersionNumber};
use taskforge_registry::{SignatureError, signature};

use crate::{
    FieldError, Problem,
    http::{
        answer::json,
        body::{JsonBody, JsonObject},
        fields::{flag, object, whole},
        json::{raw, strict},
        path::{By, PathParam, PathParams},
        query::NoQuery,
    },
    plugins::{
        described::{EnvelopeBody, SettingsBody, WasmBytes},
        view::{PrunedView, VersionList, VersionView},
    },
    state::App,
};

object! {
    /// Which versions are to be deleted.
    #[schema(as = Prune)]
    pub(crate) struct PruneBody {
        /// How many of the newest versions stay, whether anything refers to them or not.
        #[schema(value_type = usize, minimum = 1)]
        keep: u32 = whole(1, u32::MAX),
        /// Only say which versions would go.
        #[schema(default = false)]
        dry_run: Option<bool> = flag,
    }
}

/// List the versions of a plugin.
///
/// All that were pushed and not collected since, newest first.
#[utoipa::path(
    get, path = "/plugins/{name}/versions", tag = "plugins", operation_id = "listPluginVersions",
    responses((status = 200, description = "The versions", body = VersionList<'_>)),
)]
pub(crate) async fn list(
    State(app): State<App>,
    PathParam(name): PathParam<TaskType>,
    _: NoQuery,
) -> Result<Response, Problem> {
    let registry = &app.services.registry;
    let plugin = registry.plugin(&name).await?;
    let versions = registry.versions(&name).await?;
    let versions =
        versions.iter().map(|version| VersionView::new(&plugin, version, registry)).collect();
    Ok(json(StatusCode::OK, &VersionList { versions }))
}

/// Read a version of a plugin.
///
/// What it is, what it may use and reach, and what it imports beside what it is granted.
#[utoipa::path(
    get, path = "/plugins/{name}/versions/{version}", tag = "plugins",
    operation_id = "readPluginVersion",
    responses((status = 200, description = "The version", body = VersionView<'_>)),
)]
pub(crate) async fn read(
    State(app): State<App>,
    PathParams(name, version): PathParams<TaskType, VersionNumber>,
    _: NoQuery,
) -> Result<Response, Problem> {
    let version = app.services.registry.version(&name, version.as_str()).await?;
    shown(&app, &name, &version).await
}

/// Read the component of a version.
///
/// The bytes that were pushed.
#[utoipa::path(
    get, path = "/plugins/{name}/versions/{version}/component", tag = "plugins",
    operation_id = "readPluginComponent",
    responses((status = 200,
        description = "The component",
        body = inline(WasmBytes), content_type = "application/wasm")),
)]
pub(crate) async fn component(
    State(app): State<App>,
    PathParams(name, version): PathParams<TaskType, VersionNumber>,
    _: NoQuery,
) -> Result<Response, Problem> {
    let registry = &app.services.registry;
    let version = registry.version(&name, version.as_str()).await?;
    let Some(bytes) = registry.component(&version.info.digest).await? else {
        tracing::error!(
            plugin = %name,
            digest = %version.info.digest,
            "a version has no component"
        );
        return Err(Problem::internal());
    };
    let wasm = HeaderValue::from_static("application/wasm");
    Ok(([(header::CONTENT_TYPE, wasm)], bytes).into_response())
}

/// Set what a version may use and reach.
///
/// Replaces all its settings. A version that runs goes by them within seconds.
#[utoipa::path(
    put, path = "/plugins/{name}/versions/{version}/settings", tag = "plugins",
    operation_id = "setPluginSettings",
    request_body(content = SettingsBody, content_type = "application/json",
        example = json!({"limits": {"fuel": 1_000_000_000, "memory": "32 MiB"},
            "grants": {"http": {"hosts": ["api.example.com"]}}})),
    responses(
        (status = 200, description = "The version", body = VersionView<'_>),
        (status = 403, description = "They are more than the version's signature allows"),
        (status = 409, description = "Somebody else changed the version at the same time"),
    ),
)]
pub(crate) async fn set_settings(
    State(app): State<App>,
    PathParams(name, version): PathParams<TaskType, VersionNumber>,
    By(by): By,
    JsonBody(body): JsonBody,
) -> Result<Response, Problem> {
    let settings =
        strict(raw(&body)?.get(), "").map_err(|error| Problem::validation(vec![error]))?;
    let version =
        app.services.registry.set_settings(&name, version.as_str(), settings, &by).await?;
    app.refresh().await;
    shown(&app, &name, &version).await
}

/// Sign a version that is stored.
///
/// Gives it this signature, in the place of the one that it may have. It must be for this version,
/// by a key that this server trusts for its owner, and the version's settings must be within what
/// it allows. A signature that allows less takes effect at the next change of the settings too.
#[utoipa::path(
    put, path = "/plugins/{name}/versions/{version}/signature", tag = "plugins",
    operation_id = "signPluginVersion",
    request_body(content = EnvelopeBody, content_type = "application/json"),
    responses(
        (status = 200, description = "The version", body = VersionView<'_>),
        (status = 403, description = "This server does not take the signature for this version"),
        (status = 409, description = "Somebody else changed the plugin at the same time"),
    ),
)]
pub(crate) async fn set_signature(
    State(app): State<App>,
    PathParams(name, version): PathParams<TaskType, VersionNumber>,
    By(by): By,
    JsonBody(body): JsonBody,
) -> Result<Response, Problem> {
    let text = raw(&body)?.get();
    if let Err(SignatureError::Form(reason)) = signature::unverified(text.as_bytes()) {
        return Err(Problem::validation(vec![FieldError::at("", reason)]));
    }
    let registry = &app.services.registry;
    let version = registry.attach_signature(&name, version.as_str(), text.as_bytes(), &by).await?;
    shown(&app, &name, &version).await
}

/// Delete versions that nothing refers to.
///
/// All but the newest `keep` of the plugin, and but for those that run, ran before, are on trial,
/// or on which a task may be running. What became of tasks still names them. Their numbers stay
/// taken: a number that was deleted can only come back with the same bytes.
#[utoipa::path(
    post, path = "/plugins/{name}/prune", tag = "plugins", operation_id = "prunePlugin",
    request_body(content = PruneBody, content_type = "application/json",
        example = json!({"keep": 10, "dry_run": true})),
    responses((status = 200,
        description = "The versions that were deleted, or would be", body = PrunedView)),
)]
pub(crate) async fn prune(
    State(app): State<App>,
    PathParam(name): PathParam<TaskType>,
    By(by): By,
    JsonObject(body): JsonObject<PruneBody>,
) -> Result<Response, Problem> {
    let dry_run = body.dry_run.unwrap_or_default();
    let pruned = app.services.registry.prune(&name, body.keep, dry_run, &by).await?;
    Ok(json(StatusCode::OK, &PrunedView::from(pruned)))
}

async fn shown(app: &App, name: &TaskType, version: &PluginVersion) -> Result<Response, Problem> {
    let registry = &app.services.registry;
    let plugin = registry.plugin(name).await?;
    Ok(json(StatusCode::OK, &VersionView::new(&plugin, version, registry)))
}
