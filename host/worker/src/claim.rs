//! Hints and claims.

use std::{
    collections::HashSet,
    sync::Arc,
    time::{Duration, Instant},
};

use taskforge_broker::{Broker, LOOK_PAUSE, Popped, QueuedTask, Want, queue::ASIDE};
use taskforge_domain::{ClaimedTask, LaneLimits, TaskId, TaskType};
use taskforge_store::{ClaimBy, ClaimRequest, Claimed, StoreError, StoreResult};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    admission::Fetch,
    attempt::{self, WorkerContext},
    config::WorkerConfig,
    heartbeat::StoreBackoff,
    notifier::Notification,
    orphans,
};

/// How long a worker waits before it looks again while the broker fails and the store has nothing.
/// A poll, so not often; the price of a lost broker is latency.
const POLL: Duration = Duration::from_millis(100);
/// How often the tasks that the store says run here are compared with those that do, for [`DOUBT`]
/// after a claim that failed. Not otherwise: the question costs the database as much as this worker
/// has claimed since the last vacuum.
const COMPARE: Duration = Duration::from_secs(5);
/// How long after its failure a claim may yet be committed. Longer than the database works on a
/// statement.
const DOUBT: Duration = Duration::from_secs(60);

/// The claiming side of a worker.
pub(crate) struct Claims {
    pub(crate) context: Arc<WorkerContext>,
    pub(crate) config: WorkerConfig,
    pub(crate) attempts: TaskTracker,
}

/// Whether a claim may have been committed that nobody knows of.
#[derive(Default)]
struct Doubt {
    until: Option<Instant>,
    compared: Option<Instant>,
}

impl Doubt {
    fn begin() -> Self {
        Self { until: Instant::now().checked_add(DOUBT), compared: None }
    }

    /// Whether it is time to compare; if so, it is done now.
    fn is_due(&mut self) -> bool {
        let is_open = self.until.is_some_and(|until| Instant::now() < until);
        let is_due = is_open && self.compared.is_none_or(|last| last.elapsed() >= COMPARE);
        if is_due {
            self.compared = Some(Instant::now());
        }
        is_due
    }
}

/// Tasks that this worker has just claimed.
struct ClaimedBatch {
    tasks: Vec<ClaimedTask>,
    /// A claim from the store got all that it asked for.
    store_has_more: bool,
    /// A claim from the store left tasks waiting for a permit of a cap.
    store_is_at_cap: bool,
}

/// What the last claim says about the next one.
struct Last {
    /// It got all that it asked for.
    is_backlog: bool,
    /// A claim from the store did. A backlog there is nothing that a broker would tell of: it is
    /// gone through without waiting for hints.
    store_has_more: bool,
    /// Tasks in the store wait for a permit of a cap.
    is_at_cap: bool,
    /// How long a wait for hints may last while something waits for a permit, of a cap or here:
    /// nobody says when there is one. Short at first, because it may be a matter of milliseconds.
    recheck: Duration,
}

impl Default for Last {
    fn default() -> Self {
        Self { is_backlog: false, store_has_more: false, is_at_cap: false, recheck: ASIDE }
    }
}

impl Last {
    fn learn(&mut self, batch: &ClaimedBatch, fetch: &Fetch) {
        self.is_backlog = batch.tasks.len() == fetch.max;
        self.store_has_more = batch.store_has_more;
        self.is_at_cap = batch.store_is_at_cap;
        self.recheck = match batch.tasks.is_empty() {
            true => (2 * self.recheck).min(LOOK_PAUSE),
            false => ASIDE,
        };
    }

    /// How long the broker may wait for hints.
    fn wait(&self, config: &WorkerConfig, fetch: &Fetch) -> Duration {
        if self.store_has_more {
            Duration::ZERO
        } else if self.is_at_cap || fetch.is_limited() {
            self.recheck.min(config.hint_wait)
        } else {
            config.hint_wait
        }
    }
}

impl Claims {
    /// Claims tasks as far as there is room for them and starts their attempts, until `stop`.
    ///
    /// `stop` is looked at only between claims: a claim under way is finished and its tasks are
    /// started, because a committed claim that nobody runs would wait for the lease to lapse.
    pub(crate) async fn run_until(self, stop: CancellationToken) {
        let mut backoff = StoreBackoff::new();
        let mut doubt = Doubt::default();
        let mut last = Last::default();
        loop {
            let fetch = self.context.admission.fetch(last.is_backlog);
            let Some(fetch) = stop.run_until_cancelled(fetch).await else {
                return;
            };
            // Between two claims, so that none is under way.
            if doubt.is_due()
                && let Err(error) = orphans::hand_back(&self.context).await
            {
                tracing::debug!(%error, "tasks in flight were not compared");
            }
            let types = self.types(&fetch);
            let popped = self.pop(&types, &fetch, last.wait(&self.config, &fetch));
            let Some(popped) = stop.run_until_cancelled(popped).await else {
                return;
            };
            let is_away = popped.is_none();
            // Without a broker the store is looked into.
            let mut popped = popped.unwrap_or(Popped { hints: Vec::new(), look_in_store: true });
            // What the store has more of, a broker that knows nothing of it will not name.
            popped.look_in_store |= last.store_has_more;
            match self.claim(popped, &types, &fetch).await {
                Ok(batch) => {
                    backoff = StoreBackoff::new();
                    last.learn(&batch, &fetch);
                    // A broker that answers has waited by itself.
                    if batch.tasks.is_empty() && is_away {
                        stop.run_until_cancelled(tokio::time::sleep(POLL)).await;
                    }
                    self.start(batch);
                }
                // The hints have gone back to the broker, and the heartbeat is about to hear of it
                // too.
                Err(StoreError::Lapsed) => return,
                Err(error) => {
                    tracing::warn!(%error, worker.id = %self.context.worker, "tasks were not claimed");
                    // What that claim may have got nevertheless is found the next time around.
                    doubt = Doubt::begin();
                    stop.run_until_cancelled(backoff.wait()).await;
                }
            }
        }
    }

