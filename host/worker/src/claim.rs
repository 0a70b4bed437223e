//! Hints and claims.

mod asks;

use std::{
    collections::HashSet,
    sync::Arc,
    time::{Duration, Instant},
};

use taskforge_broker::{Broker, Hint, LOOK_PAUSE, Popped, Want, queue::ASIDE};
use taskforge_domain::{ClaimedTask, TaskId, TaskType};
use taskforge_store::{ClaimBy, ClaimRequest, Claimed, StoreError, StoreResult};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use asks::{Asks, Wanted};

use crate::{
    attempt::{self, WorkerContext},
    config::WorkerConfig,
    heartbeat::StoreBackoff,
    notifier::Notification,
    orphans,
    places::Places,
};

/// How long a worker waits before it asks again when neither broker nor store had anything and the
/// broker did not wait itself. A poll, so not often; the price of a lost broker is latency.
const POLL: Duration = Duration::from_millis(100);
/// How long a claim waits for more room while there is more to claim than that: a claim for half of
/// what a worker may hold costs the database little more than one for a single task.
const GATHER: Duration = Duration::from_millis(8);
/// How often what the store says is held is compared with what runs, for [`DOUBT`] after a claim
/// that failed. Not otherwise: the question costs the database as much as this worker has claimed
/// since the last vacuum.
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

/// Tasks that this worker now holds.
struct ClaimedBatch {
    tasks: Vec<ClaimedTask>,
    /// A claim from the store got all that it asked for.
    store_has_more: bool,
    /// A claim from the store left tasks waiting for a permit of a cap.
    store_is_at_cap: bool,
}

impl Claims {
    /// Claims tasks into free slots and starts their attempts, until `stop`.
    ///
    /// `stop` is looked at only between claims: a claim under way is finished and its tasks are
    /// started, because a committed claim that nobody runs would wait for the lease to lapse.
    pub(crate) async fn run_until(self, stop: CancellationToken) {
        let places = self.context.places.clone();
        let mut asks = Asks::default();
        let mut backoff = StoreBackoff::new();
        let mut doubt = Doubt::default();
        let mut wait = self.config.hint_wait;
        let (mut is_filled, mut is_backlog) = (false, false);
        let mut store_has_more = false;
        // How long a wait for hints may last while tasks in the store wait for a permit of a cap:
        // nobody says when there is one. Short at first, because it may be a matter of
        // milliseconds.
        let mut cap_pause = ASIDE;
        loop {
            let Some(free) = stop.run_until_cancelled(room(&places, is_backlog)).await else {
                return;
            };
            // Between two claims, so that none is under way.
            if doubt.is_due()
                && let Err(error) = orphans::hand_back(&self.context).await
            {
                tracing::debug!(%error, "held tasks were not compared");
            }
            let all = Wanted::all(self.context.live.types(), free, wait);
            let wanted = asks.next(all, &places.crowd(), is_filled);
            if wanted.types.is_empty() && !self.context.live.types().is_empty() {
                // Nothing to ask for before something ends.
                stop.run_until_cancelled(tokio::time::timeout(POLL, places.freed())).await;
                continue;
            }
            let asked = Instant::now();
            let Some(mut popped) = stop.run_until_cancelled(self.pop(&wanted)).await else {
                return;
            };
            let had_hints = !popped.hints.is_empty();
            // What the store has more of, a broker that knows nothing of it will not name.
            popped.look_in_store |= store_has_more;
            match self.claim(popped, &wanted.types, wanted.free).await {
                Ok(batch) => {
                    backoff = StoreBackoff::new();
                    // A backlog in the store is no news that anybody would send: it is gone through
                    // without waiting for any.
                    store_has_more = batch.store_has_more || (wanted.is_partial && store_has_more);
                    cap_pause = match batch.tasks.is_empty() {
                        true => (2 * cap_pause).min(LOOK_PAUSE),
                        false => ASIDE,
                    };
                    wait = match (store_has_more, batch.store_is_at_cap) {
                        (true, _) => Duration::ZERO,
                        (false, true) => cap_pause.min(self.config.hint_wait),
                        (false, false) => self.config.hint_wait,
                    };
                    // Hints that were of no use may be followed by better ones.
                    is_filled = batch.tasks.len() == wanted.free;
                    is_backlog = is_filled && !wanted.is_cut;
                    if batch.tasks.is_empty() && !had_hints {
                        let least = match batch.store_is_at_cap {
                            true => wanted.pause.min(cap_pause),
                            false => wanted.pause,
                        };
                        let pause = least.saturating_sub(asked.elapsed());
                        stop.run_until_cancelled(tokio::time::sleep(pause)).await;
                    } else {
                        self.start(batch);
                    }
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

    /// Hints, or the advice to look in the store, which also stands for a broker that does not
    /// answer.
    async fn pop(&self, wanted: &Wanted) -> Popped {
        let want = Want { types: &wanted.types, max: wanted.free, wait: wanted.wait };
        match self.context.broker.pop(want).await {
            Ok(popped) => popped,
            Err(error) => {
                tracing::debug!(%error, "claiming from the store directly");
                Popped { hints: Vec::new(), look_in_store: true }
            }
        }
    }

    async fn claim(
        &self,
        popped: Popped,
        types: &[TaskType],
        max: usize,
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
        if popped.look_in_store && batch.tasks.len() < max && !types.is_empty() {
            let room = max - batch.tasks.len();
            match self.claim_in_order(types, room).await {
                Ok(more) => {
                    batch.store_has_more = more.tasks.len() == room;
                    batch.store_is_at_cap = more.at_cap;
                    batch.tasks.extend(more.tasks);
                }
                // What was claimed by hints is held, and must be run.
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
    async fn claim_in_order(&self, types: &[TaskType], room: usize) -> StoreResult<Claimed> {
        let policy = self.context.live.catalog().overlay(self.context.store.policy().await?);
        self.claim_by(ClaimBy::Order {
            types,
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
    fn give_back(&self, hints: Vec<Hint>) {
        for hint in hints {
            self.context.notifier.tell(Notification::Waits(hint));
        }
    }

    fn start(&self, batch: ClaimedBatch) {
        for task in batch.tasks {
            // Entered here and not in the attempt's own time: the next comparison must find it.
            let guard = self.context.running.enter(task.id, task.run_lease);
            let slot = self.context.places.hold(&task.tenant, &task.task_type);
            self.attempts
                .spawn(attempt::run(self.context.clone(), attempt::Held { task, guard, slot }));
        }
    }
}

/// Gives back those hints whose tasks have to wait for a permit of a cap. Before the next ones are
/// asked for, which would be of the same lanes.
async fn put_aside(broker: &dyn Broker, mut hints: Vec<Hint>, over_cap: &[TaskId]) {
    if over_cap.is_empty() {
        return;
    }
    let over_cap: HashSet<_> = over_cap.iter().collect();
    hints.retain(|hint| over_cap.contains(&hint.id));
    if let Err(error) = broker.set_aside(&hints).await {
        tracing::debug!(%error, "hints were not given back");
    }
}

/// Waits until tasks can be taken; says how many.
async fn room(places: &Places, is_backlog: bool) -> usize {
    let free = places.free().await;
    if is_backlog && free < places.limit() / 2 {
        tokio::time::sleep(GATHER).await;
    }
    places.free_now().max(1)
}
