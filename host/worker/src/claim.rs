//! Hints and claims.

mod asks;

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use taskforge_broker::{Hint, Popped, Taken, Want};
use taskforge_domain::{ClaimedTask, TaskId, TaskState, TaskType};
use taskforge_store::{ClaimBy, ClaimRequest, StoreError, StoreResult};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use asks::{Asks, Wanted};

use crate::{
    attempt::{self, Bench},
    config::WorkerConfig,
    heartbeat::StoreBackoff,
    orphans,
    places::Places,
    teller::News,
};

/// How long a worker waits before it asks again when neither broker nor store had anything and the broker did not wait itself. A poll, so
/// not often; the price of a lost broker is latency.
const POLL: Duration = Duration::from_millis(100);
/// How long a claim waits for more room while there is more to claim than that: a claim for half of what a worker may hold costs the
/// database little more than one for a single task.
const GATHER: Duration = Duration::from_millis(8);
/// How often what the store says is held is compared with what runs, for [`DOUBT`] after a claim that failed. Not otherwise: the question
/// costs the database as much as this worker has claimed since the last vacuum.
const COMPARE: Duration = Duration::from_secs(5);
/// How long after its failure a claim may yet be committed. Longer than the database works on a statement.
const DOUBT: Duration = Duration::from_secs(60);

/// The claiming side of a worker.
pub(crate) struct Claims {
    pub(crate) bench: Arc<Bench>,
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
        Self {
            until: Instant::now().checked_add(DOUBT),
            compared: None,
        }
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
struct Haul {
    tasks: Vec<ClaimedTask>,
    /// Those of them that take up room under a cap in the broker.
    counted: HashMap<TaskId, Hint>,
    /// A claim from the store got all that it asked for.
    store_has_more: bool,
}

impl Claims {
    /// Claims tasks into free slots and starts their attempts, until `stop`.
    ///
    /// `stop` is looked at only between claims: a claim under way is finished and its tasks are started, because a committed claim that
    /// nobody runs would wait for the lease to lapse.
    pub(crate) async fn run_until(self, stop: CancellationToken) {
        let places = self.bench.places.clone();
        let mut asks = Asks::default();
        let mut backoff = StoreBackoff::new();
        let mut doubt = Doubt::default();
        let mut wait = self.config.hint_wait;
        let (mut is_filled, mut is_backlog) = (false, false);
        let mut store_has_more = false;
        loop {
            let Some(free) = stop.run_until_cancelled(room(&places, is_backlog)).await else {
                return;
            };
            // Between two claims, so that none is under way.
            if doubt.is_due()
                && let Err(error) = orphans::hand_back(&self.bench).await
            {
                tracing::debug!(%error, "held tasks were not compared");
            }
            let all = Wanted::all(self.bench.live.types(), free, wait);
            let wanted = asks.next(all, &places.crowd(), is_filled);
            if wanted.types.is_empty() && !self.bench.live.types().is_empty() {
                // Nothing to ask for before something ends.
                stop.run_until_cancelled(tokio::time::timeout(POLL, places.freed()))
                    .await;
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
                Ok(haul) => {
                    backoff = StoreBackoff::new();
                    // A backlog in the store is no news that anybody would send: it is gone through without waiting for any.
                    store_has_more = haul.store_has_more || (wanted.is_partial && store_has_more);
                    wait = if store_has_more {
                        Duration::ZERO
                    } else {
                        self.config.hint_wait
                    };
                    // Hints that were of no use may be followed by better ones.
                    is_filled = haul.tasks.len() == wanted.free;
                    is_backlog = is_filled && !wanted.is_cut;
                    if haul.tasks.is_empty() && !had_hints {
                        let pause = wanted.pause.saturating_sub(asked.elapsed());
                        stop.run_until_cancelled(tokio::time::sleep(pause)).await;
                    } else {
                        self.start(haul);
                    }
                }
                // The hints have gone back to the broker, and the heartbeat is about to hear of it too.
                Err(StoreError::Lapsed) => return,
                Err(error) => {
                    tracing::warn!(%error, worker.id = %self.bench.worker, "tasks were not claimed");
                    // What that claim may have got nevertheless is found the next time around.
                    doubt = Doubt::begin();
                    stop.run_until_cancelled(backoff.wait()).await;
                }
            }
        }
    }

    /// Hints, or the advice to look in the store, which also stands for a broker that does not answer.
    async fn pop(&self, wanted: &Wanted) -> Popped {
        let want = Want {
            types: &wanted.types,
            max: wanted.free,
            wait: wanted.wait,
        };
        match self.bench.broker.pop(want).await {
            Ok(popped) => popped,
            Err(error) => {
                tracing::debug!(%error, "claiming from the store directly");
                Popped {
                    hints: Vec::new(),
                    look_in_store: true,
                    keeps_caps: false,
                }
            }
        }
    }

