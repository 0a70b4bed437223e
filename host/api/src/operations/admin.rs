//! The listener of a process without an API: a worker. `/healthz`, `/readyz` and `/metrics`, as the
//! API has them, and nothing else.
//!
//! It asks for no key, because probes and scrapers have none, and shows nothing of any task but how
//! many there are of which type.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use axum::{Router, extract::State, middleware, routing::get};
use taskforge_broker::Broker;
use taskforge_store::Store;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tower_http::catch_panic::CatchPanicLayer;

use crate::{
    ApiConfig, Metrics, Readiness, ServeError, Server,
    http::{
        guard::Guard,
        request::{self, Admission},
    },
    operations::{
        health::{self, Checked, HealthChecks},
        metrics::Readings,
    },
};

/// Connections at once: those of probes and scrapers, which no flood on the API's listener takes.
const MAX_CONNECTIONS: usize = 128;

/// The parts that the listener asks.
#[derive(Clone)]
pub struct AdminServices {
    /// Where tasks are.
    pub store: Arc<dyn Store>,
    /// How workers learn of them.
    pub broker: Arc<dyn Broker>,
    /// What `/metrics` shows.
    pub metrics: Metrics,
    /// What else must be true before `/readyz` says so.
    pub ready: Arc<dyn Readiness>,
}

/// Begins to listen on any address.
///
/// # Errors
/// When the address cannot be listened on: taken, not ours, or not allowed.
pub async fn bind(listen: SocketAddr) -> io::Result<TcpListener> {
    TcpListener::bind(listen).await
}

/// Answers until `shutdown` is cancelled. A process that drains should cancel it last: until then
/// `/readyz` should say that it drains, which is for [`AdminServices::ready`] to do.
///
/// # Errors
/// [`ServeError::Listener`] when the listener is broken, [`ServeError::CutOff`] when a client would
/// not take its answer.
pub async fn serve(
    listener: TcpListener,
    services: AdminServices,
    shutdown: CancellationToken,
) -> Result<(), ServeError> {
    let config = ApiConfig {
        listen: listener.local_addr()?,
        max_connections: MAX_CONNECTIONS,
        max_connections_per_address: MAX_CONNECTIONS / 2,
        ..ApiConfig::default()
    };
    let metrics = services.metrics.clone();
    let router = router(services, &config, shutdown.clone());
    Server::on(listener, config)?.answer(router, metrics, shutdown).await
}

/// The routes, for callers that bring their own server.
pub fn router(services: AdminServices, config: &ApiConfig, draining: CancellationToken) -> Router {
    let AdminServices { store, broker, metrics, ready } = services;
    let health = Arc::new(HealthChecks {
        store,
        broker,
        catalog: None,
        metrics,
        ready,
        draining,
        readings: Readings::default(),
        checked: Checked::default(),
    });
    let admission = Admission {
        guard: Guard::of(config.listen),
        config: Arc::new(config.clone()),
        // Nobody sends a body here, nor asks to wait.
        clients_share: |_, _, _| Duration::ZERO,
    };
    Router::new()
        .route("/healthz", get(|| async { health::alive() }))
        .route(
            "/readyz",
            get(|State(health): State<Arc<HealthChecks>>| async move { health.readiness().await }),
        )
        .route(
            "/metrics",
            get(|State(health): State<Arc<HealthChecks>>| async move { health.scrape().await }),
        )
        .fallback(request::no_route)
        .method_not_allowed_fallback(request::method_not_allowed)
        .layer(CatchPanicLayer::custom(request::panicked))
        .layer(middleware::from_fn_with_state(admission, request::admit))
        .with_state(health)
}
