//! `/plugins`: the handlers that tasks may name, and the types that have none in the fleet.
//!
//! These routes are the operator's: they show and change plugins whosever they are.

pub(crate) mod described;
pub(crate) mod push;
pub(crate) mod push_permits;
pub(crate) mod record;
mod refusal;
pub(crate) mod rollout;
pub(crate) mod secrets;
mod upload;
pub(crate) mod versions;
pub(crate) mod view;

use axum::{extract::State, response::Response};
use http::StatusCode;
use taskforge_domain::TaskType;
use taskforge_registry::RegistryError;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    Problem, ProblemKind, Tenant,
    http::{answer::json, path::PathParam, query::NoQuery},
    plugins::view::{HandlerView, PluginList, PluginView},
    state::App,
};

/// Where components are pushed.
pub(crate) const PLUGINS: &str = "/plugins";

/// The routes of plugins.
pub(crate) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(list, push::push))
        .routes(routes!(read))
        .routes(routes!(versions::list))
        .routes(routes!(versions::read))
        .routes(routes!(versions::component))
        .routes(routes!(versions::set_settings))
        .routes(routes!(versions::set_signature))
        .routes(routes!(versions::prune))
        .routes(routes!(rollout::activate))
        .routes(routes!(rollout::roll_back))
        .routes(routes!(rollout::start_canary, rollout::stop_canary))
        .routes(routes!(rollout::pause))
        .routes(routes!(rollout::resume))
        .routes(routes!(rollout::retire))
        .routes(routes!(secrets::list))
        .routes(routes!(secrets::set, secrets::delete))
        .routes(routes!(record::advice))
        .routes(routes!(record::events))
}

/// List the plugins.
///
/// External types, which only workers over HTTP handle, are among them.
#[utoipa::path(
    get, path = "/plugins", tag = "plugins", operation_id = "listPlugins",
    responses((status = 200, description = "Every plugin, by name", body = PluginList<'_>)),
)]
pub(crate) async fn list(
    State(app): State<App>,
    Tenant(tenant): Tenant,
    _: NoQuery,
) -> Result<Response, Problem> {
    let queueing = app.queueing(tenant).await?;
    let known = app.services.catalog.known();
    let plugins =
        known.all().into_values().map(|handler| HandlerView::new(handler, &queueing)).collect();
    Ok(json(StatusCode::OK, &PluginList { plugins }))
}

/// Read a plugin.
///
/// Which versions run, and the running one's schemas, limits, grants, imports and exports.
#[utoipa::path(
    get, path = "/plugins/{name}", tag = "plugins", operation_id = "readPlugin",
    responses((status = 200, description = "The plugin", body = HandlerView<'_>)),
)]
pub(crate) async fn read(
    State(app): State<App>,
    Tenant(tenant): Tenant,
    PathParam(name): PathParam<TaskType>,
    _: NoQuery,
) -> Result<Response, Problem> {
    let queueing = app.queueing(tenant).await?;
    let registry = &app.services.registry;
    match registry.plugin(&name).await {
        Ok(plugin) => {
            let versions = registry.versions(&name).await?;
            let view = PluginView::whole(&plugin, &versions, &queueing);
            Ok(json(StatusCode::OK, &HandlerView::Component(Box::new(view))))
        }
        Err(RegistryError::UnknownPlugin(_)) => match app.services.catalog.known().get(&name) {
            Some(handler) => Ok(json(StatusCode::OK, &HandlerView::new(handler, &queueing))),
            None => Err(Problem::new(ProblemKind::NotFound, format!("There is no plugin {name}."))),
        },
        Err(error) => Err(error.into()),
    }
}
