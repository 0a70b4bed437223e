//! The routes, put together.

mod dlq;
pub(crate) mod external;
mod operations;
pub(crate) mod plugins;
mod queues;
mod task;
mod tasks;

use std::{sync::Arc, time::Duration};

use axum::{Router, extract::Request, middleware, routing::get};
use tokio_util::sync::CancellationToken;
use tower_http::catch_panic::CatchPanicLayer;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    ApiConfig, Problem, ProblemKind, Services, docs,
    guard::Guard,
    key, openapi,
    request::{self, Admission},
    state::App,
};

/// The longest that a client may ask to wait for a task.
pub(crate) const MAX_WAIT: Duration = Duration::from_secs(60);

/// The door as a service, for callers that bring their own server. [`crate::Server`] adds the limits of connections, headers and slow
/// clients, which no router can keep. Must be called within a tokio runtime: it starts the writer behind the routes.
pub fn router(services: Services, config: &ApiConfig) -> Router {
    app(App::new(services, config, CancellationToken::new()))
}

/// The routes that the OpenAPI document describes.
pub(crate) fn documented() -> OpenApiRouter<App> {
    let router = OpenApiRouter::with_openapi(openapi::base())
        .routes(routes!(tasks::create, tasks::list, tasks::prune))
        .routes(routes!(tasks::create_batch))
        .routes(routes!(task::read))
        .routes(routes!(task::logs))
        .routes(routes!(task::cancel))
        .routes(routes!(task::retry))
        .routes(routes!(dlq::list, dlq::discard))
        .routes(routes!(dlq::groups))
        .routes(routes!(dlq::requeue))
        .routes(routes!(external::next))
        .routes(routes!(external::heartbeat))
        .routes(routes!(external::complete))
        .routes(routes!(queues::list))
        .routes(routes!(queues::set))
        .routes(routes!(queues::pause))
        .routes(routes!(queues::resume))
        .routes(routes!(queues::list_tenants))
        .routes(routes!(queues::set_tenant))
        .routes(routes!(plugins::list, plugins::push::push))
        .routes(routes!(plugins::read))
        .routes(routes!(plugins::versions::list))
        .routes(routes!(plugins::versions::read))
        .routes(routes!(plugins::versions::component))
        .routes(routes!(plugins::versions::set_settings))
        .routes(routes!(plugins::versions::set_signature))
        .routes(routes!(plugins::versions::prune))
        .routes(routes!(plugins::rollout::activate))
        .routes(routes!(plugins::rollout::roll_back))
        .routes(routes!(
            plugins::rollout::start_canary,
            plugins::rollout::stop_canary
        ))
        .routes(routes!(plugins::rollout::pause))
        .routes(routes!(plugins::rollout::resume))
        .routes(routes!(plugins::rollout::retire))
        .routes(routes!(plugins::secrets::list))
        .routes(routes!(plugins::secrets::set, plugins::secrets::delete))
        .routes(routes!(plugins::record::advice))
        .routes(routes!(plugins::record::events))
        .routes(routes!(operations::healthz))
        .routes(routes!(operations::readyz))
        .routes(routes!(operations::metrics));
    let (router, document) = router.split_for_parts();
    let mut completed = OpenApiRouter::from(router);
    *completed.get_openapi_mut() = openapi::complete(document);
    completed
}

pub(crate) fn app(app: App) -> Router {
    let (routes, document) = documented().split_for_parts();
    // Serialised once: it never changes.
    let document = bytes::Bytes::from(serde_json::to_vec(&document).unwrap_or_default());
    let guard = match app.config.key {
        Some(_) => Guard::Off,
        None => Guard::Loopback,
    };
    let admission = Admission {
        config: Arc::clone(&app.config),
        guard,
    };
    let slash = axum::routing::post(tasks::create)
        .get(tasks::list)
        .delete(tasks::prune);
    routes
        // One of the systems that TaskForge replaces had its clients write the slash.
        .route("/tasks/", slash)
        .route(
            "/openapi.json",
            get(move || async move { ([(http::header::CONTENT_TYPE, "application/json")], document) }),
        )
        .merge(docs::pages())
        .fallback(no_route)
        .method_not_allowed_fallback(method_not_allowed)
        .layer(middleware::from_fn_with_state(app.clone(), key::ask))
        .layer(CatchPanicLayer::custom(request::panicked))
        .layer(middleware::from_fn_with_state(admission, request::admit))
        .with_state(app)
}

pub(crate) async fn no_route(request: Request) -> Problem {
    let path = crate::json::shorten(request.uri().path(), 200).into_owned();
    Problem::new(
        ProblemKind::NoRoute,
        format!("There is nothing at {path}. /openapi.json lists the routes, /docs/ shows them."),
    )
}

pub(crate) async fn method_not_allowed(request: Request) -> Problem {
    let method = crate::json::shorten(request.method().as_str(), 20).into_owned();
    Problem::new(
        ProblemKind::MethodNotAllowed,
        format!("{method} is not a method of this route; Allow names those that are."),
    )
}
