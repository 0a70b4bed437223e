//! Around every request: its id, its span, its metrics, its time limit, and the writing out of
//! problems.
//!
//! # Cancellation
//! A handler is never dropped: it runs in a task of its own, and a client that hangs up, or a time
//! limit, only ends the wait for its answer. So no client is left with half a change, and none can
//! make the store give up a connection in the middle of an operation. A handler that waits for
//! something to happen asks for [`Gone`], and stops when it comes. The requests under way stay
//! bounded, because a connection's permit is held until its request has ended ([`RequestPermit`]).

use std::{any::Any, convert::Infallible, sync::Arc, time::Duration};

use axum::{
    extract::{FromRequestParts, MatchedPath, Request, State},
    middleware::Next,
    response::{IntoResponse, Response},
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, header, request::Parts};
use tokio::{task::JoinHandle, time::Instant};
use tokio_util::sync::CancellationToken;
use tracing::Instrument;
use uuid::Uuid;

use crate::{
    ApiConfig, Problem, ProblemKind,
    http::{
        connection::{Peer, RequestPermit},
        guard::Guard,
        json::shorten,
        target,
    },
};

/// What is answered however many connections there are.
const PROBES: [&str; 2] = ["/healthz", "/readyz"];
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Cancelled when nobody waits for the request's answer any more.
#[derive(Clone, Default)]
pub(crate) struct Gone(pub(crate) CancellationToken);

impl<S: Sync> FromRequestParts<S> for Gone {
    type Rejection = Infallible;
    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(parts.extensions.get().cloned().unwrap_or_default())
    }
}

/// What the outermost layer goes by.
#[derive(Clone)]
pub(crate) struct Admission {
    pub(crate) config: Arc<ApiConfig>,
    pub(crate) guard: Guard,
    /// The time that a request may take on its client's account, by its route, beyond that of its
    /// handler: to send its body, or because the client asked to wait.
    pub(crate) clients_share: fn(&ApiConfig, &str, &Request) -> Duration,
}

impl Admission {
    /// Lets a request in or says why not.
    fn check(&self, route: &str, request: &Request) -> Result<(), Problem> {
        let peer = request.extensions().get::<Peer>();
        if peer.is_some_and(|peer| peer.for_probes) && !PROBES.contains(&route) {
            let detail = "There are too many connections, in all or from this address. Try again \
                          in a moment.";
            return Err(Problem::new(ProblemKind::Unavailable, detail));
        }
        target::check(route, request)?;
        self.guard.check(route, request)
    }
}

/// The outermost layer.
pub(crate) async fn admit(
    State(admission): State<Admission>,
    mut request: Request,
    next: Next,
) -> Response {
    let started = Instant::now();
    let id = request_id(request.headers());
    let method = known(request.method());
    let route = request
        .extensions()
        .get::<MatchedPath>()
        .map_or("unmatched", MatchedPath::as_str)
        .to_owned();
    let span =
        tracing::info_span!("request", request.id = %id, http.method = method, http.route = route);
    let config = &admission.config;
    let limit = config.handler_timeout + (admission.clients_share)(config, &route, &request);
    let gone = Gone::default();
    // At the end of this function nobody waits any more, wherever that is.
    let _gone = gone.0.clone().drop_guard();
    let mut response = match admission.check(&route, &request) {
        Ok(()) => {
            request.extensions_mut().insert(gone);
            let permit = request.extensions_mut().remove::<RequestPermit>();
            let handler = async move {
                let response = next.run(request).await;
                drop(permit);
                response
            };
            let handler = tokio::spawn(handler.instrument(span.clone()));
            answer(handler, limit).instrument(span.clone()).await
        }
        Err(problem) => problem.into_response(),
    };
    finish(&mut response, &id);
    let (status, elapsed) = (response.status(), started.elapsed());
    span.in_scope(|| {
        tracing::debug!(
            http.status = status.as_u16(),
            elapsed_ms = elapsed.as_millis() as u64,
            "answered"
        );
    });
    let labels = [
        ("route", route.clone()),
        ("method", method.to_owned()),
        ("status", status.as_u16().to_string()),
    ];
    metrics::counter!("taskforge_http_requests_total", &labels).increment(1);
    metrics::histogram!(
        "taskforge_http_request_duration_seconds", "route" => route, "method" => method)
    .record(elapsed);
    response
}

