//! The trait that every broker implements.

use std::time::Duration;

use async_trait::async_trait;
use taskforge_domain::{Lane, LaneLimits, QueuePolicy, QueuedTask, TaskId, TaskType};
use tokio::sync::broadcast;
use uuid::Uuid;

use crate::Eviction;

/// The result of a broker operation.
pub type BrokerResult<T> = Result<T, BrokerError>;

/// Why a broker operation failed. Never fatal: the caller goes on with the store alone.
#[derive(Debug, Clone, thiserror::Error)]
#[error("the broker is unavailable: {0}")]
pub struct BrokerError(pub String);

/// A worker's request for hints.
#[derive(Debug, Clone)]
pub struct Want<'a> {
    /// The types that the worker serves.
    pub types: &'a [TaskType],
    /// The most hints of some lanes that the worker can use.
    pub lanes: &'a LaneLimits,
    /// The most hints that the worker can use in all.
    pub max: usize,
    /// How long to wait while there are none.
    pub wait: Duration,
}

/// The answer to a [`Want`].
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Popped {
    /// Tasks to claim.
    pub hints: Vec<QueuedTask>,
    /// The store may hold tasks of these types that the broker does not know: claim from the store,
    /// in its own order. An answer without hints that says this comes after `want.wait` or
    /// [`LOOK_PAUSE`], whichever is shorter. So a worker whose last claim from the store was full
    /// asks again with a `wait` of zero, or it would sleep on a backlog.
    pub look_in_store: bool,
}

/// How long a pop waits for hints when it can only tell the worker to look in the store. It bounds
/// how often an idle fleet queries the store in vain, and how late a task starts that the broker
/// does not know.
pub const LOOK_PAUSE: Duration = Duration::from_millis(100);

impl Popped {
    /// How long a pop of this `wait` goes on waiting after it found no hints at first.
    pub(crate) fn wait(&self, wait: Duration) -> Duration {
        if self.look_in_store { wait.min(LOOK_PAUSE) } else { wait }
    }
}

/// A message to every process of the fleet. A signal may get lost, so each change that one
/// announces is found in a slower way too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Signal {
    /// This task was cancelled while it ran; its worker stops it.
    Cancel(TaskId),
    /// This task reached a terminal state; whoever waits for it reads it now.
    Finished(TaskId),
    /// The queue policy in the store has changed.
    Policy,
    /// The registry of plugins in the store has changed.
    Plugins,
    /// The subscription was interrupted and signals may have been missed, so whoever waits for one
    /// looks in the store.
    Missed,
}

impl Signal {
    /// A letter for the kind, and the task's id; nil where there is no task.
    pub(crate) const fn parts(&self) -> (u8, Uuid) {
        match self {
            Self::Cancel(id) => (b'c', *id.as_uuid()),
            Self::Finished(id) => (b'f', *id.as_uuid()),
            Self::Policy => (b'p', Uuid::nil()),
            Self::Plugins => (b'g', Uuid::nil()),
            Self::Missed => (b'm', Uuid::nil()),
        }
    }

    /// The signal of these parts. `None`: a later version may have added its kind.
    pub(crate) fn of_parts(kind: u8, id: Uuid) -> Option<Self> {
        match kind {
            b'c' => Some(Self::Cancel(TaskId::from_uuid(id))),
            b'f' => Some(Self::Finished(TaskId::from_uuid(id))),
            b'p' => Some(Self::Policy),
            b'g' => Some(Self::Plugins),
            b'm' => Some(Self::Missed),
            _ => None,
        }
    }
}

/// A subscription to signals. A slow reader that missed some gets `Lagged`, which means the same
/// as [`Signal::Missed`].
pub type Signals = broadcast::Receiver<Signal>;

/// A lane of which the broker does not know every pending task, and which has room for more hints.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShortLane {
    /// The lane.
    pub lane: Lane,
    /// The last pending task that is known or was; `None`: begin with the first.
    pub after: Option<TaskId>,
    /// How many more hints fit.
    pub room: usize,
}

