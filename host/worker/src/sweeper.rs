//! Puts right what crashes left behind, and starts what was left for later.

use std::{
    collections::HashSet,
    sync::Arc,
    time::{Duration, Instant},
};

use jiff::SignedDuration;
use taskforge_broker::{Broker, BrokerError, Hint, Signal};
use taskforge_domain::{Failure, FailureKind, Next, Outcome, TaskId, Timestamp, retry};
use taskforge_store::{DueTask, LapsedTask, Store, StoreError, Verdict};
use tokio_util::sync::CancellationToken;

use crate::config::SweeperConfig;

/// Does four kinds of work, each bounded per tick: tasks whose time has come become pending and are hinted; tasks of lapsed workers are
/// retried or become dead letters; a broker that lost its queues gets them back from the store; and, slowly, every pending task is held
/// against the broker's queues.
pub struct Sweeper {
    config: SweeperConfig,
    store: Arc<dyn Store>,
    broker: Arc<dyn Broker>,
    /// How far a rebuild or an audit has come.
    scan: Option<Scan>,
    last_audit: Instant,
}

struct Scan {
    after: Option<TaskId>,
    rebuilds: bool,
}

/// What became of lapsed tasks.
struct Returned {
    moved: usize,
    /// Those that had no attempt left.
    dead: Vec<TaskId>,
}

/// Why a tick was cut short. The next one tries again.
#[derive(Debug, thiserror::Error)]
enum SweepError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Broker(#[from] BrokerError),
}

impl Sweeper {
    /// A sweeper that is not running yet.
    #[must_use]
    pub fn new(config: SweeperConfig, store: Arc<dyn Store>, broker: Arc<dyn Broker>) -> Self {
        Self {
            config,
            store,
            broker,
            scan: None,
            last_audit: Instant::now(),
        }
    }

    /// Sweeps until `stop`.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut interval = tokio::time::interval(self.config.interval);
        interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while stop.run_until_cancelled(interval.tick()).await.is_some() {
            if let Err(error) = self.tick().await {
                tracing::warn!(%error, "a sweep was cut short");
            }
        }
    }

    /// Returns the tasks of every worker to the queue, whatever their heartbeats say. For the start of a process that knows that no other
    /// is at work: what runs in the store then, ran in a process that is gone.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn recover_all(&self) -> Result<usize, StoreError> {
        let mut recovered = 0;
        loop {
            // Seen from next year every heartbeat is old, also one that was written before the clock was set back.
            let next_year = Timestamp::now()
                .saturating_add(SignedDuration::from_hours(366 * 24))
                .unwrap_or(Timestamp::MAX);
            let lapsed = self
                .store
                .lapsed(next_year, Duration::ZERO, self.config.page)
                .await?;
            if lapsed.is_empty() {
                return Ok(recovered);
            }
            recovered += self.return_lapsed(&lapsed).await?.moved;
        }
    }

    async fn tick(&mut self) -> Result<(), SweepError> {
        self.start_due().await?;
        self.sweep_lapsed().await?;
        self.fill_broker().await
    }

    async fn start_due(&self) -> Result<(), SweepError> {
        for _ in 0..self.config.pages_per_tick {
            let due = self.store.promote_due(Timestamp::now(), self.config.page).await?;
            self.broker.push(&hints(&due)).await?;
            if due.len() < self.config.page as usize {
                break;
            }
        }
        Ok(())
    }

    async fn sweep_lapsed(&self) -> Result<(), SweepError> {
        for _ in 0..self.config.pages_per_tick {
            let lapsed = self
                .store
                .lapsed(Timestamp::now(), self.config.heartbeat_timeout, self.config.page)
                .await?;
            if lapsed.is_empty() {
                break;
            }
            let returned = self.return_lapsed(&lapsed).await?;
            let finished: Vec<_> = returned.dead.into_iter().map(Signal::Finished).collect();
            self.broker.publish(&finished).await?;
        }
        Ok(())
    }

    async fn return_lapsed(&self, lapsed: &[LapsedTask]) -> Result<Returned, StoreError> {
        let now = Timestamp::now();
        let verdicts: Vec<_> = lapsed.iter().map(|task| verdict(task, now)).collect();
        let moved = self.store.resolve_lapsed(&verdicts, now).await?;
        tracing::warn!(tasks = moved.len(), "tasks of lapsed workers were returned");
        metrics::counter!("taskforge_lapsed_attempts_total").increment(moved.len() as u64);
        let dead: HashSet<_> = verdicts
            .iter()
            .filter(|verdict| verdict.next == Next::DeadLetter)
            .map(|verdict| verdict.id)
            .collect();
        Ok(Returned {
            moved: moved.len(),
            dead: moved.into_iter().filter(|id| dead.contains(id)).collect(),
        })
    }

    async fn fill_broker(&mut self) -> Result<(), SweepError> {
        if !self.broker.is_complete().await? && !self.scan.as_ref().is_some_and(|scan| scan.rebuilds) {
            self.scan = Some(Scan {
                after: None,
                rebuilds: true,
            });
        } else if self.scan.is_none() && self.last_audit.elapsed() >= self.config.audit_interval {
            self.last_audit = Instant::now();
            self.scan = Some(Scan {
                after: None,
                rebuilds: false,
            });
        }
        let Some(scan) = &mut self.scan else { return Ok(()) };
        // A rebuild hurries, because workers wait for it; an audit does not.
        let pages = if scan.rebuilds {
            self.config.pages_per_tick
        } else {
            1
        };
        for _ in 0..pages {
            let pending = self.store.pending(scan.after, self.config.page).await?;
            self.broker.push(&hints(&pending)).await?;
            scan.after = pending.last().map(|task| task.id).or(scan.after);
            if pending.len() < self.config.page as usize {
                if scan.rebuilds {
                    self.broker.mark_complete().await?;
                }
                self.scan = None;
                break;
            }
        }
        Ok(())
    }
}

fn hints(tasks: &[DueTask]) -> Vec<Hint> {
    tasks
        .iter()
        .map(|task| Hint {
            id: task.id,
            tenant: task.tenant.clone(),
            task_type: task.task_type.clone(),
            priority: task.priority,
        })
        .collect()
}

/// A lapse counts as a failed attempt, so a task that kills its worker ends as a dead letter.
fn verdict(task: &LapsedTask, now: Timestamp) -> Verdict {
    let detail = format!(
        "worker {} stopped answering during attempt {}",
        task.worker, task.attempt
    );
    let failure = Failure::new(FailureKind::LeaseLapsed, detail.clone());
    let next = retry::after(
        &Outcome::Failed(failure),
        task.attempt,
        &task.retry,
        now,
        fastrand::f64(),
    );
    Verdict {
        id: task.id,
        run_lease: task.run_lease,
        next,
        detail,
    }
}
