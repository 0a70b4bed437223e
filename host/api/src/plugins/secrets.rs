//! What a plugin may know and nobody may read.

use axum::{extract::State, response::Response};
use http::StatusCode;
use taskforge_domain::{SecretName, TaskType};

use crate::{
    Problem,
    http::{
        answer::json,
        body::JsonObject,
        fields::{object, typed},
        path::{By, PathParam, PathParams},
        query::NoQuery,
    },
    plugins::view::SecretList,
    state::App,
};

object! {
    /// A secret.
    #[schema(as = SetSecret)]
    pub(crate) struct SecretBody {
        /// What it says. Never shown again.
        // Not the parser's own words where it is none: they might repeat a part of it.
        value: String = typed("must be a string"),
    }
}

/// List the secrets of a plugin.
///
/// Their names, and when they were set. What they say is never shown.
#[utoipa::path(
    get, path = "/plugins/{name}/secrets", tag = "plugins", operation_id = "listSecrets",
    responses((status = 200, description = "The secrets, by name", body = SecretList)),
)]
pub(crate) async fn list(
    State(app): State<App>,
    PathParam(name): PathParam<TaskType>,
    _: NoQuery,
) -> Result<Response, Problem> {
    let secrets = app.services.registry.secrets(&name).await?;
    Ok(json(StatusCode::OK, &SecretList { secrets }))
}

/// Set a secret.
///
/// It is sealed before it is stored. Versions whose `grants.secrets` name it read the new value
/// within seconds.
#[utoipa::path(
    put, path = "/plugins/{name}/secrets/{key}", tag = "plugins", operation_id = "setSecret",
    request_body(content = SecretBody, content_type = "application/json",
        example = json!({"value": "k-0123456789"})),
    responses(
        (status = 200, description = "It is set; these are the secrets now", body = SecretList),
        (status = 409, description = "This server has no key to seal it with"),
    ),
)]
pub(crate) async fn set(
    State(app): State<App>,
    PathParams(name, key): PathParams<TaskType, SecretName>,
    By(by): By,
    JsonObject(body): JsonObject<SecretBody>,
) -> Result<Response, Problem> {
    let registry = &app.services.registry;
    registry.set_secret(&name, key.as_str(), &body.value, &by).await?;
    list(State(app), PathParam(name), NoQuery).await
}

/// Delete a secret.
#[utoipa::path(
    delete, path = "/plugins/{name}/secrets/{key}", tag = "plugins", operation_id = "deleteSecret",
    responses((status = 200,
        description = "It is gone; these are the secrets now", body = SecretList)),
)]
pub(crate) async fn delete(
    State(app): State<App>,
    PathParams(name, key): PathParams<TaskType, SecretName>,
    By(by): By,
    _: NoQuery,
) -> Result<Response, Problem> {
    let registry = &app.services.registry;
    registry.delete_secret(&name, key.as_str(), &by).await?;
    list(State(app), PathParam(name), NoQuery).await
}
