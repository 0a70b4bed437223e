//! The accept loop, and the graceful end.

use std::{io, net::SocketAddr, pin::pin, sync::Arc, time::Duration};

use axum::Router;
use hyper::{body::Incoming, server::conn::http1, service::Service as _};
use hyper_util::{rt::TokioTimer, service::TowerToHyperService};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::MissedTickBehavior,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{ApiConfig, Metrics, Services, request::Held, routes, socket::Socket, state::App};

/// After the process ran out of descriptors or memory, accepting again at once would only burn the processor.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);
/// What connections have to end after they were cut off.
const CUT: Duration = Duration::from_secs(1);
/// Histograms gather their samples in memory until they are sorted into buckets.
const METRICS_UPKEEP: Duration = Duration::from_secs(5);

/// Why [`bind`] did not open the door.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// The address can be reached from other machines, and without a key everybody there could do everything.
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

/// A door that is open but answers nobody yet.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    config: ApiConfig,
}

/// Begins to listen.
///
/// # Errors
/// [`BindError::NeedsKey`] when the address is not a loopback one and there is no key; otherwise when it cannot be listened on.
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
        Ok(Self {
            listener,
            address,
            config,
        })
    }

    /// Where it listens, with the port that the system chose.
    #[must_use]
    pub const fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Answers requests until `shutdown` is cancelled. From then on no connection is accepted, idle ones are closed, long polls are
    /// answered with what is known, and running requests have [`ApiConfig::shutdown_grace`] to end.
    ///
    /// # Errors
    /// [`ServeError::CutOff`] when some did not.
    pub async fn serve(self, services: Services, shutdown: CancellationToken) -> Result<(), ServeError> {
        let metrics = services.metrics.clone();
        let router = routes::app(App::new(services, &self.config, shutdown.clone()));
        self.answer(router, metrics, shutdown).await
    }

    /// Answers requests with any routes, as [`Server::serve`] does with the door's.
    pub(crate) async fn answer(
        self,
        router: Router,
        metrics: Metrics,
        shutdown: CancellationToken,
    ) -> Result<(), ServeError> {
        let Self { listener, config, .. } = self;
        let upkeep = tokio::spawn(shutdown.clone().run_until_cancelled_owned(upkeep(metrics)));
        let connections = Connections {
            router,
            http: http(&config),
            write_timeout: config.write_timeout,
            drain: shutdown.clone(),
            cut: CancellationToken::new(),
            running: TaskTracker::new(),
        };
        let slots = Arc::new(Semaphore::new(
            config.max_connections.clamp(1, Semaphore::MAX_PERMITS),
        ));
        // Cancellation point: dropping `accept` loses at most a connection that nobody has answered.
        shutdown
            .run_until_cancelled(accept(&listener, &slots, &connections))
            .await;
        drop(listener);
        let ended = connections.end(config.shutdown_grace).await;
        upkeep.await.ok();
        ended
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

fn http(config: &ApiConfig) -> http1::Builder {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(config.header_timeout)
        .max_header_size(config.header_limit)
        .max_headers(config.max_headers)
        // The least that hyper allows is 8 KiB; bodies are read in pieces of this size, so it says nothing about theirs.
        .max_buf_size((64 << 10).max(config.header_limit));
    http
}

async fn accept(listener: &TcpListener, slots: &Arc<Semaphore>, connections: &Connections) {
    loop {
        // Never closed, so this waits and then succeeds.
        let Ok(slot) = Arc::clone(slots).acquire_owned().await else {
            return;
        };
        match listener.accept().await {
            Ok((stream, _)) => {
                let held = Held {
                    _slot: Arc::new(slot),
                    _running: connections.running.token(),
                };
                tokio::spawn(connections.serve(stream, held));
            }
            // The client went away between its connect and our accept: its affair.
            Err(error) if is_clients_fault(&error) => {}
            Err(error) => {
                metrics::counter!("taskforge_http_accept_errors_total").increment(1);
                tracing::error!(%error, "cannot accept a connection; waiting a moment");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

fn is_clients_fault(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(
        error.kind(),
        ConnectionAborted | ConnectionRefused | ConnectionReset
    )
}

/// What every connection is served with.
struct Connections {
    router: Router,
    http: http1::Builder,
    write_timeout: Duration,
    /// Asks connections to end after the request that they are in.
    drain: CancellationToken,
    /// Ends them where they are.
    cut: CancellationToken,
    /// Connections, and requests that outlive theirs.
    running: TaskTracker,
}

impl Connections {
    fn serve(&self, stream: TcpStream, held: Held) -> impl Future<Output = ()> + Send + use<> {
        // Answers are written whole, so waiting to fill a segment would only delay their last piece.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "cannot set TCP_NODELAY");
        }
        let socket = Socket::new(stream, self.write_timeout);
        let (router, holds) = (TowerToHyperService::new(self.router.clone()), held.clone());
        let answer = hyper::service::service_fn(move |mut request: http::Request<Incoming>| {
            request.extensions_mut().insert(holds.clone());
            router.call(request)
        });
        let connection = self.http.serve_connection(socket, answer);
        let (drain, cut) = (self.drain.clone(), self.cut.clone());
        async move {
            let open = metrics::gauge!("taskforge_http_connections");
            open.increment(1.0);
            let mut connection = pin!(connection);
            let ended = async {
                tokio::select! {
                    ended = connection.as_mut() => return ended,
                    () = drain.cancelled() => connection.as_mut().graceful_shutdown(),
                }
                connection.await
            };
            // A client that hangs up, times out or speaks something else than HTTP is no event of ours.
            if let Some(Err(error)) = cut.run_until_cancelled(ended).await {
                tracing::debug!(%error, "a connection ended early");
            }
            open.decrement(1.0);
            drop(held);
        }
    }

    async fn end(self, grace: Duration) -> Result<(), ServeError> {
        self.running.close();
        if tokio::time::timeout(grace, self.running.wait()).await.is_ok() {
            return Ok(());
        }
        let busy = self.running.len();
        self.cut.cancel();
        // Connections end at once. A request that the store keeps waiting is left to itself.
        tokio::time::timeout(CUT, self.running.wait()).await.ok();
        if busy == 0 {
            Ok(())
        } else {
            Err(ServeError::CutOff(busy))
        }
    }
}
