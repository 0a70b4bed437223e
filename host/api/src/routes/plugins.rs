//! `/plugins`: the handlers that tasks may name, and the types that have none in the fleet.
//!
//! These routes are the operator's: they show and change plugins whosever they are.

pub(crate) mod push;
pub(crate) mod record;
pub(crate) mod rollout;
pub(crate) mod secrets;
pub(crate) mod versions;

use std::time::Duration;

use axum::{extract::State, response::Response};
use http::StatusCode;
use taskforge_registry::RegistryError;

use crate::{
    Problem, ProblemKind,
    extract::{Params, PluginPath, Tenant},
    plugin_view::{HandlerView, PluginList, PluginView},
    state::App,
    view::json,
};

/// Where components are pushed.
pub(crate) const PUSH: &str = "/plugins";
/// The longest that a pushed component may take to be checked and compiled. One of an interpreter takes half a minute on a slow machine.
pub(crate) const COMPILATION: Duration = Duration::from_secs(300);

/// List the plugins.
///
/// External types, which only workers over HTTP handle, are among them.
#[utoipa::path(
    get, path = "/plugins", tag = "plugins", operation_id = "listPlugins",
    responses((status = 200, description = "Every plugin, by name", body = PluginList<'_>)),
)]
pub(super) async fn list(
    State(app): State<App>,
    Tenant(tenant): Tenant,
    params: Params,
) -> Result<Response, Problem> {
    params.end("none")?;
    let queueing = app.queueing(tenant).await?;
    let plugins = app.services.catalog.snapshot();
    let plugins = plugins
        .all()
        .map(|(name, offer)| HandlerView::new(name, offer, &queueing))
        .collect();
    Ok(json(StatusCode::OK, &PluginList { plugins }))
}

/// Read a plugin.
///
/// Which versions run, and the running one's schemas, limits, grants, imports and exports.
#[utoipa::path(
    get, path = "/plugins/{name}", tag = "plugins", operation_id = "readPlugin",
    params(("name" = String, Path, description = "The plugin, which is the task type", example = "fibonacci")),
    responses((status = 200, description = "The plugin", body = HandlerView<'_>)),
)]
pub(super) async fn read(
    State(app): State<App>,
    Tenant(tenant): Tenant,
    PluginPath(name): PluginPath,
    params: Params,
) -> Result<Response, Problem> {
    params.end("none")?;
    let queueing = app.queueing(tenant).await?;
    let registry = &app.services.registry;
    match registry.plugin(&name).await {
        Ok(plugin) => {
            let versions = registry.versions(&name).await?;
            let view = PluginView::whole(&plugin, &versions, &queueing);
            Ok(json(StatusCode::OK, &HandlerView::Component(Box::new(view))))
        }
        Err(RegistryError::UnknownPlugin(_)) => match app.services.catalog.snapshot().get(&name) {
            Some(offer) => Ok(json(StatusCode::OK, &HandlerView::new(&name, offer, &queueing))),
            None => Err(Problem::new(
                ProblemKind::NotFound,
                format!("There is no plugin {name}."),
            )),
        },
        Err(error) => Err(error.into()),
    }
}