    /// The types to ask for.
    fn types(&self, fetch: &Fetch) -> Arc<[TaskType]> {
        let types = self.context.live.types();
        if fetch.not_ready.is_empty() {
            return types;
        }
        types.iter().filter(|name| !fetch.not_ready.contains(*name)).cloned().collect()
    }

    /// Hints, or the advice to look in the store. `None`: the broker does not answer.
    async fn pop(&self, types: &[TaskType], fetch: &Fetch, wait: Duration) -> Option<Popped> {
        let want = Want { types, lanes: &fetch.lanes, max: fetch.max, wait };
        match self.context.broker.pop(want).await {
            Ok(popped) => Some(popped),
            Err(error) => {
                tracing::debug!(%error, "claiming from the store directly");
                None
            }
        }
    }

    async fn claim(
        &self,
        popped: Popped,
        types: &[TaskType],
        fetch: &Fetch,
    ) -> StoreResult<ClaimedBatch> {
        let mut batch =
            ClaimedBatch { tasks: Vec::new(), store_has_more: false, store_is_at_cap: false };
        if !popped.hints.is_empty() {
            let ids: Vec<_> = popped.hints.iter().map(|hint| hint.id).collect();
            match self.claim_by(ClaimBy::Ids(&ids)).await {
                Ok(claimed) => {
                    batch.tasks = claimed.tasks;
                    put_aside(&*self.context.broker, popped.hints, &claimed.over_cap).await;
                }
                Err(error) => {
                    self.give_back(popped.hints);
                    return Err(error);
                }
            }
        }
        if popped.look_in_store && batch.tasks.len() < fetch.max && !types.is_empty() {
            let room = fetch.max - batch.tasks.len();
            let mut lanes = fetch.lanes.clone();
            for task in &batch.tasks {
                lanes.take(&task.task_type, &task.tenant);
            }
            match self.claim_in_order(types, &lanes, room).await {
                Ok(more) => {
                    batch.store_has_more = more.tasks.len() == room;
                    batch.store_is_at_cap = more.at_cap;
                    batch.tasks.extend(more.tasks);
                }
                // What was claimed by hints must be run.
                Err(error) if !batch.tasks.is_empty() => {
                    tracing::debug!(%error, "nothing more was claimed");
                }
                Err(error) => return Err(error),
            }
        }
        Ok(batch)
    }

    /// Claims what the store has. The policy is read each time: who has paused a type relies on it
    /// from then on.
    async fn claim_in_order(
        &self,
        types: &[TaskType],
        lanes: &LaneLimits,
        room: usize,
    ) -> StoreResult<Claimed> {
        let policy = self.context.live.catalog().overlay(self.context.store.policy().await?);
        self.claim_by(ClaimBy::Order {
            types,
            lanes,
            limit: u32::try_from(room).unwrap_or(u32::MAX),
            policy: &policy,
        })
        .await
    }

    async fn claim_by(&self, by: ClaimBy<'_>) -> StoreResult<Claimed> {
        self.context
            .store
            .claim(ClaimRequest { worker: self.context.worker, by, now: self.context.now() })
            .await
    }

    /// Hints were taken but not used: others may have more luck with them. If this fails too, the
    /// sweeper's audit finds the tasks.
    fn give_back(&self, hints: Vec<QueuedTask>) {
        for hint in hints {
            self.context.notifier.tell(Notification::Waits(hint));
        }
    }

    fn start(&self, batch: ClaimedBatch) {
        for task in batch.tasks {
            // Entered here and not in the attempt's own time: the next comparison must find it.
            let guard = self.context.running.enter(task.id, task.run_lease);
            let flight = self.context.admission.claimed(&task);
            self.attempts.spawn(attempt::run(self.context.clone(), task, guard, flight));
        }
    }
}

/// Gives back those hints whose tasks have to wait for a permit of a cap. Before the next ones are
/// asked for, which would be of the same lanes.
async fn put_aside(broker: &dyn Broker, mut hints: Vec<QueuedTask>, over_cap: &[TaskId]) {
    if over_cap.is_empty() {
        return;
    }
    let over_cap: HashSet<_> = over_cap.iter().collect();
    hints.retain(|hint| over_cap.contains(&hint.id));
    if let Err(error) = broker.set_aside(&hints).await {
        tracing::debug!(%error, "hints were not given back");
    }
}
