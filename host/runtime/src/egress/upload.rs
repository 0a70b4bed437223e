//! Whose turn it is while a request is sent, so that a server that stops reading is told from a
//! guest that takes its time.
//!
//! The client asks for the next part of a body when it has room for it, and it has room when the
//! server reads. So from one part to the next question the server is waited for, and from the
//! question to the next part the guest.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Body as _, Frame};
use tokio::time::{Instant, sleep_until};
use wasmtime_wasi_http::{Error, WasiBody};

/// The longest between two looks at whose turn it is.
const LOOK: Duration = Duration::from_secs(1);

/// Who is waited for, and since when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    /// There is no connection yet, which has a limit of its own.
    Connecting,
    /// The guest has the next part of the body.
    Guest,
    /// The server has a part to take.
    Server(Instant),
    /// Everything was handed over: the server is to answer.
    Over(Instant),
}

impl Turn {
    /// Since when the server is to take what is sent.
    pub(super) const fn takes(self) -> Option<Instant> {
        match self {
            Self::Server(since) => Some(since),
            _ => None,
        }
    }

    /// Since when the server is to do something.
    pub(super) const fn answers(self) -> Option<Instant> {
        match self {
            Self::Server(since) | Self::Over(since) => Some(since),
            Self::Connecting | Self::Guest => None,
        }
    }
}

/// A body on its way, as the client, which asks for its parts, and whoever watches it see it.
#[derive(Clone)]
pub(super) struct Upload(Arc<Mutex<State>>);

struct State {
    body: Option<WasiBody>,
    turn: Turn,
}

impl Upload {
    /// Of a body, or of none.
    pub(super) fn new(body: Option<WasiBody>) -> Self {
        let turn = Turn::Connecting;
        Self(Arc::new(Mutex::new(State { body, turn })))
    }

    /// From now on the server is waited for.
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

    /// The client needs no more of it.
    pub(super) fn end(&self) {
        let mut state = self.state();
        if !matches!(state.turn, Turn::Over(_)) {
            state.turn = Turn::Over(Instant::now());
        }
        state.body = None;
    }

    /// The server does not take it: the guest's stream is closed, and the client is told if it
    /// asks.
    pub(super) fn cut(&self) {
        self.state().body = None;
    }

    /// Waits until the server has let `limit` pass, in one of its turns that `since` tells.
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

    /// Cuts the body off when the server does not take it for so long. Until it is over.
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

    /// What the client gets when it asks for the next part.
    async fn next(upload: &Upload) -> Option<usize> {
        let frame = std::future::poll_fn(|cx| upload.poll_frame(&mut None, cx)).await;
        frame.map(|frame| frame.unwrap().into_data().unwrap().len())
    }

    /// Whether the server is late that has no time at all. Who is not waited for never is.
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
