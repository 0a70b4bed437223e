//! `/plugins`: the handlers that tasks may name.

use axum::{extract::State, response::Response};
use http::StatusCode;

use crate::{
    Problem, ProblemKind,
    extract::{Params, PluginPath},
    state::App,
    view::{PluginBody, PluginList, json},
};

/// List the plugins.
#[utoipa::path(
    get, path = "/plugins", tag = "plugins", operation_id = "listPlugins",
    responses((status = 200, description = "Every plugin, by name", body = PluginList<'_>)),
)]
pub(super) async fn list(State(app): State<App>, params: Params) -> Result<Response, Problem> {
    params.end("none")?;
    let plugins = app.services.catalog.list();
    Ok(json(
        StatusCode::OK,
        &PluginList {
            plugins: plugins.iter().map(|plugin| &**plugin).collect(),
        },
    ))
}

/// Read a plugin.
///
/// Its schemas, limits, grants, imports and exports.
#[utoipa::path(
    get, path = "/plugins/{name}", tag = "plugins", operation_id = "readPlugin",
    params(("name" = String, Path, description = "The plugin, which is the task type", example = "fibonacci")),
    responses(
        (status = 200, description = "The plugin", body = PluginBody),
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
    let plugin = app.services.catalog.get(&name);
    let plugin =
        plugin.ok_or_else(|| Problem::new(ProblemKind::NotFound, format!("There is no plugin {name}.")))?;
    Ok(json(StatusCode::OK, &*plugin))
}
