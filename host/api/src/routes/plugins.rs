//! `/plugins`: the handlers that tasks may name, and the types that have none in the fleet.

use axum::{extract::State, response::Response};
use http::StatusCode;

use crate::{
    Problem, ProblemKind,
    extract::{Params, PluginPath},
    state::App,
    view::{HandlerBody, PluginList, json},
};

/// List the plugins.
///
/// External types, which only workers over HTTP handle, are among them.
#[utoipa::path(
    get, path = "/plugins", tag = "plugins", operation_id = "listPlugins",
    responses((status = 200, description = "Every plugin, by name", body = PluginList<'_>)),
)]
pub(super) async fn list(State(app): State<App>, params: Params) -> Result<Response, Problem> {
    params.end("none")?;
    let plugins = app.services.catalog.snapshot();
    let plugins = plugins.values().map(|entry| &entry.handler).collect();
    Ok(json(StatusCode::OK, &PluginList { plugins }))
}

/// Read a plugin.
///
/// Its schemas, limits, grants, imports and exports.
#[utoipa::path(
    get, path = "/plugins/{name}", tag = "plugins", operation_id = "readPlugin",
    params(("name" = String, Path, description = "The plugin, which is the task type", example = "fibonacci")),
    responses(
        (status = 200, description = "The plugin", body = HandlerBody),
        (status = 404, description = "There is no such plugin", body = crate::problem::ProblemBody<'_>,
            content_type = "application/problem+json"),
    ),
)]
pub(super) async fn read(
    State(app): State<App>,
    PluginPath(name): PluginPath,
    params: Params,
) -> Result<Response, Problem> {
    params.end("none")?;
    match app.services.catalog.snapshot().get(&name) {
        Some(entry) => Ok(json(StatusCode::OK, &entry.handler)),
        None => Err(Problem::new(
            ProblemKind::NotFound,
            format!("There is no plugin {name}."),
        )),
    }
}
