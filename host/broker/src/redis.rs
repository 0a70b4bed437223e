//! The broker of a fleet: queues in Redis or Valkey.
//!
//! | file | the concept |
//! |---|---|
//! | `config` | where Redis is |
//! | `scripts`, `*.lua` | the rules of [`queue`](crate::queue), run by the server |
//! | `connection` | the connection for commands, and whether it is up |
//! | `eviction` | what the server does with keys when its memory is full |
//! | `subscriber` | the subscription to wake-ups and signals |
//! | `wire` | signals as bytes |

mod config;
mod connection;
mod eviction;
mod scripts;
mod subscriber;
mod wire;

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use taskforge_domain::{Lane, QueuePolicy, TaskId};
use tokio::{
    sync::{broadcast, oneshot},
    task::JoinSet,
    time::Instant,
};

pub use self::{config::RedisConfig, eviction::Eviction};
use self::{
    connection::{Carries, Connection, State},
    scripts::Scripts,
    subscriber::Subscriber,
};
use crate::{
    Broker, BrokerError, BrokerResult, LOOK_PAUSE, Mode, Popped, QueuedTask, ShortLane, Signal,
    Signals, Want, batch::Batcher, local::SIGNALS, waiters::Waiters,
};

/// How often a waiting pop looks without a wake-up: a wake-up may get lost, and so may all that
/// Redis holds.
const RELOOK: Duration = Duration::from_secs(1);

/// The answer of `completeness.lua` when nothing is missing.
const COMPLETE: &str = "complete";

/// Queues in Redis, the same for every process that uses the same server and prefix.
///
/// # Commands
/// Every operation is one script, so it is atomic. Pushes and signals of concurrent callers share
/// commands.
///
/// # When Redis is away
/// After the first failure the broker is [away](Self::is_away), and calls fail at once until Redis
/// is back. A push that failed, or a pop whose answer did not arrive, may have lost hints. Then the
/// broker is not complete when it is back, and the sweeper rebuilds the queues.
#[derive(Debug)]
pub struct RedisBroker {
    core: Arc<Core>,
    pushes: Batcher<QueuedTask>,
    publishes: Batcher<Signal>,
    /// Ends with the broker.
    _tasks: JoinSet<()>,
}

#[derive(Debug)]
struct Core {
    scripts: Scripts,
    capacity: usize,
    connection: Connection,
    subscriber: Subscriber,
    waiters: Waiters,
    signals: broadcast::Sender<Signal>,
    /// The rebuild that was due when this process first saw a loss.
    rebuild: Mutex<Option<String>>,
}

impl RedisBroker {
    /// Connects. If Redis is away the broker is too, until Redis comes.
    ///
    /// # Errors
    /// When the URL or the prefix is not valid, or the queues are another fleet's.
    pub async fn connect(config: &RedisConfig) -> BrokerResult<Self> {
        let scripts = Scripts::new(config);
        let core = Arc::new(Core {
            connection: Connection::new(config)?,
            subscriber: Subscriber::new(scripts.key("wake"), scripts.key("signals")),
            scripts,
            capacity: config.lane_capacity.max(1),
            waiters: Waiters::default(),
            signals: broadcast::Sender::new(SIGNALS),
            rebuild: Mutex::default(),
        });
        let mut tasks = JoinSet::new();
        let (mut state, mut subscribed) = (core.connection.watch(), core.subscriber.watch());
        let keeper = Arc::clone(&core);
        tasks.spawn(async move { keeper.connection.keep(&keeper.scripts).await });
        let listener = Arc::clone(&core);
        tasks.spawn(async move {
            let Core { subscriber, connection, waiters, signals, .. } = &*listener;
            subscriber.listen(connection, waiters, signals).await;
        });
        let broker = Self {
            pushes: Batcher::spawn(
                &mut tasks,
                core.sender(|core, hints| async move { core.push(&hints).await }),
            ),
            publishes: Batcher::spawn(
                &mut tasks,
                core.sender(|core, signals| async move { core.publish(&signals).await }),
            ),
            core,
            _tasks: tasks,
        };
        let both = async {
            let state = state.wait_for(|state| *state != State::Away).await;
            if state.is_ok_and(|state| *state == State::Up) {
                subscribed.wait_for(|is_subscribed| *is_subscribed).await.ok();
            }
        };
        // A broker that is not up within this time goes on trying.
        tokio::time::timeout(config.timeout, both).await.ok();
        match broker.core.connection.state() {
            State::OtherFleet => Err(broker.core.connection.why_not()),
            State::Up | State::Away => Ok(broker),
        }
    }

