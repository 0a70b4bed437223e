//! The broker of a fleet without Redis: the store itself.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use taskforge_domain::{Lane, QueuePolicy, TaskId, TaskType};
use tokio::{
    sync::broadcast::{self, error::RecvError},
    task::JoinSet,
};

use crate::{
    Broker, BrokerResult, Bulletin, Hint, Mode, Popped, ShortLane, Signal, Signals, Want,
    batch::Batcher,
    local::SIGNALS,
    notice::{self, Notice},
    queue::MAX_COUNTERS,
    waiters::Waiters,
};

/// How often a worker looks in the store although nobody said that there is something: a notice
/// reaches only who listens at that moment.
const POLL: Duration = Duration::from_millis(500);

/// Types of which it is known when something was last said. A fleet has some hundreds.
const MAX_TYPES: usize = 4_096;

/// Holds no hints: a push says on the bulletin that there is something to find, and a pop says when
/// to look. Workers claim from the store in its own order, so priorities and first in, first out
/// hold, and fairness is what the store gives.
#[derive(Debug)]
pub struct StoreBroker {
    core: Arc<Core>,
    pushes: Batcher<TaskType>,
    publishes: Batcher<Signal>,
    signals: broadcast::Sender<Signal>,
    /// Ends with the broker.
    _tasks: JoinSet<()>,
}

#[derive(Debug, Default)]
struct Core {
    waiters: Waiters,
    news: Mutex<News>,
}

/// What was said, and who has looked since: a worker that is busy when a notice comes must not
/// sleep on it afterwards.
#[derive(Debug, Default)]
struct News {
    /// Counts notices.
    last: u64,
    /// The last one that concerned all types.
    of_all: u64,
    of_type: HashMap<String, u64>,
    /// The last one when workers of these types were sent to look.
    answered: HashMap<Vec<TaskType>, u64>,
}

impl StoreBroker {
    /// Begins to listen, before this returns.
    #[must_use]
    pub fn new(bulletin: Arc<dyn Bulletin>) -> Self {
        Self::with(bulletin, broadcast::Sender::new(SIGNALS))
    }

    /// One whose signals go where others go too.
    pub(crate) fn with(bulletin: Arc<dyn Bulletin>, signals: broadcast::Sender<Signal>) -> Self {
        let core = Arc::new(Core::default());
        let mut tasks = JoinSet::new();
        tasks.spawn(listen(bulletin.listen(), Arc::clone(&core), signals.clone()));
        let board = Arc::clone(&bulletin);
        let pushes = Batcher::spawn(&mut tasks, move |types: Vec<TaskType>| {
            let board = Arc::clone(&board);
            async move { board.post(&notice::look(&types.into_iter().collect())).await }
        });
        let publishes = Batcher::spawn(&mut tasks, move |signals: Vec<Signal>| {
            let board = Arc::clone(&bulletin);
            async move { board.post(&notice::tell(&signals)).await }
        });
        Self { core, pushes, publishes, signals, _tasks: tasks }
    }

    /// Waits until there is something to find that workers of these types were not sent to yet.
    /// Cancel safe.
    pub(crate) async fn news(&self, types: &[TaskType]) {
        let place = self.core.waiters.wait_for(types);
        if !self.core.news().take(types) {
            place.called().await;
            self.core.news().take(types);
        }
    }

    /// Waits for news, but not longer than this.
    pub(crate) async fn look(&self, types: &[TaskType], wait: Duration) -> Popped {
        if tokio::time::timeout(wait, self.news(types)).await.is_err() {
            self.core.news().take(types);
        }
        Popped { hints: Vec::new(), look_in_store: true }
    }
}

async fn listen(
    mut notices: broadcast::Receiver<String>,
    core: Arc<Core>,
    signals: broadcast::Sender<Signal>,
) {
    loop {
        match notices.recv().await.map(|text| Notice::parse(&text)) {
            Ok(Notice::Look(types)) => {
                core.news().hear(&types);
                core.waiters.wake(&types.iter().map(String::as_str).collect::<Vec<_>>());
            }
            Ok(Notice::Tell(told)) => {
                for signal in told {
                    // It fails when nobody listens, which is no failure.
                    signals.send(signal).ok();
                }
            }
            Ok(Notice::Strange) => {}
            Ok(Notice::Missed) | Err(RecvError::Lagged(_)) => {
                core.news().hear_of_all();
                core.waiters.wake_all();
                signals.send(Signal::Missed).ok();
            }
            Err(RecvError::Closed) => return,
        }
    }
}

impl Core {
    /// Never held across a wait.
    fn news(&self) -> MutexGuard<'_, News> {
        self.news.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl News {
    fn hear(&mut self, types: &[String]) {
        self.last += 1;
        if self.of_type.len() + types.len() > MAX_TYPES {
            self.of_type.clear();
            self.of_all = self.last;
        }
        for name in types {
            self.of_type.insert(name.clone(), self.last);
        }
    }

    fn hear_of_all(&mut self) {
        self.last += 1;
        self.of_all = self.last;
    }

    /// Whether there are news for workers of these types. They are sent to look now, so what was
    /// said is old from here on.
    fn take(&mut self, types: &[TaskType]) -> bool {
        let newest = types
            .iter()
            .filter_map(|name| self.of_type.get(name.as_str()).copied())
            .max()
            .unwrap_or(0)
            .max(self.of_all);
        if let Some(answered) = self.answered.get_mut(types) {
            let is_new = newest > *answered;
            *answered = self.last;
            return is_new;
        }
        if self.answered.len() >= MAX_COUNTERS {
            self.answered.clear();
        }
        self.answered.insert(types.to_vec(), self.last);
        // Nobody knows what was there before the first look.
        true
    }
}

#[async_trait]
impl Broker for StoreBroker {
    async fn push(&self, hints: &[Hint]) -> BrokerResult<()> {
        let types: BTreeSet<_> = hints.iter().map(|hint| hint.lane.task_type.clone()).collect();
        self.pushes.submit(types.into_iter().collect()).await
    }

    async fn pop(&self, want: Want<'_>) -> BrokerResult<Popped> {
        Ok(self.look(want.types, want.wait.min(POLL)).await)
    }

    async fn set_aside(&self, _: &[Hint]) -> BrokerResult<()> {
        Ok(())
    }

    async fn depth(&self) -> BrokerResult<u64> {
        Ok(0)
    }

    async fn is_complete(&self) -> BrokerResult<bool> {
        Ok(true)
    }

    async fn mark_complete(&self) -> BrokerResult<()> {
        Ok(())
    }

    async fn short_lanes(&self) -> BrokerResult<Vec<ShortLane>> {
        Ok(Vec::new())
    }

    async fn refill(&self, _: &Lane, _: Option<TaskId>, _: &[TaskId], _: bool) -> BrokerResult<()> {
        Ok(())
    }

    /// What was paused may go on.
    async fn set_policy(&self, _: &QueuePolicy) -> BrokerResult<()> {
        self.core.news().hear_of_all();
        self.core.waiters.wake_all();
        Ok(())
    }

    async fn publish(&self, signals: &[Signal]) -> BrokerResult<()> {
        self.publishes.submit(signals.to_vec()).await
    }

    fn subscribe(&self) -> Signals {
        self.signals.subscribe()
    }

    fn mode(&self) -> Mode {
        Mode::Store
    }
}
