//! The trait that every broker implements.

use std::time::Duration;

use async_trait::async_trait;
use taskforge_domain::{Lane, LaneLimits, QueuePolicy, TaskId, TaskType};
use tokio::sync::broadcast;

use crate::Eviction;

/// The result of a broker operation.
pub type BrokerResult<T> = Result<T, BrokerError>;

/// Why a broker operation failed. Never fatal: whoever gets it goes on with the store alone.
#[derive(Debug, Clone, thiserror::Error)]
#[error("the broker is unavailable: {0}")]
pub struct BrokerError(pub String);

/// A task that waits to be claimed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hint {
    /// The task.
    pub id: TaskId,
    /// Where it waits.
    pub lane: Lane,
}

/// What a worker asks for.
#[derive(Debug, Clone)]
pub struct Want<'a> {
    /// The types that it serves.
    pub types: &'a [TaskType],
    /// The most hints of some lanes that it can use.
    pub lanes: &'a LaneLimits,
    /// The most hints that it can use in all.
    pub max: usize,
    /// How long to wait while there is none.
    pub wait: Duration,
}

/// What a worker gets.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Popped {
    /// Tasks to claim.
    pub hints: Vec<Hint>,
    /// The store may hold more of what was asked for than the broker knows of: claim from it in its
    /// own order. An answer that says only this comes after `want.wait` or [`LOOK_PAUSE`],
    /// whichever is shorter. So a worker whose last look found as much as it could use asks again
    /// with a `wait` of zero, and does not sleep on a backlog.
    pub look_in_store: bool,
}

/// How long a broker lets a worker wait for hints when all that it can tell is to look in the
/// store. It bounds how often an idle fleet asks the store in vain, and how late a task starts of
/// which the broker does not know.
pub const LOOK_PAUSE: Duration = Duration::from_millis(100);

impl Popped {
    /// How long to wait after this first look, which found no hints.
    pub(crate) fn wait(&self, wanted: Duration) -> Duration {
        if self.look_in_store { wanted.min(LOOK_PAUSE) } else { wanted }
    }
}

/// News for every process of the fleet. A signal may get lost, so each has a slower way of being
/// noticed too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Signal {
    /// This task was cancelled while it ran; its worker is to stop it.
    Cancel(TaskId),
    /// This task reached a terminal state; whoever waits for it may look.
    Finished(TaskId),
    /// The queue policy in the store has changed.
    Policy,
    /// The registry of plugins in the store has changed.
    Plugins,
    /// The connection that brings signals was lost and is back: any may have been missed, so
    /// whoever waits for one looks for itself.
    Missed,
}

/// A subscription to signals. A slow reader that missed some gets `Lagged`, which says the same as
/// [`Signal::Missed`].
pub type Signals = broadcast::Receiver<Signal>;

/// A lane of which the broker does not know every pending task, and in which there is room for more
/// hints.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShortLane {
    /// The lane.
    pub lane: Lane,
    /// Pending tasks up to and including this one are known or were; `None`: begin at the first.
    pub after: Option<TaskId>,
    /// Hints that fit.
    pub room: usize,
}

/// Where hints come from now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// A queue inside this process.
    Local,
    /// Redis.
    Redis,
    /// The store itself, because no broker is configured.
    Store,
    /// The store itself, because the broker is away.
    StoreWhileRedisIsAway,
}

impl Mode {
    /// The name in `/readyz` and in metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Redis => "redis",
            Self::Store => "store",
            Self::StoreWhileRedisIsAway => "store_while_redis_is_away",
        }
    }
}

/// The queue of hints, as the rest of the system sees it.
///
/// # Lanes
/// Hints queue in [`Lane`]s, and a lane holds a bounded number of them, so that a backlog of
/// millions costs the store some rows and the broker nothing. A lane that was full has
/// *overflowed*: it takes no new hints, because those would overtake the tasks that it never heard
/// of. The sweeper fills such lanes from the store, in order ([`Broker::short_lanes`],
/// [`Broker::refill`]), until it finds no more.
#[async_trait]
pub trait Broker: Send + Sync + 'static {
    /// Adds hints, after the tasks were committed. A hint that is already queued is not queued
    /// twice. A full lane keeps its first hints, and one that has overflowed takes only what
    /// belongs before all that it has not heard of; it remembers where to go on.
    async fn push(&self, hints: &[Hint]) -> BrokerResult<()>;

    /// Takes hints, most urgent first; waits up to `want.wait` while there is none, and returns
    /// none after that. Cancel safe: a dropped call takes nothing, or what it took is found again
    /// by the sweeper's audit.
    async fn pop(&self, want: Want<'_>) -> BrokerResult<Popped>;

    /// Gives hints back of which a claim said that a cap is reached. They go where they were, and
    /// their lanes (a tenant's tasks of one type, in every priority) are put
    /// [aside](crate::queue::ASIDE): a broker knows no caps, so it gives such a lane a rest and
    /// then offers it again, a little at first.
    async fn set_aside(&self, hints: &[Hint]) -> BrokerResult<()>;

    /// Hints in the queue.
    async fn depth(&self) -> BrokerResult<u64>;

    /// Whether every pending task is known, or its lane knows that it is short. `false` after a
    /// start or a loss, until [`Broker::mark_complete`].
    async fn is_complete(&self) -> BrokerResult<bool>;

    /// Says that every lane of the store was refilled from its beginning since the loss.
    async fn mark_complete(&self) -> BrokerResult<()>;

    /// Lanes to refill now, the emptiest first: those that have overflowed and are less than half
    /// full.
    async fn short_lanes(&self) -> BrokerResult<Vec<ShortLane>>;

    /// Adds the tasks that follow `after` in a lane's pending tasks, in their order. `is_all`: the
    /// store had no more than these. The lane may have overflowed before or not.
    async fn refill(
        &self,
        lane: &Lane,
        after: Option<TaskId>,
        tasks: &[TaskId],
        is_all: bool,
    ) -> BrokerResult<()>;

    /// Takes over the policy: pauses and weights. Until one was said since a loss, nothing is given
    /// out. Its caps are the store's.
    async fn set_policy(&self, policy: &QueuePolicy) -> BrokerResult<()>;

    /// Sends signals to every subscriber in the fleet.
    async fn publish(&self, signals: &[Signal]) -> BrokerResult<()>;

    /// Subscribes to signals from now on.
    fn subscribe(&self) -> Signals;

    /// Where hints come from now.
    fn mode(&self) -> Mode;

    /// What an operator should know of it now, although it works or is done without: in words that
    /// any client may read.
    fn concern(&self) -> Option<String> {
        None
    }

    /// What the server that holds the queue does when its memory is full. `None`: there is none, or
    /// it was not asked yet.
    fn eviction(&self) -> Option<Eviction> {
        None
    }
}

/// A way to tell every process of the fleet something through the store: `listen` and `notify` of a
/// database. What is posted reaches whoever listens at that moment, at most once.
#[async_trait]
pub trait Bulletin: Send + Sync + 'static {
    /// Posts notices, each of at most [`MAX_NOTICE`] bytes of text.
    async fn post(&self, notices: &[String]) -> BrokerResult<()>;

    /// Hears notices from now on. `Lagged` after some were missed, also when the connection was
    /// lost in between.
    fn listen(&self) -> broadcast::Receiver<String>;
}

/// The most bytes of a notice: what PostgreSQL carries in one.
pub const MAX_NOTICE: usize = 7_900;
