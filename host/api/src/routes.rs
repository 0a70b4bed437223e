//! The routes of all features, put together, and what surrounds each request.

use std::{sync::Arc, time::Duration};

use axum::{Router, extract::Request, middleware, routing::get};
use http::{Method, header};
use http_body::Body as _;
use tokio_util::sync::CancellationToken;
use tower_http::catch_panic::CatchPanicLayer;
use utoipa_axum::router::OpenApiRouter;

use crate::{
    ApiConfig, Services, dead_letters, external_workers,
    http::{
        guard::Guard,
        key,
        query::MAX_WAIT,
        request::{self, Admission},
    },
    openapi::{self, pages},
    operations,
    plugins::{self, push},
    queues,
    state::App,
    tasks,
};

/// The API as a service, for callers that bring their own server. [`crate::Server`] adds the limits
/// of connections, headers and slow clients, which no router can keep. Must be called within a
/// tokio runtime: it starts the writer behind the routes.
pub fn router(services: Services, config: &ApiConfig) -> Router {
    app(App::new(services, config, CancellationToken::new()))
}

/// The document that `/openapi.json` serves.
#[must_use]
pub fn openapi() -> utoipa::openapi::OpenApi {
    documented().1
}

/// The routes that the OpenAPI document describes, and the document.
fn documented() -> (Router<App>, utoipa::openapi::OpenApi) {
    let (router, document) = OpenApiRouter::with_openapi(openapi::base())
        .merge(tasks::routes())
        .merge(dead_letters::routes())
        .merge(external_workers::routes())
        .merge(queues::routes())
        .merge(plugins::routes())
        .merge(operations::routes())
        .split_for_parts();
    (router, openapi::complete(document))
}

pub(crate) fn app(app: App) -> Router {
    let (routes, document) = documented();
    // Serialised once: it never changes.
    let document = bytes::Bytes::from(serde_json::to_vec(&document).unwrap_or_default());
    let guard = match app.config.key {
        Some(_) => Guard::Off,
        None => Guard::Loopback,
    };
    let admission = Admission { config: Arc::clone(&app.config), guard, clients_share };
    let slash = axum::routing::post(tasks::create).get(tasks::list).delete(tasks::prune);
    let routes = routes
        // One of the systems that TaskForge replaces had its clients write the slash.
        .route("/tasks/", slash)
        .route(
            "/openapi.json",
            get(move || async move { ([(header::CONTENT_TYPE, "application/json")], document) }),
        )
        .merge(pages::pages())
        .fallback(request::no_route)
        .method_not_allowed_fallback(request::method_not_allowed);
    let routes = match &app.config.key {
        Some(key) => routes.layer(middleware::from_fn_with_state(key.clone(), key::ask)),
        None => routes,
    };
    routes
        .layer(CatchPanicLayer::custom(request::panicked))
        .layer(middleware::from_fn_with_state(admission, request::admit))
        .with_state(app)
}

/// The time that a request may take on its client's account, beyond that of its handler: to send
/// its body, or because it asked to wait, or pushes a component that takes long to compile.
fn clients_share(config: &ApiConfig, route: &str, request: &Request) -> Duration {
    if route == plugins::PLUGINS && request.method() == Method::POST {
        return config.component_timeout + push::COMPILATION;
    }
    // External workers say in the body how long they wait.
    let waits = route == external_workers::NEXT
        || request.uri().query().is_some_and(|query| query.contains("wait="));
    let sends = !request.body().is_end_stream();
    let share = |is: bool, time: Duration| if is { time } else { Duration::ZERO };
    share(waits, MAX_WAIT) + share(sends, config.body_timeout)
}
