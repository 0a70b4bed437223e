//! The broker of a fleet without Redis: workers claim from the store itself.

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
    Broker, BrokerResult, Bulletin, Mode, Popped, QueuedTask, ShortLane, Signal, Signals, Want,
    batch::Batcher,
    local::SIGNALS,
    notice::{self, Notice},
    queue::MAX_COUNTERS,
    waiters::Waiters,
};

/// How often a worker looks in the store without a notice: a notice reaches only those who listen
/// at that moment.
const POLL: Duration = Duration::from_millis(500);

/// Types whose last notice is remembered. A fleet has some hundreds.
const MAX_TYPES: usize = 4_096;

/// Queues no hints. A push posts a notice that there are tasks, and a pop says when to look in the
/// store. Workers claim in the store's own order, so its rules of priority and fairness hold.
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
    notices: Mutex<Notices>,
}

/// The notices that came, and which workers have looked since: a worker that is busy when a notice
/// comes must look afterwards.
#[derive(Debug, Default)]
struct Notices {
    /// Counts notices.
    last: u64,
    /// The last one that concerned all types.
    of_all: u64,
    of_type: HashMap<String, u64>,
    /// The last one when workers of these types were sent to the store.
    looked: HashMap<Vec<TaskType>, u64>,
}

impl StoreBroker {
    /// Listens from now on.
    #[must_use]
    pub fn new(bulletin: Arc<dyn Bulletin>) -> Self {
        Self::with(bulletin, broadcast::Sender::new(SIGNALS))
    }

    /// A broker that sends its signals through this channel.
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

    /// Waits for a notice that workers of these types have not acted on. Cancel safe.
    pub(crate) async fn notified(&self, types: &[TaskType]) {
        let waiting = self.core.waiters.wait_for(types);
        if !self.core.notices().take(types) {
            waiting.woken().await;
            self.core.notices().take(types);
        }
    }

    /// Waits for such a notice, but not longer than this.
    pub(crate) async fn look(&self, types: &[TaskType], wait: Duration) -> Popped {
        if tokio::time::timeout(wait, self.notified(types)).await.is_err() {
            self.core.notices().take(types);
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
                core.notices().add(&types);
                core.waiters.wake(&types.iter().map(String::as_str).collect::<Vec<_>>());
            }
            Ok(Notice::Tell(told)) => {
                for signal in told {
                    // Fails without subscribers, which does not matter.
                    signals.send(signal).ok();
                }
            }
            Ok(Notice::Unknown) => {}
            Ok(Notice::Missed) | Err(RecvError::Lagged(_)) => {
                core.notices().add_for_all();
                core.waiters.wake_all();
                signals.send(Signal::Missed).ok();
            }
            Err(RecvError::Closed) => return,
        }
    }
}

impl Core {
    /// Never held across a wait.
    fn notices(&self) -> MutexGuard<'_, Notices> {
        self.notices.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Notices {
    fn add(&mut self, types: &[String]) {
        self.last += 1;
        if self.of_type.len() + types.len() > MAX_TYPES {
            self.of_type.clear();
            self.of_all = self.last;
        }
        for name in types {
            self.of_type.insert(name.clone(), self.last);
        }
    }

    fn add_for_all(&mut self) {
        self.last += 1;
        self.of_all = self.last;
    }

    /// Whether there is a new notice for workers of these types. They are sent to the store now, so
    /// the notices until here are old from here on.
    fn take(&mut self, types: &[TaskType]) -> bool {
        let newest = types
            .iter()
            .filter_map(|name| self.of_type.get(name.as_str()).copied())
            .max()
            .unwrap_or(0)
            .max(self.of_all);
        if let Some(looked) = self.looked.get_mut(types) {
            let is_new = newest > *looked;
            *looked = self.last;
            return is_new;
        }
        if self.looked.len() >= MAX_COUNTERS {
            self.looked.clear();
        }
        self.looked.insert(types.to_vec(), self.last);
        // What there was before the first look is unknown.
        true
    }
}

#[async_trait]
impl Broker for StoreBroker {
    async fn push(&self, hints: &[QueuedTask]) -> BrokerResult<()> {
        let types: BTreeSet<_> = hints.iter().map(|hint| hint.lane.task_type.clone()).collect();
        self.pushes.submit(types.into_iter().collect()).await
    }

    async fn pop(&self, want: Want<'_>) -> BrokerResult<Popped> {
        Ok(self.look(want.types, want.wait.min(POLL)).await)
    }

    async fn set_aside(&self, _: &[QueuedTask]) -> BrokerResult<()> {
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

    /// A pause may have ended, so everybody looks.
    async fn set_policy(&self, _: &QueuePolicy) -> BrokerResult<()> {
        self.core.notices().add_for_all();
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