    async fn claim(&self, popped: Popped, types: &[TaskType], max: usize) -> StoreResult<Haul> {
        let mut haul = Haul {
            tasks: Vec::new(),
            counted: HashMap::new(),
            store_has_more: false,
        };
        if !popped.hints.is_empty() {
            let ids: Vec<_> = popped.hints.iter().map(|taken| taken.hint.id).collect();
            match self.claim_by(ClaimBy::Ids(&ids)).await {
                Ok(tasks) => haul.tasks = tasks,
                Err(error) => {
                    self.give_back(popped.hints);
                    return Err(error);
                }
            }
            haul.counted = counted(popped.hints);
            self.release_unclaimed(&mut haul);
        }
        if popped.look_in_store && haul.tasks.len() < max && !types.is_empty() {
            let room = max - haul.tasks.len();
            match self.claim_in_order(types, room, popped.keeps_caps).await {
                Ok(more) => {
                    haul.store_has_more = more.len() == room;
                    haul.tasks.extend(more);
                }
                // What was claimed by hints is held, and must be run.
                Err(error) if !haul.tasks.is_empty() => {
                    tracing::debug!(%error, "nothing more was claimed");
                }
                Err(error) => return Err(error),
            }
        }
        Ok(haul)
    }

    /// Claims what the store has. The policy is read each time: who has paused a type relies on it from then on.
    async fn claim_in_order(
        &self,
        types: &[TaskType],
        room: usize,
        broker_keeps_caps: bool,
    ) -> StoreResult<Vec<ClaimedTask>> {
        let mut policy = self.bench.live.overlay(self.bench.store.policy().await?);
        if broker_keeps_caps {
            policy = policy.without_capped();
        }
        self.claim_by(ClaimBy::Order {
            types,
            limit: u32::try_from(room).unwrap_or(u32::MAX),
            policy: &policy,
        })
        .await
    }

    async fn claim_by(&self, by: ClaimBy<'_>) -> StoreResult<Vec<ClaimedTask>> {
        self.bench
            .store
            .claim(ClaimRequest {
                worker: self.bench.worker,
                by,
                now: self.bench.now(),
            })
            .await
    }

    /// Tasks that were hinted and not claimed do not run, because they were cancelled or have ended, and make room under caps. Or somebody found them
    /// in the store and runs them: then they are still to be counted. An answer that does not come is for the sweeper's next count.
    fn release_unclaimed(&self, haul: &mut Haul) {
        if haul.counted.is_empty() {
            return;
        }
        let claimed: std::collections::HashSet<_> = haul.tasks.iter().map(|task| task.id).collect();
        let unclaimed = haul.counted.extract_if(|id, _| !claimed.contains(id));
        let unclaimed: Vec<_> = unclaimed.map(|(_, hint)| hint).collect();
        if unclaimed.is_empty() {
            return;
        }
        let bench = self.bench.clone();
        self.attempts.spawn(async move {
            for hint in unclaimed {
                let task = bench.store.task(&hint.lane.tenant, hint.id).await;
                if task.is_ok_and(|task| task.is_none_or(|task| task.state != TaskState::Running)) {
                    bench.teller.tell(News::Ended(hint));
                }
            }
        });
    }

    /// Hints were taken but not used: others may have more luck with them. If this fails too, the sweeper's audit finds the tasks.
    fn give_back(&self, hints: Vec<Taken>) {
        for Taken { hint, counted } in hints {
            if counted {
                self.bench.teller.tell(News::Ended(hint.clone()));
            }
            self.bench.teller.tell(News::Waits(hint));
        }
    }

    fn start(&self, mut haul: Haul) {
        for task in haul.tasks {
            let counted = haul.counted.remove(&task.id);
            // Entered here and not in the attempt's own time: the next comparison must find it.
            let guard = self.bench.running.enter(task.id, task.run_lease);
            let slot = self.bench.places.hold(&task.tenant, &task.task_type);
            self.attempts.spawn(attempt::run(
                self.bench.clone(),
                attempt::Held {
                    task,
                    guard,
                    slot,
                    counted,
                },
            ));
        }
    }
}

fn counted(hints: Vec<Taken>) -> HashMap<TaskId, Hint> {
    let counted = hints.into_iter().filter(|taken| taken.counted);
    counted.map(|taken| (taken.hint.id, taken.hint)).collect()
}

/// Waits until tasks can be taken; says how many.
async fn room(places: &Places, is_backlog: bool) -> usize {
    let free = places.free().await;
    if is_backlog && free < places.limit() / 2 {
        tokio::time::sleep(GATHER).await;
    }
    places.free_now().max(1)
}
