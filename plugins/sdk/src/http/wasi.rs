//! The exchange itself, over `wasi:http`. Written on the bindings and not on `wstd::http`, which
//! turns every error of the host into text.

use std::{
    future::{Future, poll_fn},
    pin::pin,
    time::{Duration, Instant},
};

use url::Position;
use wasip2::{
    http::{
        outgoing_handler,
        types::{
            FutureIncomingResponse, Headers, IncomingBody, IncomingResponse, Method, OutgoingBody,
            OutgoingRequest, Scheme, http_error_code,
        },
    },
    io::streams::{InputStream, StreamError},
};
use wstd::runtime::AsyncPollable;

use super::{Error, ErrorKind, Head, Url};
use crate::runtime;

/// The most that one read asks for, in bytes.
const CHUNK: u64 = 64 * 1024;

pub(super) async fn send(
    method: &str,
    (url, path): (&Url, &str),
    headers: Vec<(String, Vec<u8>)>,
    body: &[u8],
    timeout: Option<Duration>,
) -> Result<(Head, Body), Error> {
    let clock = Clock::start(timeout);
    let request = outgoing(method, (url, path), &headers)?;
    // Only `body` itself can fail here, when it is called twice.
    let upload =
        request.body().map_err(|()| Error::new(ErrorKind::Other, "the request has no body"))?;
    let answer = outgoing_handler::handle(request, None)?;

    let mut uploading = pin!(write(upload, body));
    let mut uploaded = false;
    let mut waiting = pin!(response(&answer));
    let exchange = poll_fn(|context| {
        // A server may answer before it has read everything, so neither waits for the other. Why an
        // upload stopped is said by the response, or by the error in its place.
        if !uploaded {
            uploaded = uploading.as_mut().poll(context).is_ready();
        }
        waiting.as_mut().poll(context)
    });
    let response = clock.limit(exchange).await??;

    let head = Head { status: response.status(), headers: response.headers().entries() };
    let incoming = response
        .consume()
        .map_err(|()| Error::new(ErrorKind::Other, "the response has no body"))?;
    let stream =
        incoming.stream().map_err(|()| Error::new(ErrorKind::Other, "the response has no body"))?;
    Ok((head, Body { ready: None, stream, _incoming: incoming, clock }))
}

fn outgoing(
    method: &str,
    (url, path): (&Url, &str),
    headers: &[(String, Vec<u8>)],
) -> Result<OutgoingRequest, Error> {
    let bad = |kind, what: &str| Error::new(kind, what.to_owned());
    let headers = Headers::from_list(headers).map_err(|error| {
        bad(ErrorKind::BadRequest, &format!("a request header cannot be sent: {error}"))
    })?;
    let request = OutgoingRequest::new(headers);
    let scheme = if url.scheme() == "http" { Scheme::Http } else { Scheme::Https };
    let bad_url = |()| bad(ErrorKind::BadUrl, &format!("{url} cannot be asked"));
    request
        .set_method(&method_named(method))
        .map_err(|()| bad(ErrorKind::BadRequest, &format!("{method:?} is not a method")))?;
    request.set_scheme(Some(&scheme)).map_err(bad_url)?;
    request
        .set_authority(Some(&url[Position::BeforeHost..Position::AfterPort]))
        .map_err(bad_url)?;
    request.set_path_with_query(Some(path)).map_err(bad_url)?;
    Ok(request)
}

fn method_named(name: &str) -> Method {
    match name {
        "GET" => Method::Get,
        "HEAD" => Method::Head,
        "POST" => Method::Post,
        "PUT" => Method::Put,
        "DELETE" => Method::Delete,
        "CONNECT" => Method::Connect,
        "OPTIONS" => Method::Options,
        "TRACE" => Method::Trace,
        "PATCH" => Method::Patch,
        other => Method::Other(other.to_owned()),
    }
}

async fn write(upload: OutgoingBody, body: &[u8]) -> Option<()> {
    if !body.is_empty() {
        let stream = upload.write().ok()?;
        let mut rest = body;
        while !rest.is_empty() {
            let room = usize::try_from(stream.check_write().ok()?).unwrap_or(usize::MAX);
            if room == 0 {
                AsyncPollable::new(stream.subscribe()).wait_for().await;
                continue;
            }
            let (now, later) = rest.split_at(room.min(rest.len()));
            stream.write(now).ok()?;
            rest = later;
        }
        stream.flush().ok()?;
    }
    OutgoingBody::finish(upload, None).ok()
}

async fn response(answer: &FutureIncomingResponse) -> Result<IncomingResponse, Error> {
    AsyncPollable::new(answer.subscribe()).wait_for().await;
    match answer.get() {
        Some(Ok(result)) => Ok(result?),
        Some(Err(())) | None => Err(Error::new(ErrorKind::Other, "the host lost the response")),
    }
}

/// A body on its way. The fields are dropped in this order, children before what they came from, as
/// the host demands.
#[derive(Debug)]
pub(super) struct Body {
    ready: Option<AsyncPollable>,
    stream: InputStream,
    _incoming: IncomingBody,
    clock: Clock,
}

impl Body {
    pub(super) async fn chunk(&mut self) -> Result<Option<Vec<u8>>, Error> {
        loop {
            match self.stream.read(CHUNK) {
                Ok(bytes) if bytes.is_empty() => {
                    let ready = self
                        .ready
                        .get_or_insert_with(|| AsyncPollable::new(self.stream.subscribe()));
                    self.clock.limit(ready.wait_for()).await?;
                }
                Ok(bytes) => return Ok(Some(bytes)),
                Err(StreamError::Closed) => return Ok(None),
                Err(StreamError::LastOperationFailed(error)) => {
                    return Err(match http_error_code(&error) {
                        Some(code) => code.into(),
                        None => Error::new(ErrorKind::Connection, error.to_debug_string()),
                    });
                }
            }
        }
    }
}

/// The time that one exchange may take.
#[derive(Debug, Clone, Copy)]
struct Clock(Option<(Instant, Duration)>);

impl Clock {
    fn start(limit: Option<Duration>) -> Self {
        Self(limit.map(|limit| (Instant::now(), limit)))
    }

    async fn limit<F: Future>(&self, future: F) -> Result<F::Output, Error> {
        let Some((start, limit)) = self.0 else {
            return Ok(future.await);
        };
        let left = limit.saturating_sub(start.elapsed());
        runtime::timeout(future, left).await.ok_or_else(|| {
            Error::new(
                ErrorKind::Timeout,
                format!("no complete answer within {} ms", limit.as_millis()),
            )
        })
    }
}
