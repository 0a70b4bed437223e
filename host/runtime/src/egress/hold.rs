//! What a request keeps until its response was read.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt as _;
use wasmtime_wasi_http::{Error, WasiBody};

use super::clients::Lease;
use crate::fair::Permit;

/// A request's permit and client. Dropped when the body has ended or is dropped.
pub(super) type Hold = (Permit, Lease);

/// A body that keeps the hold of its request.
pub(super) fn holding(body: WasiBody, hold: Hold) -> WasiBody {
    if body.is_end_stream() {
        return body;
    }
    let hold = Some(hold);
    Holding { body, hold }.boxed_unsync()
}

struct Holding {
    body: WasiBody,
    hold: Option<Hold>,
}

impl Body for Holding {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let this = self.get_mut();
        let frame = std::task::ready!(Pin::new(&mut this.body).poll_frame(cx));
        if frame.is_none() {
            this.hold = None;
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
