//! What the broker is told of the attempts that ended.

use std::sync::Arc;

use taskforge_broker::{Broker, BrokerResult, QueuedTask, Signal};
use taskforge_domain::TaskId;
use tokio::sync::mpsc;

/// The most notifications in one round.
const ROUND: usize = 16_384;

/// What the broker is to know of a task.
#[derive(Debug)]
pub(crate) enum Notification {
    /// It reached a terminal state.
    Finished(TaskId),
    /// It waits again.
    Waits(QueuedTask),
}

/// Passes notifications on to the broker while attempts go on: an attempt's permit is free once its
/// outcome is committed, and thousands of attempts a second share a round trip. A broker that is
/// away costs latency only, so what it does not take is dropped.
#[derive(Debug, Clone)]
pub(crate) struct Notifier(mpsc::UnboundedSender<Notification>);

impl Notifier {
    /// A notifier, and the loop behind it, which ends after the last notification once every
    /// notifier is gone.
    pub(crate) fn new(broker: Arc<dyn Broker>) -> (Self, impl Future<Output = ()> + Send + use<>) {
        // As much as there are attempts that ended within a round trip, so it needs no bound of its
        // own.
        let (sender, inbox) = mpsc::unbounded_channel();
        (Self(sender), pass_on(broker, inbox))
    }

    pub(crate) fn tell(&self, notification: Notification) {
        // The loop outlives the notifiers.
        self.0.send(notification).ok();
    }
}

async fn pass_on(broker: Arc<dyn Broker>, mut inbox: mpsc::UnboundedReceiver<Notification>) {
    let mut round = Vec::new();
    while inbox.recv_many(&mut round, ROUND).await > 0 {
        let (mut finished, mut waits) = (Vec::new(), Vec::new());
        for notification in round.drain(..) {
            match notification {
                Notification::Finished(id) => finished.push(Signal::Finished(id)),
                Notification::Waits(hint) => waits.push(hint),
            }
        }
        let (published, pushed) = tokio::join!(
            unless_empty(&finished, || broker.publish(&finished)),
            unless_empty(&waits, || broker.push(&waits)),
        );
        for error in [published, pushed].into_iter().filter_map(Result::err) {
            tracing::debug!(%error, "the broker was not told");
        }
    }
}

async fn unless_empty<T, F: Future<Output = BrokerResult<()>>>(
    items: &[T],
    tell: impl FnOnce() -> F,
) -> BrokerResult<()> {
    if items.is_empty() { Ok(()) } else { tell().await }
}