    /// Deletes all that this fleet has in Redis. It scans the names of all keys of the server, so
    /// it is for fleets that are thrown away.
    ///
    /// # Errors
    /// When Redis is away.
    pub async fn erase(&self) -> BrokerResult<()> {
        self.core.connection.call(&self.core.scripts.erase(), Carries::Nothing).await
    }

    /// The processor time that the server has used since it started.
    ///
    /// # Errors
    /// When Redis is away.
    pub async fn processor_time(&self) -> BrokerResult<Duration> {
        let info: String = self.core.connection.command(redis::cmd("INFO").arg("cpu")).await?;
        let times = info.lines().filter_map(|line| {
            let (name, value) = line.split_once(':')?;
            let is_own = matches!(name, "used_cpu_sys" | "used_cpu_user");
            value.trim().parse::<f64>().ok().filter(|_| is_own)
        });
        Ok(Duration::from_secs_f64(times.sum::<f64>().max(0.0)))
    }

    /// Whether calls fail at once now.
    #[must_use]
    pub fn is_away(&self) -> bool {
        self.core.connection.state() != State::Up
    }
}

impl Core {
    /// A function for a [`Batcher`].
    fn sender<T, F>(
        self: &Arc<Self>,
        send: fn(Arc<Self>, Vec<T>) -> F,
    ) -> impl Fn(Vec<T>) -> F + Send + 'static
    where
        T: 'static,
        F: 'static,
    {
        let core = Arc::clone(self);
        move |items| send(Arc::clone(&core), items)
    }

    async fn push(&self, hints: &[QueuedTask]) -> BrokerResult<()> {
        self.connection.call(&self.scripts.push(hints), Carries::Hints).await
    }

    async fn publish(&self, signals: &[Signal]) -> BrokerResult<()> {
        let mut publish = redis::cmd("PUBLISH");
        publish.arg(self.scripts.key("signals")).arg(wire::pack(signals));
        self.connection.command(&publish).await
    }

    /// Pops in a task of its own, because a call that is dropped while the server takes hints for
    /// it would lose them. Also answers when the next lane comes back from aside.
    async fn look(self: &Arc<Self>, want: &Want<'_>) -> BrokerResult<(Popped, Option<Duration>)> {
        let (answer, answered) = oneshot::channel();
        let (core, types) = (Arc::clone(self), want.types.to_vec());
        let (lanes, max, wait) = (want.lanes.clone(), want.max, want.wait);
        tokio::spawn(async move {
            let script = core.scripts.pop(&Want { types: &types, lanes: &lanes, max, wait });
            let popped =
                core.connection.call(&script, Carries::Answers).await.and_then(scripts::popped);
            let popped = popped.map(|(popped, back)| (Undelivered { core, popped }, back));
            answer.send(popped).ok();
        });
        let popped = answered.await.map_err(|_| BrokerError("the process is ending".into()))?;
        popped.map(|(undelivered, back)| (undelivered.deliver(), back))
    }

    async fn completeness(&self, ask: &str, rebuild: &str) -> BrokerResult<String> {
        self.connection.call(&self.scripts.completeness(ask, rebuild), Carries::Nothing).await
    }
}

/// Hints on their way to the caller of a pop; pushed again if it is gone.
struct Undelivered {
    core: Arc<Core>,
    popped: Popped,
}

impl Undelivered {
    fn deliver(mut self) -> Popped {
        std::mem::take(&mut self.popped)
    }
}

impl Drop for Undelivered {
    /// Without a runtime the process is ending, and the sweeper finds the tasks.
    fn drop(&mut self) {
        let hints = std::mem::take(&mut self.popped.hints);
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            return;
        };
        if hints.is_empty() {
            return;
        }
        let core = Arc::clone(&self.core);
        runtime.spawn(async move {
            if let Err(error) = core.push(&hints).await {
                tracing::debug!(%error, "hints of a dropped pop could not be pushed again");
            }
        });
    }
}

