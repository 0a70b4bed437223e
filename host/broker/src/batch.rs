//! One command for many callers.

use std::future::Future;

use tokio::{
    sync::{mpsc, oneshot},
    task::JoinSet,
};

use crate::{BrokerError, BrokerResult};

/// Requests that may queue before the next caller waits for room.
const INBOX: usize = 1_024;

/// Items in one command, unless one caller alone brings more: some hundred microseconds of a
/// server's time.
const BATCH: usize = 1_024;

/// Sends the items of concurrent callers in one command per round trip. While one command is under
/// way the next batch gathers; a lone caller waits for nobody.
#[derive(Debug)]
pub(crate) struct Batcher<T> {
    inbox: mpsc::Sender<Request<T>>,
}

#[derive(Debug)]
struct Request<T> {
    items: Vec<T>,
    reply: oneshot::Sender<BrokerResult<()>>,
}

impl<T: Send + 'static> Batcher<T> {
    /// Spawns the task that sends, with `send`, into `tasks`.
    pub(crate) fn spawn<F>(
        tasks: &mut JoinSet<()>,
        send: impl Fn(Vec<T>) -> F + Send + 'static,
    ) -> Self
    where
        F: Future<Output = BrokerResult<()>> + Send,
    {
        let (inbox, mut requests) = mpsc::channel::<Request<T>>(INBOX);
        tasks.spawn(async move {
            while let Some(Request { mut items, reply }) = requests.recv().await {
                let mut waiting = vec![reply];
                while items.len() < BATCH
                    && let Ok(request) = requests.try_recv()
                {
                    items.extend(request.items);
                    waiting.push(request.reply);
                }
                let outcome = send(items).await;
                for reply in waiting {
                    // Fails when the caller has given up.
                    reply.send(outcome.clone()).ok();
                }
            }
        });
        Self { inbox }
    }

    /// Waits until these items were sent. A call that is dropped may have sent them.
    pub(crate) async fn submit(&self, items: Vec<T>) -> BrokerResult<()> {
        if items.is_empty() {
            return Ok(());
        }
        let (reply, outcome) = oneshot::channel();
        let ended = || BrokerError("the broker has ended".into());
        self.inbox.send(Request { items, reply }).await.map_err(|_| ended())?;
        outcome.await.map_err(|_| ended())?
    }
}
