//! The accept loop, and the graceful end.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use axum::Router;
use tokio::{
    net::TcpListener,
    time::{Instant, MissedTickBehavior},
};
use tokio_util::sync::CancellationToken;

use crate::{
    ApiConfig, Metrics, Services,
    http::{
        connection::Connections,
        connection_permits::{Client, ConnectionPermits},
        reserved_descriptors::{ReservedDescriptors, is_exhausted},
    },
    routes,
    state::App,
};

/// After the process ran out of descriptors or memory, accepting again at once would only burn the
/// processor.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);
/// The same error is logged once in this time: it may come with every connection.
const LOG_AGAIN_AFTER: Duration = Duration::from_secs(10);
/// Histograms gather their samples in memory until they are sorted into buckets.
const METRICS_UPKEEP: Duration = Duration::from_secs(5);

/// Why [`bind`] does not listen.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// The address can be reached from other machines, and without a key everybody there could do
    /// everything.
    #[error("{0} can be reached from other machines; listening there needs an API key")]
    NeedsKey(SocketAddr),
    /// The address is taken, not ours, or not allowed.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Why [`Server::serve`] did not end in peace.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The listener does not work.
    #[error("the listener does not work: {0}")]
    Listener(#[from] io::Error),
    /// The grace period was over and these many connections were still busy; they were cut off.
    #[error("{0} connections were still busy at the end of the grace period and were cut off")]
    CutOff(usize),
}

/// A server that listens but answers nobody yet.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    config: ApiConfig,
}

/// Begins to listen.
///
/// # Errors
/// [`BindError::NeedsKey`] when the address is not a loopback one and there is no key; otherwise
/// when it cannot be listened on.
pub async fn bind(config: ApiConfig) -> Result<Server, BindError> {
    // An IPv4 address may come in its IPv6 spelling.
    if config.key.is_none() && !config.listen.ip().to_canonical().is_loopback() {
        return Err(BindError::NeedsKey(config.listen));
    }
    let listener = TcpListener::bind(config.listen).await?;
    Ok(Server::on(listener, config)?)
}

impl Server {
    /// A server on a listener that is open already.
    pub(crate) fn on(listener: TcpListener, config: ApiConfig) -> io::Result<Self> {
        let address = listener.local_addr()?;
        Ok(Self { listener, address, config })
    }

    /// Where it listens, with the port that the system chose.
    #[must_use]
    pub const fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Answers requests until `shutdown` is cancelled. From then on no connection is accepted, idle
    /// ones are closed, long polls are answered with what is known, and running requests have
    /// [`ApiConfig::shutdown_grace`] to end.
    ///
    /// # Errors
    /// [`ServeError::CutOff`] when some did not.
    pub async fn serve(
        self,
        services: Services,
        shutdown: CancellationToken,
    ) -> Result<(), ServeError> {
        let metrics = services.metrics.clone();
        let router = routes::app(App::new(services, &self.config, shutdown.clone()));
        self.answer(router, metrics, shutdown).await
    }

    /// Answers requests with any routes, as [`Server::serve`] does with the API's.
    pub(crate) async fn answer(
        self,
        router: Router,
        metrics: Metrics,
        shutdown: CancellationToken,
    ) -> Result<(), ServeError> {
        let Self { listener, config, .. } = self;
        let upkeep = tokio::spawn(shutdown.clone().run_until_cancelled_owned(upkeep(metrics)));
        let connections = Connections::new(router, &config, shutdown.clone());
        let permits =
            ConnectionPermits::new(config.max_connections, config.max_connections_per_address);
        // Cancellation point: dropping `accept` loses at most a connection that nobody has
        // answered.
        shutdown.run_until_cancelled(accept(&listener, &permits, &connections)).await;
        drop(listener);
        let cut_off = connections.end(config.shutdown_grace).await;
        upkeep.await.ok();
        match cut_off {
            0 => Ok(()),
            busy => Err(ServeError::CutOff(busy)),
        }
    }
}

async fn upkeep(metrics: Metrics) {
    let mut ticks = tokio::time::interval(METRICS_UPKEEP);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        metrics.upkeep();
    }
}

async fn accept(
    listener: &TcpListener,
    permits: &Arc<ConnectionPermits>,
    connections: &Connections,
) {
    let mut reserved = ReservedDescriptors::default();
    let mut logged = None::<Instant>;
    reserved.fill();
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                match permits.take(Client::of(peer.ip()), Instant::now()) {
                    Some(permit) => connections.serve(stream, permit),
                    // Not even a permit for probes is left: closed without a word.
                    None => {
                        metrics::counter!("taskforge_http_connections_refused_total").increment(1);
                    }
                }
                // Not before: a descriptor that was just given up is for the connection.
                reserved.fill();
            }
            // The client went away between its connect and our accept: its affair.
            Err(error) if is_clients_fault(&error) => {}
            Err(error) => {
                metrics::counter!("taskforge_http_accept_errors_total").increment(1);
                if logged.is_none_or(|at| at.elapsed() > LOG_AGAIN_AFTER) {
                    tracing::error!(%error, "cannot accept a connection");
                    logged = Some(Instant::now());
                }
                if is_exhausted(&error) && reserved.release() {
                    continue;
                }
                if is_exhausted(&error) {
                    // Whoever waits outside goes first, in the place of one that is not needed,
                    // which takes a moment to close.
                    permits.make_room();
                }
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

fn is_clients_fault(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}