async fn answer(handler: JoinHandle<Response>, limit: Duration) -> Response {
    match tokio::time::timeout(limit, handler).await {
        Ok(Ok(response)) => response,
        // Panics are caught further in; this is the end of the runtime.
        Ok(Err(error)) => {
            tracing::error!(%error, "a handler ended badly");
            Problem::internal().into_response()
        }
        Err(_) => {
            tracing::error!(limit_s = limit.as_secs(), "a request took too long and was given up");
            Problem::new(
                ProblemKind::Unavailable,
                "The server took too long. Try again in a moment.",
            )
            .into_response()
        }
    }
}

/// Writes out a problem, replaces plain-text errors of the framework by problems, and sets the
/// headers that every answer has.
fn finish(response: &mut Response, id: &str) {
    let status = response.status();
    let problem = response.extensions_mut().remove::<Problem>();
    if let Some(problem) = problem {
        problem.write_into(response, id);
    } else if (status.is_client_error() || status.is_server_error()) && !is_json(response.headers())
    {
        Problem::from_status(status).write_into(response, id);
    }
    let headers = response.headers_mut();
    if let Ok(id) = HeaderValue::from_str(id) {
        headers.insert(REQUEST_ID, id);
    }
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    // Pages bring their own policy; nothing else is to be rendered, wherever a browser finds it.
    headers
        .entry(header::CONTENT_SECURITY_POLICY)
        .or_insert(HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'"));
}

fn is_json(headers: &HeaderMap) -> bool {
    headers.get(header::CONTENT_TYPE).is_some_and(|value| value.as_bytes().ends_with(b"json"))
}

/// The caller's id for the request, if it is one that may stand in a log, else a new one.
fn request_id(headers: &HeaderMap) -> String {
    let usable = |id: &&str| {
        (1..=64).contains(&id.len())
            && id.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
    };
    let given = headers.get(REQUEST_ID).and_then(|value| value.to_str().ok()).filter(usable);
    given.map_or_else(|| Uuid::now_v7().to_string(), str::to_owned)
}

/// A method as a metric label: clients can invent methods without end.
fn known(method: &Method) -> &'static str {
    match method.as_str() {
        "GET" => "GET",
        "HEAD" => "HEAD",
        "POST" => "POST",
        "PUT" => "PUT",
        "PATCH" => "PATCH",
        "DELETE" => "DELETE",
        "OPTIONS" => "OPTIONS",
        _ => "other",
    }
}

/// A panic in a handler ends that request and nothing else.
#[expect(clippy::needless_pass_by_value, reason = "the signature is the layer's")]
pub(crate) fn panicked(panic: Box<dyn Any + Send + 'static>) -> Response {
    let text = panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied());
    metrics::counter!("taskforge_http_panics_total").increment(1);
    tracing::error!(panic = text.unwrap_or("unknown"), "a handler panicked");
    Problem::internal().into_response()
}

/// Answers where no route is.
pub(crate) async fn no_route(request: Request) -> Problem {
    let path = shorten(request.uri().path(), 200).into_owned();
    Problem::new(
        ProblemKind::NoRoute,
        format!("There is nothing at {path}. /openapi.json lists the routes, /docs/ shows them."),
    )
}

/// Answers where a route is, with other methods.
pub(crate) async fn method_not_allowed(request: Request) -> Problem {
    let method = shorten(request.method().as_str(), 20).into_owned();
    Problem::new(
        ProblemKind::MethodNotAllowed,
        format!("{method} is not a method of this route; Allow names those that are."),
    )
}