#[async_trait]
impl Broker for RedisBroker {
    async fn push(&self, hints: &[QueuedTask]) -> BrokerResult<()> {
        self.pushes.submit(hints.to_vec()).await
    }

    async fn pop(&self, want: Want<'_>) -> BrokerResult<Popped> {
        let core = &self.core;
        let begun = Instant::now();
        let (popped, _) = core.look(&want).await?;
        if !popped.hints.is_empty() || want.wait.is_zero() || want.max == 0 {
            return Ok(popped);
        }
        // The second look is for hints that came before this waiter could be woken.
        let waiting = core.waiters.wait_for(want.types);
        loop {
            let (popped, back) = core.look(&want).await?;
            let left = popped.wait(want.wait).saturating_sub(begun.elapsed());
            if !popped.hints.is_empty() || left.is_zero() {
                return Ok(popped);
            }
            let relook = if core.subscriber.is_subscribed() { RELOOK } else { LOOK_PAUSE };
            let pause = left.min(relook).min(back.unwrap_or(relook));
            tokio::time::timeout(pause, waiting.woken()).await.ok();
        }
    }

    async fn set_aside(&self, hints: &[QueuedTask]) -> BrokerResult<()> {
        let script = self.core.scripts.set_aside(hints);
        self.core.connection.call(&script, Carries::Hints).await
    }

    async fn depth(&self) -> BrokerResult<u64> {
        let mut get = redis::cmd("GET");
        get.arg(self.core.scripts.key("depth"));
        let depth: Option<u64> = self.core.connection.command(&get).await?;
        Ok(depth.unwrap_or(0))
    }

    async fn is_complete(&self) -> BrokerResult<bool> {
        let fresh = TaskId::generate().to_string();
        let answer = self.core.completeness("ask", &fresh).await?;
        let is_complete = answer == COMPLETE;
        let mut rebuild = self.core.rebuild.lock().unwrap_or_else(PoisonError::into_inner);
        if is_complete {
            *rebuild = None;
        } else if rebuild.is_none() {
            *rebuild = Some(answer);
        }
        Ok(is_complete)
    }

    async fn mark_complete(&self) -> BrokerResult<()> {
        let known = {
            let mut rebuild = self.core.rebuild.lock().unwrap_or_else(PoisonError::into_inner);
            rebuild.take()
        };
        let rebuild = match known {
            Some(rebuild) => rebuild,
            None => {
                let fresh = TaskId::generate().to_string();
                self.core.completeness("ask", &fresh).await?
            }
        };
        if rebuild != COMPLETE && self.core.completeness("mark", &rebuild).await?.is_empty() {
            tracing::info!("hints were lost again while the queues were rebuilt");
        }
        Ok(())
    }

    async fn short_lanes(&self) -> BrokerResult<Vec<ShortLane>> {
        let script = self.core.scripts.short_lanes();
        let lanes = self.core.connection.call(&script, Carries::Nothing).await?;
        scripts::short_lanes(&lanes, self.core.capacity)
    }

    async fn refill(
        &self,
        lane: &Lane,
        after: Option<TaskId>,
        tasks: &[TaskId],
        is_all: bool,
    ) -> BrokerResult<()> {
        let script = self.core.scripts.refill(lane, after, tasks, is_all);
        self.core.connection.call(&script, Carries::Hints).await
    }

    async fn set_policy(&self, policy: &QueuePolicy) -> BrokerResult<()> {
        let script = self.core.scripts.set_policy(policy);
        self.core.connection.call(&script, Carries::Nothing).await
    }

    async fn publish(&self, signals: &[Signal]) -> BrokerResult<()> {
        self.publishes.submit(signals.to_vec()).await
    }

    fn subscribe(&self) -> Signals {
        self.core.signals.subscribe()
    }

    fn mode(&self) -> Mode {
        if self.is_away() { Mode::StoreWhileRedisIsAway } else { Mode::Redis }
    }

    fn concern(&self) -> Option<String> {
        match self.core.connection.state() {
            State::Up => self.eviction().and_then(|eviction| eviction.concern()),
            // The mode says so.
            State::Away => None,
            State::OtherFleet => Some(
                "another fleet uses this Redis with the same prefix; \
                 tasks are claimed from the store itself"
                    .to_owned(),
            ),
        }
    }

    fn eviction(&self) -> Option<Eviction> {
        self.core.connection.eviction()
    }
}
