//! Many callers, one command.

use std::future::Future;

use tokio::{
    sync::{mpsc, oneshot},
    task::JoinSet,
};

use crate::{BrokerError, BrokerResult};

/// Callers that may wait for their turn before the next has to wait for room.
const INBOX: usize = 1_024;

/// Things in one command, unless one caller alone brings more: some hundred microseconds of a
/// server's time.
const BATCH: usize = 1_024;

/// Sends what concurrent callers bring in one command a round trip: while one is under way, the
/// next gathers. A lone caller waits for nobody.
#[derive(Debug)]
pub(crate) struct Batcher<T> {
    inbox: mpsc::Sender<Parcel<T>>,
}

#[derive(Debug)]
struct Parcel<T> {
    things: Vec<T>,
    sent: oneshot::Sender<BrokerResult<()>>,
}

impl<T: Send + 'static> Batcher<T> {
    /// Begins a task among `tasks` that sends with `send`.
    pub(crate) fn spawn<F>(
        tasks: &mut JoinSet<()>,
        send: impl Fn(Vec<T>) -> F + Send + 'static,
    ) -> Self
    where
        F: Future<Output = BrokerResult<()>> + Send,
    {
        let (inbox, mut parcels) = mpsc::channel::<Parcel<T>>(INBOX);
        tasks.spawn(async move {
            while let Some(Parcel { mut things, sent }) = parcels.recv().await {
                let mut waiting = vec![sent];
                while things.len() < BATCH
                    && let Ok(parcel) = parcels.try_recv()
                {
                    things.extend(parcel.things);
                    waiting.push(parcel.sent);
                }
                let outcome = send(things).await;
                for sent in waiting {
                    // A caller that gave up has nothing to hear.
                    sent.send(outcome.clone()).ok();
                }
            }
        });
        Self { inbox }
    }

    /// Waits until these were sent. A dropped call may have been sent.
    pub(crate) async fn submit(&self, things: Vec<T>) -> BrokerResult<()> {
        if things.is_empty() {
            return Ok(());
        }
        let (sent, outcome) = oneshot::channel();
        let closed = || BrokerError("the broker was closed".into());
        self.inbox.send(Parcel { things, sent }).await.map_err(|_| closed())?;
        outcome.await.map_err(|_| closed())?
    }
}
