//! Who waits for which task to end.
//!
//! The process has one subscription to the broker's signals, however many clients wait: a finished
//! task wakes those who wait for it, and nobody else. Signals may get lost, so whoever waits also
//! reads the task now and then.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use taskforge_broker::{Broker, Signal, Signals};
use taskforge_domain::TaskId;
use tokio::sync::{Notify, broadcast::error::RecvError, futures::Notified};
use tokio_util::sync::{CancellationToken, DropGuard};

/// The process's waiters.
pub(crate) struct CompletionWaiters {
    waiting: Arc<Waiting>,
    /// Ends the subscriber when the last handle is gone.
    _subscriber: DropGuard,
}

/// How many wait for each task, and what wakes them.
#[derive(Default)]
struct Waiting(Mutex<Waiters>);

type Waiters = HashMap<TaskId, (usize, Arc<Notify>)>;

impl CompletionWaiters {
    /// Subscribes, before this returns.
    pub(crate) fn subscribe(broker: &dyn Broker) -> Self {
        let waiting = Arc::new(Waiting::default());
        let stop = CancellationToken::new();
        let subscriber = wake(broker.subscribe(), Arc::clone(&waiting));
        tokio::spawn(stop.clone().run_until_cancelled_owned(subscriber));
        Self { waiting, _subscriber: stop.drop_guard() }
    }

    /// Registers an interest in a task.
    pub(crate) fn watch(&self, id: TaskId) -> Watch {
        let mut waiting = self.waiting.lock();
        let (count, notify) = waiting.entry(id).or_default();
        *count += 1;
        Watch { id, notify: Arc::clone(notify), waiting: Arc::clone(&self.waiting) }
    }
}

impl Waiting {
    fn lock(&self) -> MutexGuard<'_, Waiters> {
        // Every change is a single insert, remove or count: a poisoned map is still whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn wake(mut signals: Signals, waiting: Arc<Waiting>) {
    loop {
        match signals.recv().await {
            Ok(Signal::Finished(id)) => {
                if let Some((_, notify)) = waiting.lock().get(&id) {
                    notify.notify_waiters();
                }
            }
            Ok(Signal::Cancel(_) | Signal::Policy | Signal::Plugins) => {}
            // Some were missed, and nobody knows which: all look.
            Ok(Signal::Missed) | Err(RecvError::Lagged(_)) => {
                let waiting = waiting.lock();
                waiting.values().for_each(|(_, notify)| notify.notify_waiters());
            }
            Err(RecvError::Closed) => return,
        }
    }
}

/// An interest in one task, until it is dropped.
pub(crate) struct Watch {
    id: TaskId,
    notify: Arc<Notify>,
    waiting: Arc<Waiting>,
}

impl Watch {
    /// Resolves at the next signal after this call, not after the first poll: call it, read the
    /// store, then await it.
    pub(crate) fn finished(&self) -> Notified<'_> {
        self.notify.notified()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let mut waiting = self.waiting.lock();
        if let Some((count, _)) = waiting.get_mut(&self.id) {
            *count -= 1;
            if *count == 0 {
                waiting.remove(&self.id);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use taskforge_broker::LocalBroker;

    use super::*;

    const WOKEN_WITHIN: Duration = Duration::from_secs(10);

    #[tokio::test]
    async fn a_signal_wakes_those_who_wait_for_its_task_and_nobody_else() {
        let broker = LocalBroker::new();
        let waiters = CompletionWaiters::subscribe(&broker);
        let (id, other) = (TaskId::generate(), TaskId::generate());
        let (first, second, stranger) =
            (waiters.watch(id), waiters.watch(id), waiters.watch(other));
        let (woken, also_woken, asleep) =
            (first.finished(), second.finished(), stranger.finished());
        broker.publish(&[Signal::Cancel(other), Signal::Finished(id)]).await.unwrap();
        tokio::time::timeout(WOKEN_WITHIN, async { tokio::join!(woken, also_woken) })
            .await
            .expect("both wake");
        assert!(tokio::time::timeout(Duration::ZERO, asleep).await.is_err());
    }

    #[tokio::test]
    async fn after_missed_signals_everyone_looks() {
        let broker = LocalBroker::new();
        let waiters = CompletionWaiters::subscribe(&broker);
        let watch = waiters.watch(TaskId::generate());
        let woken = watch.finished();
        // Far more than any subscription holds, in one go, so the listener cannot keep up.
        let flood: Vec<Signal> =
            (0..200_000).map(|_| Signal::Finished(TaskId::generate())).collect();
        broker.publish(&flood).await.unwrap();
        tokio::time::timeout(WOKEN_WITHIN, woken).await.expect("it wakes to look for itself");
    }

    #[tokio::test]
    async fn who_has_gone_is_forgotten() {
        let waiters = CompletionWaiters::subscribe(&LocalBroker::new());
        let id = TaskId::generate();
        let (first, second) = (waiters.watch(id), waiters.watch(id));
        drop(first);
        assert_eq!(waiters.waiting.lock().len(), 1);
        drop(second);
        assert!(waiters.waiting.lock().is_empty());
    }
}
