//! What every connection is served with, from its first byte to its end.

use std::{
    convert::Infallible,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::{Router, body::Body, response::Response};
use bytes::Bytes;
use http::{HeaderValue, Request, header};
use http_body::{Body as _, Frame, SizeHint};
use hyper::{
    body::Incoming,
    server::conn::http1,
    service::{Service as _, service_fn},
};
use hyper_util::{rt::TokioTimer, service::TowerToHyperService};
use tokio::net::TcpStream;
use tokio_util::{
    sync::CancellationToken,
    task::{TaskTracker, task_tracker::TaskTrackerToken},
};

use crate::{
    ApiConfig,
    http::{
        connection_permits::{Client, ConnectionPermit, ConnectionState, RequestInProgress},
        socket::{Socket, Timeouts},
    },
};

/// What connections have to end after they were cut off.
const CUT: Duration = Duration::from_secs(1);

/// What a request is told of its connection.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Peer {
    pub(crate) client: Client,
    /// Whether it may ask for nothing but probes, because there are too many connections.
    pub(crate) for_probes: bool,
}

/// What every connection is served with.
pub(crate) struct Connections {
    router: Router,
    http: http1::Builder,
    timeouts: Timeouts,
    /// Asks connections to end after the request that they are in.
    drain: CancellationToken,
    /// Ends them where they are.
    cut: CancellationToken,
    /// Connections, and requests that outlive theirs.
    running: TaskTracker,
}

/// What a connection holds, and with it every request of its own until that has ended: its permit,
/// and the server's attention when it shuts down. Connections put it into the extensions of their
/// requests.
#[derive(Clone)]
pub(crate) struct RequestPermit {
    _connection: Arc<(ConnectionPermit, TaskTrackerToken)>,
    /// Of a request that has begun.
    _busy: Option<Arc<RequestInProgress>>,
}

impl Connections {
    pub(crate) fn new(router: Router, config: &ApiConfig, drain: CancellationToken) -> Self {
        Self {
            router,
            http: http(config),
            timeouts: Timeouts {
                first_byte: config.first_byte_timeout,
                write: config.write_timeout,
            },
            drain,
            cut: CancellationToken::new(),
            running: TaskTracker::new(),
        }
    }

    /// Serves a connection until it ends, and gives its permit back then.
    pub(crate) fn serve(&self, stream: TcpStream, permit: ConnectionPermit) {
        // Answers are written whole, so waiting to fill a segment would only delay their last
        // piece.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "cannot set TCP_NODELAY");
        }
        let state = Arc::clone(&permit.connection);
        let socket = Socket::new(stream, Arc::clone(&state), self.timeouts);
        let router = TowerToHyperService::new(self.router.clone());
        let held =
            RequestPermit { _connection: Arc::new((permit, self.running.token())), _busy: None };
        let (asked, holds) = (Arc::clone(&state), held.clone());
        let service = service_fn(move |request| answer(&router, request, &asked, &holds));
        let connection = self.http.serve_connection(socket, service);
        let (drain, cut) = (self.drain.clone(), self.cut.clone());
        tokio::spawn(async move {
            let open = metrics::gauge!("taskforge_http_connections");
            open.increment(1.0);
            let mut connection = pin!(connection);
            let ended = async {
                tokio::select! {
                    ended = connection.as_mut() => return ended,
                    () = drain.cancelled() => connection.as_mut().graceful_shutdown(),
                    () = state.gives_way.cancelled() => {
                        // Not while a request is answered: that began before anybody could know.
                        if !state.is_in_use() {
                            return Ok(());
                        }
                        connection.as_mut().graceful_shutdown();
                    }
                }
                connection.await
            };
            // A client that hangs up, times out or speaks something else than HTTP is no event of
            // ours.
            if let Some(Err(error)) = cut.run_until_cancelled(ended).await {
                tracing::debug!(%error, "a connection ended early");
            }
            open.decrement(1.0);
            drop(held);
        });
    }

    /// Waits for connections to end, and cuts off those that do not in time: how many there were.
    pub(crate) async fn end(self, grace: Duration) -> usize {
        self.running.close();
        if tokio::time::timeout(grace, self.running.wait()).await.is_ok() {
            return 0;
        }
        let busy = self.running.len();
        self.cut.cancel();
        // Connections end at once. A request that the store keeps waiting is left to itself.
        tokio::time::timeout(CUT, self.running.wait()).await.ok();
        busy
    }
}

fn http(config: &ApiConfig) -> http1::Builder {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(config.header_timeout)
        .max_header_size(config.header_limit)
        .max_headers(config.max_headers)
        // The least that hyper allows is 8 KiB; bodies are read in pieces of this size, so it says
        // nothing about theirs.
        .max_buf_size((64 << 10).max(config.header_limit));
    http
}

/// Has a request answered. What was not read of it ends the connection, and the client is told so.
fn answer(
    router: &TowerToHyperService<Router>,
    request: Request<Incoming>,
    state: &Arc<ConnectionState>,
    held: &RequestPermit,
) -> impl Future<Output = Result<Response<Answer>, Infallible>> + Send + use<> {
    let state = Arc::clone(state);
    let busy = state.begin();
    let is_read = Arc::new(AtomicBool::new(request.body().is_end_stream()));
    let mut request =
        request.map(|incoming| Body::new(Tracked { incoming, is_read: Arc::clone(&is_read) }));
    // The request's own: its client may hang up before its handler has ended.
    request
        .extensions_mut()
        .insert(RequestPermit { _busy: Some(Arc::new(state.begin())), ..held.clone() });
    request.extensions_mut().insert(Peer { client: state.client, for_probes: state.for_probes });
    let answered = router.call(request);
    async move {
        let mut response = answered.await?;
        let is_read = is_read.load(Relaxed);
        state.answered(is_read);
        // A permit for probes is for one of them: whoever comes again may get one for anything.
        if !is_read || state.for_probes {
            let close = HeaderValue::from_static("close");
            response.headers_mut().insert(header::CONNECTION, close);
        }
        Ok(response.map(|body| Answer { body, _busy: busy }))
    }
}

/// A request's body that knows whether it was read to its end.
struct Tracked {
    incoming: Incoming,
    is_read: Arc<AtomicBool>,
}

impl http_body::Body for Tracked {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let frame = ready!(Pin::new(&mut self.incoming).poll_frame(cx));
        if frame.is_none() || self.incoming.is_end_stream() {
            self.is_read.store(true, Relaxed);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}

/// An answer's body. Its connection is in use until hyper has taken the whole of it.
struct Answer {
    body: Body,
    _busy: RequestInProgress,
}

impl http_body::Body for Answer {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
