//! Tells a server that stops reading a request from a guest that is slow to write it.
//!
//! The HTTP client polls for the next part of a body when it has room, and it has room when the
//! server reads. So between a part and the next poll the client waits for the server, and between a
//! poll and the next part for the guest.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Body as _, Frame};
use tokio::time::{Instant, sleep_until};
use wasmtime_wasi_http::{Error, WasiBody};

/// The longest time between two checks of whose turn it is.
const LOOK: Duration = Duration::from_secs(1);

/// What a request waits for, and since when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    /// The connection, which has a limit of its own.
    Connecting,
    /// The guest, for the next part of the body.
    Guest,
    /// The server, to read a part.
    Server(Instant),
    /// The server, to answer: everything was sent.
    Over(Instant),
}

impl Turn {
    /// Since when the server has to read.
    pub(super) const fn takes(self) -> Option<Instant> {
        match self {
            Self::Server(since) => Some(since),
            _ => None,
        }
    }

    /// Since when the server has to do something.
    pub(super) const fn answers(self) -> Option<Instant> {
        match self {
            Self::Server(since) | Self::Over(since) => Some(since),
            Self::Connecting | Self::Guest => None,
        }
    }
}

/// A body on its way, shared by the client, which polls for its parts, and its watchers.
#[derive(Clone)]
pub(super) struct Upload(Arc<Mutex<State>>);

struct State {
    body: Option<WasiBody>,
    turn: Turn,
}

impl Upload {
    /// The upload of a body, or of none.
    pub(super) fn new(body: Option<WasiBody>) -> Self {
        let turn = Turn::Connecting;
        Self(Arc::new(Mutex::new(State { body, turn })))
    }

    /// The connection is there: from now on the request waits for the server.
    pub(super) fn connected(&self) {
        let mut state = self.state();
        if state.turn == Turn::Connecting {
            state.turn = match state.body {
                Some(_) => Turn::Server(Instant::now()),
                None => Turn::Over(Instant::now()),
            };
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next part: `first`, or what the guest has.
    pub(super) fn poll_frame(
        &self,
        first: &mut Option<Frame<Bytes>>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let mut state = self.state();
        let State { body, turn } = &mut *state;
        let Some(body) = body else {
            return Poll::Ready(match turn {
                Turn::Over(_) => None,
                _ => Some(Err(Error::ConnectionWriteTimeout)),
            });
        };
        let frame = match first.take() {
            Some(first) => Poll::Ready(Some(Ok(first))),
            None => std::pin::Pin::new(body).poll_frame(cx),
        };
        *turn = match &frame {
            Poll::Pending => Turn::Guest,
            Poll::Ready(Some(_)) => Turn::Server(Instant::now()),
            Poll::Ready(None) => Turn::Over(Instant::now()),
        };
        frame
    }

    pub(super) fn turn(&self) -> Turn {
        self.state().turn
    }

    pub(super) fn is_over(&self) -> bool {
        matches!(self.turn(), Turn::Over(_))
    }

    /// The client needs no more of the body.
    pub(super) fn end(&self) {
        let mut state = self.state();
        if !matches!(state.turn, Turn::Over(_)) {
            state.turn = Turn::Over(Instant::now());
        }
        state.body = None;
    }

    /// The server does not read it: closes the guest's stream, and fails the client's next poll.
    pub(super) fn cut(&self) {
        self.state().body = None;
    }

    /// Waits until the server has let `limit` pass in one of the turns that `since` selects.
    pub(super) async fn late(&self, limit: Duration, since: impl Fn(Turn) -> Option<Instant>) {
        loop {
            let now = Instant::now();
            let due = match since(self.turn()) {
                Some(since) => since + limit,
                None => now + limit.clamp(Duration::from_millis(1), LOOK),
            };
            if due <= now {
                return;
            }
            sleep_until(due.min(now + LOOK)).await;
        }
    }

    /// Cuts the body off if the server does not read it for so long. Returns when all is sent.
    pub(super) async fn keep_moving(self, limit: Duration) {
        loop {
            let late = self.late(limit, Turn::takes);
            if tokio::time::timeout(LOOK, late).await.is_ok() {
                self.cut();
                return;
            }
            if self.is_over() {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::{BodyExt as _, StreamBody};
    use tokio::{sync::mpsc, time::timeout};

    use super::*;

    /// What the client's next poll returns.
    async fn next(upload: &Upload) -> Option<usize> {
        let frame = std::future::poll_fn(|cx| upload.poll_frame(&mut None, cx)).await;
        frame.map(|frame| frame.unwrap().into_data().unwrap().len())
    }

    /// Whether a server without any time is late, which it is only in its turn.
    async fn is_late(upload: &Upload, since: fn(Turn) -> Option<Instant>) -> bool {
        let late = upload.late(Duration::ZERO, since);
        timeout(Duration::from_millis(50), late).await.is_ok()
    }

    #[tokio::test]
    async fn a_guest_that_takes_its_time_is_no_slow_server() {
        let (sender, receiver) = mpsc::channel::<Bytes>(1);
        let parts = futures_util::stream::unfold(receiver, |mut receiver| async move {
            let part = receiver.recv().await?;
            Some((Ok(Frame::data(part)), receiver))
        });
        let upload = Upload::new(Some(StreamBody::new(parts).boxed_unsync()));
        let late =
            async || (is_late(&upload, Turn::takes).await, is_late(&upload, Turn::answers).await);
        assert_eq!(late().await, (false, false), "it connects");
        upload.connected();
        assert_eq!(late().await, (true, true), "the server is to ask for the first part");
        for _ in 0..2 {
            let mut waiting = std::pin::pin!(next(&upload));
            assert!(futures_util::poll!(&mut waiting).is_pending());
            assert_eq!(late().await, (false, false), "the guest is to write");
            sender.send(Bytes::from_static(b"part")).await.unwrap();
            assert_eq!(waiting.await, Some(4));
            assert_eq!(late().await, (true, true), "the server is to take the part");
        }
        drop(sender);
        assert_eq!(next(&upload).await, None);
        assert_eq!(late().await, (false, true), "the server is to answer");
    }
}
