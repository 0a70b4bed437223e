//! Bodies of requests and responses.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{header::CONTENT_LENGTH, request::Parts};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use hyper::body::Incoming as FromServer;
use taskforge_domain::FailureKind;
use tokio::time::{Instant, Sleep, sleep, timeout};
use wasmtime_wasi_http::{Error, WasiBody};

use super::{error, upload::Upload};
use crate::{
    budget::{Budget, Charge},
    host::SharedLog,
};

/// How long a request without a length waits to learn whether its body is empty. Guests' libraries
/// finish an empty body at once, but only after they have passed the request on.
const FIRST_FRAME: Duration = Duration::from_millis(100);

/// Prepares a guest's body for the client.
///
/// A request with an empty body is sent without one: some servers refuse a GET with
/// `Transfer-Encoding: chunked`.
pub(super) async fn outgoing(
    parts: &Parts,
    mut body: WasiBody,
    sent: Sent,
) -> Result<(Outgoing, Upload), Error> {
    let length =
        parts.headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    // A request without a body must not announce one: the server would take the beginning of the
    // next request on the connection for it.
    let announces = parts.headers.get_all(CONTENT_LENGTH).iter().any(|length| length != "0");
    let nothing = || match announces {
        true => Err(Error::HttpRequestBodySize(Some(0))),
        false => Ok(Outgoing::of(None, Some(0), sent.clone())),
    };
    if body.is_end_stream() {
        return nothing();
    }
    let mut first = None;
    if length.is_none() {
        match timeout(FIRST_FRAME, body.frame()).await {
            Ok(None) => return nothing(),
            Ok(Some(frame)) => first = Some(frame?),
            Err(_) => {}
        }
    }
    let (mut outgoing, upload) = Outgoing::of(Some(body), length, sent);
    outgoing.first = first;
    Ok((outgoing, upload))
}

/// Counts the bytes of all bodies that an attempt sends. They have the same limit as those that it
/// receives.
#[derive(Clone)]
pub(super) struct Sent {
    pub(super) bytes: Arc<AtomicU64>,
    pub(super) limit: u64,
    pub(super) log: SharedLog,
}

impl Sent {
    fn count(&self, frame: Frame<Bytes>) -> Result<Frame<Bytes>, Error> {
        let length = frame.data_ref().map_or(0, Bytes::len) as u64;
        let total = self.bytes.fetch_add(length, Ordering::Relaxed).saturating_add(length);
        if total > self.limit {
            let limit = self.limit;
            let text = format!(
                "an HTTP request was cut off: the limit is {limit} bytes of all request bodies"
            );
            self.log.lock().refuse(FailureKind::HostCallLimit, text);
            return Err(Error::HttpRequestBodySize(Some(limit)));
        }
        Ok(frame)
    }
}

/// A guest's body on its way to the server.
pub(super) struct Outgoing {
    first: Option<Frame<Bytes>>,
    length: Option<u64>,
    upload: Upload,
    sent: Sent,
}

impl Outgoing {
    fn of(body: Option<WasiBody>, length: Option<u64>, sent: Sent) -> (Self, Upload) {
        let upload = Upload::new(body);
        let outgoing = Self { first: None, length, upload: upload.clone(), sent };
        (outgoing, upload)
    }
}

impl Body for Outgoing {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let this = self.get_mut();
        let frame = std::task::ready!(this.upload.poll_frame(&mut this.first, cx));
        Poll::Ready(frame.map(|frame| this.sent.count(frame?)))
    }

    fn is_end_stream(&self) -> bool {
        self.length == Some(0) || self.upload.is_over()
    }

    fn size_hint(&self) -> SizeHint {
        self.length.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

impl Drop for Outgoing {
    fn drop(&mut self) {
        self.upload.end();
    }
}

/// Counts the bytes of all bodies that an attempt receives, and charges for those that wait to be
/// read.
pub(super) struct Received {
    pub(super) bytes: Arc<AtomicU64>,
    pub(super) limit: u64,
    pub(super) log: SharedLog,
    pub(super) budget: Budget,
    /// Kept as long as the body, because its connection reads until then.
    pub(super) _exchange: Charge,
}

impl Received {
    fn count(&self, frame: Frame<Bytes>) -> Result<Frame<Bytes>, Error> {
        let data = match frame.into_data() {
            Ok(data) => data,
            Err(trailers) => return Ok(trailers),
        };
        let length = data.len() as u64;
        let before = self.bytes.fetch_add(length, Ordering::Relaxed);
        if before.saturating_add(length) > self.limit {
            // Bytes that the guest does not see are not counted.
            self.bytes.fetch_sub(length, Ordering::Relaxed);
            let limit = self.limit;
            let text =
                format!("an HTTP response was cut off: the limit is {limit} bytes an attempt");
            self.log.lock().refuse(FailureKind::HostCallLimit, text);
            return Err(Error::HttpResponseBodySize(Some(limit)));
        }
        let data = self.budget.bytes("the response's body", data);
        Ok(Frame::data(data.map_err(|over| {
            super::no_room(&self.log, &over);
            Error::HttpResponseBodySize(Some(length))
        })?))
    }
}

/// Wraps a response's body: counts its bytes over all responses of the attempt, and ends it when
/// the server is silent for too long.
pub(super) fn incoming(body: FromServer, received: Received, quiet: Option<Duration>) -> WasiBody {
    let timer = quiet.map(|quiet| (Box::pin(sleep(quiet)), quiet));
    Incoming { body, received, timer }.boxed_unsync()
}

struct Incoming {
    body: FromServer,
    received: Received,
    timer: Option<(Pin<Box<Sleep>>, Duration)>,
}

impl Body for Incoming {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let this = self.get_mut();
        match Pin::new(&mut this.body).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                if let Some((timer, quiet)) = &mut this.timer {
                    timer.as_mut().reset(Instant::now() + *quiet);
                }
                Poll::Ready(Some(this.received.count(frame)))
            }
            Poll::Ready(Some(Err(failed))) => Poll::Ready(Some(Err(error::of_body(&failed)))),
            Poll::Ready(None) => Poll::Ready(None),
            Poll::Pending => match &mut this.timer {
                Some((timer, _)) => {
                    timer.as_mut().poll(cx).map(|()| Some(Err(Error::ConnectionReadTimeout)))
                }
                None => Poll::Pending,
            },
        }
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_all_requests_of_an_attempt_send_together_has_a_limit() {
        let sent =
            Sent { bytes: Arc::default(), limit: 10, log: SharedLog::new(1000, &Budget::new(0)) };
        let frame = |length: usize| Frame::data(Bytes::from(vec![0; length]));
        assert!(sent.count(frame(6)).is_ok() && sent.count(frame(4)).is_ok());
        assert!(matches!(sent.count(frame(1)), Err(Error::HttpRequestBodySize(Some(10)))));
    }
}
