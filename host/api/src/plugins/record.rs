//! What became of a plugin: what happened to it, and what its attempts used.

use axum::{extract::State, response::Response};
use http::StatusCode;
use taskforge_domain::{TaskType, VersionNumber};
use taskforge_registry::Advice;

use crate::{
    Problem,
    http::{
        answer::json,
        path::PathParam,
        query::{Params, number},
    },
    plugins::view::{EventList, EventView},
    state::App,
};

/// List what happened to a plugin.
///
/// Who pushed, activated, tried, rolled back, paused, retired and set what, newest first.
#[utoipa::path(
    get, path = "/plugins/{name}/events", tag = "plugins", operation_id = "listPluginEvents",
    params(
        ("limit" = Option<u32>, Query, minimum = 1, maximum = 1000,
            description = "At most this many; 100 if left out"),
    ),
    responses((status = 200, description = "The events", body = EventList)),
)]
pub(crate) async fn events(
    State(app): State<App>,
    PathParam(name): PathParam<TaskType>,
    mut params: Params,
) -> Result<Response, Problem> {
    let limit = params.one("limit", number(1, 1000))?.unwrap_or(100);
    params.end("limit")?;
    let events = app.services.registry.events(&name, limit).await?;
    let events = events.into_iter().map(EventView::from).collect();
    Ok(json(StatusCode::OK, &EventList { events }))
}

/// Ask for limits that would fit a plugin.
///
/// What the attempts of a version used, and limits suggested from that.
#[utoipa::path(
    get, path = "/plugins/{name}/advice", tag = "plugins", operation_id = "advisePlugin",
    params(
        ("version" = Option<String>, Query,
            description = "The version; the one that runs if left out"),
    ),
    responses(
        (status = 200, description = "What was used, and what is suggested", body = Advice),
        (status = 409, description = "No version runs yet"),
    ),
)]
pub(crate) async fn advice(
    State(app): State<App>,
    PathParam(name): PathParam<TaskType>,
    mut params: Params,
) -> Result<Response, Problem> {
    let version = params
        .one("version", |text| text.parse::<VersionNumber>().map_err(|error| error.to_string()))?;
    params.end("version")?;
    let advice = {
        let version = version.as_ref().map(VersionNumber::as_str);
        app.services.registry.advise(&name, version).await?
    };
    Ok(json(StatusCode::OK, &advice))
}
