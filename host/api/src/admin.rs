//! The listener of a process that has no door: a worker. `/healthz`, `/readyz` and `/metrics`, as the door has them, and nothing else.
//!
//! It asks for no key, because probes and scrapers have none, and shows nothing of any task but how many there are of which type.

use std::{io, net::SocketAddr, sync::Arc};

use axum::{Router, extract::State, middleware, routing::get};
use taskforge_broker::Broker;
use taskforge_store::Store;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tower_http::catch_panic::CatchPanicLayer;

use crate::{
    ApiConfig, Metrics, Readiness, ServeError, Server,
    guard::Guard,
    metrics::Readings,
    request::{self, Admission},
    routes, vitals,
    vitals::{Checked, Vitals},
};

/// Connections at once: those of probes and scrapers, which no flood on the API's listener takes.
const MAX_CONNECTIONS: usize = 128;

/// The parts that the listener asks.
#[derive(Clone)]
pub struct AdminServices {
    /// The truth.
    pub store: Arc<dyn Store>,
    /// The hint.
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

/// Answers until `shutdown` is cancelled. A process that drains should cancel it last: until then `/readyz` should say that it drains, which
/// is for [`AdminServices::ready`] to do.
///
/// # Errors
/// [`ServeError::Listener`] when the listener is broken, [`ServeError::CutOff`] when a client would not take its answer.
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
    Server::on(listener, config)?
        .answer(router, metrics, shutdown)
        .await
}

/// The routes, for callers that bring their own server.
pub fn router(services: AdminServices, config: &ApiConfig, draining: CancellationToken) -> Router {
    let AdminServices {
        store,
        broker,
        metrics,
        ready,
    } = services;
    let vitals = Arc::new(Vitals {
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
    };
    Router::new()
        .route("/healthz", get(|| async { vitals::health() }))
        .route(
            "/readyz",
            get(|State(vitals): State<Arc<Vitals>>| async move { vitals.readiness().await }),
        )
        .route(
            "/metrics",
            get(|State(vitals): State<Arc<Vitals>>| async move { vitals.scrape().await }),
        )
        .fallback(routes::no_route)
        .method_not_allowed_fallback(routes::method_not_allowed)
        .layer(CatchPanicLayer::custom(request::panicked))
        .layer(middleware::from_fn_with_state(admission, request::admit))
        .with_state(vitals)
}
