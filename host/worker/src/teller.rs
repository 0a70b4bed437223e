//! What the broker is told of the attempts that ended.

use std::sync::Arc;

use taskforge_broker::{Broker, BrokerResult, Hint, Signal};
use taskforge_domain::TaskId;
use tokio::sync::mpsc;

/// The most news in one round.
const ROUND: usize = 16_384;

/// News of one task.
#[derive(Debug)]
pub(crate) enum News {
    /// It reached a terminal state.
    Finished(TaskId),
    /// It waits again.
    Waits(Hint),
}

/// Passes news on to the broker behind the attempts' backs: an attempt's slot is free once its
/// outcome is committed, and thousands of attempts a second share a round trip. A broker that is
/// away costs latency only, so what it does not take is dropped.
#[derive(Debug, Clone)]
pub(crate) struct Teller(mpsc::UnboundedSender<News>);

impl Teller {
    /// A teller, and the loop behind it, which ends after the last news once every teller is gone.
    pub(crate) fn new(broker: Arc<dyn Broker>) -> (Self, impl Future<Output = ()> + Send + use<>) {
        // As much as there are attempts that ended within a round trip, so it needs no bound of its
        // own.
        let (news, inbox) = mpsc::unbounded_channel();
        (Self(news), pass_on(broker, inbox))
    }

    pub(crate) fn tell(&self, news: News) {
        // The loop outlives the tellers.
        self.0.send(news).ok();
    }
}

async fn pass_on(broker: Arc<dyn Broker>, mut inbox: mpsc::UnboundedReceiver<News>) {
    let mut round = Vec::new();
    while inbox.recv_many(&mut round, ROUND).await > 0 {
        let (mut finished, mut waits) = (Vec::new(), Vec::new());
        for news in round.drain(..) {
            match news {
                News::Finished(id) => finished.push(Signal::Finished(id)),
                News::Waits(hint) => waits.push(hint),
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