/// Where hints come from.
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
/// Hints queue in [`Lane`]s. A lane holds a bounded number of hints, so the rest of a backlog of
/// millions is only in the store. A lane that was full has *overflowed*: it takes no new hints,
/// because those would overtake the tasks that it does not know. The sweeper fills such lanes from
/// the store, in order ([`Broker::short_lanes`], [`Broker::refill`]), until it finds no more.
#[async_trait]
pub trait Broker: Send + Sync + 'static {
    /// Adds hints, after the tasks were committed. A hint that is already queued is not queued
    /// twice. A full lane keeps its first hints. A lane that has overflowed takes only hints that
    /// belong before every task that it does not know, and remembers where a refill goes on.
    async fn push(&self, hints: &[QueuedTask]) -> BrokerResult<()>;

    /// Takes hints, most urgent first; waits up to `want.wait` while there are none. Cancel safe: a
    /// dropped call takes nothing, or the sweeper's audit finds again what it took.
    async fn pop(&self, want: Want<'_>) -> BrokerResult<Popped>;

    /// Returns hints whose claim found their cap reached. They go back to their positions, and
    /// their lanes (in every priority) are put [aside](crate::queue::ASIDE): a broker knows no
    /// caps, so it offers nothing of such a lane for a while, and then a little at first.
    async fn set_aside(&self, hints: &[QueuedTask]) -> BrokerResult<()>;

    /// How many hints are queued.
    async fn depth(&self) -> BrokerResult<u64>;

    /// Whether every pending task is queued, or its lane known to be short. `false` after a start
    /// or a loss, until [`Broker::mark_complete`].
    async fn is_complete(&self) -> BrokerResult<bool>;

    /// Says that every lane was refilled from its beginning since the loss.
    async fn mark_complete(&self) -> BrokerResult<()>;

    /// Lanes that have overflowed and are less than half full, the emptiest first.
    async fn short_lanes(&self) -> BrokerResult<Vec<ShortLane>>;

    /// Adds the pending tasks of a lane that follow `after`, in order. `is_all`: the store had no
    /// more than these. The lane need not have overflowed.
    async fn refill(
        &self,
        lane: &Lane,
        after: Option<TaskId>,
        tasks: &[TaskId],
        is_all: bool,
    ) -> BrokerResult<()>;

    /// Sets the pauses and weights. After a loss a broker offers nothing until it has them. Caps
    /// are left to the claim.
    async fn set_policy(&self, policy: &QueuePolicy) -> BrokerResult<()>;

    /// Sends signals to every subscriber in the fleet.
    async fn publish(&self, signals: &[Signal]) -> BrokerResult<()>;

    /// Subscribes to signals from now on.
    fn subscribe(&self) -> Signals;

    /// Where hints come from now.
    fn mode(&self) -> Mode;

    /// What an operator should know of a broker that works, or that the fleet works without: in
    /// words that any client may read.
    fn concern(&self) -> Option<String> {
        None
    }

    /// What the server of the queue does when its memory is full. `None`: there is no server, or it
    /// has not been asked yet.
    fn eviction(&self) -> Option<Eviction> {
        None
    }
}

/// Messages between the processes of a fleet through the store: `listen` and `notify` of a
/// database. A notice reaches those who listen at that moment, at most once.
#[async_trait]
pub trait Bulletin: Send + Sync + 'static {
    /// Posts notices, each of at most [`MAX_NOTICE`] bytes of text.
    async fn post(&self, notices: &[String]) -> BrokerResult<()>;

    /// Receives notices from now on. `Lagged` says that some were missed, also when the connection
    /// was lost in between.
    fn listen(&self) -> broadcast::Receiver<String>;
}

/// The most bytes of a notice: what PostgreSQL carries in one.
pub const MAX_NOTICE: usize = 7_900;
