//! Puts right what crashes left behind, and starts what was left for later.
//!
//! | file | the concept |
//! |---|---|
//! | `lapses` | tasks of workers that fell silent |
//! | `lanes` | the broker's queues, filled and audited from the store |

mod lanes;
mod lapses;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use jiff::SignedDuration;
use taskforge_broker::{Broker, BrokerError, Mode, Signal, Signals};
use taskforge_domain::{QueuePolicy, Revision, Timestamp, WorkerId};
use taskforge_registry::{Collector, Live, Trials};
use taskforge_store::{Store, StoreError, Term, Upkeep};
use tokio::sync::broadcast::error::TryRecvError;
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use self::lanes::Lanes;
use crate::config::SweeperConfig;

/// Does what nobody else in the fleet does: tasks whose time has come become pending and are
/// hinted; tasks of lapsed workers are retried or become dead letters; the broker's lanes are
/// filled from the store; old tasks are forgotten.
///
/// Every process may run one. One of them leads at a time: it holds a term in the store, and
/// whatever a former leader still tries under an older term is refused. Each tick does a bounded
/// amount of each kind of work.
pub struct Sweeper {
    config: SweeperConfig,
    store: Arc<dyn Store>,
    broker: Arc<dyn Broker>,
    /// Who asks to lead.
    id: WorkerId,
    lanes: Lanes,
    /// What plugins ask of the queue.
    live: Arc<Live>,
    /// Judges versions on trial, where there is a registry.
    trials: Option<Trials>,
    /// Deletes versions that nothing refers to, where there is a registry.
    collector: Option<Collector>,
    /// As the broker was last told, in this term, and the registry's revision then.
    told_policy: Option<QueuePolicy>,
    told_revision: Revision,
    /// Where hints came from then: a broker that is away cannot be told.
    told_mode: Mode,
    clock_is_off: bool,
    due: Due,
    /// The upkeep under way, if there is one.
    upkeep: AbortOnDropHandle<()>,
}

/// When each rare kind of work was last done.
struct Due {
    lapses: Option<Instant>,
    policy: Option<Instant>,
    trials: Option<Instant>,
    tell: Option<Instant>,
    upkeep: Option<Instant>,
    clock: Option<Instant>,
}

/// How often the policy is read again, for a change that no signal told of.
const POLICY_INTERVAL: Duration = Duration::from_secs(1);
/// How often versions on trial are judged.
const TRIAL_INTERVAL: Duration = Duration::from_secs(1);
/// How often the broker is told the policy even if it has not changed: it may have missed a change,
/// or lost it.
const TELL_INTERVAL: Duration = Duration::from_secs(5);
/// How often the host's time is compared with the store's.
const CLOCK_INTERVAL: Duration = Duration::from_secs(30);
/// By how much it must be off to be worth a word.
const CLOCK_OFF: SignedDuration = SignedDuration::from_secs(60);

/// Why a tick was cut short. The next one tries again.
#[derive(Debug, thiserror::Error)]
enum SweepError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Broker(#[from] BrokerError),
}

impl Due {
    const NOTHING_DONE: Self =
        Self { lapses: None, policy: None, trials: None, tell: None, upkeep: None, clock: None };
}

/// Whether it is time again; if so, it is done now.
fn is_due(last: &mut Option<Instant>, every: Duration) -> bool {
    let due = last.is_none_or(|last| last.elapsed() >= every);
    if due {
        *last = Some(Instant::now());
    }
    due
}

impl Sweeper {
    /// A sweeper that is not running yet. Must be called within a tokio runtime.
    #[must_use]
    pub fn new(config: SweeperConfig, store: Arc<dyn Store>, broker: Arc<dyn Broker>) -> Self {
        Self {
            told_mode: broker.mode(),
            lanes: Lanes::new(config.audit_interval),
            config,
            store,
            broker,
            id: WorkerId::generate(),
            live: Arc::default(),
            trials: None,
            collector: None,
            told_policy: None,
            told_revision: Revision::default(),
            clock_is_off: false,
            due: Due::NOTHING_DONE,
            upkeep: AbortOnDropHandle::new(tokio::spawn(async {})),
        }
    }

    /// The same, with a registry of plugins: their pauses go to the broker with the queue's, and
    /// versions on trial are judged.
    #[must_use]
    pub fn with_plugins(self, live: Arc<Live>, trials: Trials) -> Self {
        Self { live, trials: Some(trials), ..self }
    }

    /// The same, with a registry of plugins that is kept to a retention.
    #[must_use]
    pub fn with_collector(self, collector: Collector) -> Self {
        Self { collector: Some(collector), ..self }
    }

    /// Sweeps until `stop`, whenever this one leads. Gives the lead up at the end, so that another
    /// follows at once.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut interval = tokio::time::interval(self.config.interval);
        interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let renew_every = self.config.term / 5;
        let (mut term, mut asked) = (None, None);
        let mut signals = self.broker.subscribe();
        while stop.run_until_cancelled(interval.tick()).await.is_some() {
            if is_due(&mut asked, renew_every) {
                term = self.lead(term).await;
            }
            if heard_of_policy(&mut signals) {
                // What was read before may have been told after what is new.
                (self.due.policy, self.due.tell) = (None, None);
            }
            let Some(leading) = term else { continue };
            match self.tick(leading).await {
                Ok(()) => {}
                Err(SweepError::Store(StoreError::Deposed)) => {
                    tracing::warn!("another process leads the sweep now");
                    term = None;
                }
                Err(error) => {
                    tracing::warn!(%error, "a sweep was cut short");
                    // Tasks may have become pending without a hint.
                    self.lanes.audit_soon();
                }
            }
        }
        if let Some(term) = term
            && let Err(error) = self.store.resign(term).await
        {
            tracing::debug!(%error, "the lead was not given up; it ends by itself");
        }
    }

    /// Asks for the lead, or for more of it.
    async fn lead(&mut self, before: Option<Term>) -> Option<Term> {
        if is_due(&mut self.due.clock, CLOCK_INTERVAL) {
            self.compare_clocks();
        }
        let asked = self.store.lead(self.id, self.now(), self.config.term).await;
        match asked {
            Ok(term) => {
                metrics::gauge!("taskforge_sweeper_leads").set(f64::from(u8::from(term.is_some())));
                if term.is_some() && term != before {
                    tracing::info!(term = term.map(|term| term.0), "leading the sweep");
                    // Another leader may have told the broker something else.
                    self.told_policy = None;
                    self.due = Due::NOTHING_DONE;
                    self.lanes = Lanes::new(self.config.audit_interval);
                }
                term
            }
            Err(error) => {
                tracing::warn!(%error, "the lead of the sweep was not prolonged");
                // It may be ours still; if not, the store says so at the next write.
                before
            }
        }
    }

    /// Returns the tasks of every worker to the queue, whatever their heartbeats say. For the start
    /// of a process that knows that no other is at work: what runs in the store then, ran in a
    /// process that is gone.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn recover_all(&self) -> Result<usize, StoreError> {
        // Seen from next year every lease has run out, also one that was written before the clock
        // was set back.
        let now = self.now();
        let next_year =
            now.saturating_add(SignedDuration::from_hours(366 * 24)).unwrap_or(Timestamp::MAX);
        let term = self
            .store
            .lead(self.id, next_year, Duration::ZERO)
            .await?
            .ok_or(StoreError::Deposed)?;
        let mut recovered = 0;
        loop {
            let lapsed = self.store.lapsed(term, next_year, self.config.page).await?;
            if lapsed.is_empty() {
                self.store.resign(term).await?;
                return Ok(recovered);
            }
            recovered += lapses::resolve(&*self.store, term, &lapsed, now).await?.moved;
        }
    }

    fn now(&self) -> Timestamp {
        self.store.clock().now()
    }

    /// Says once that the host's time is not the store's: people who read both will wonder.
    fn compare_clocks(&mut self) {
        let ahead = self.store.clock().host_ahead();
        if ahead.abs() < CLOCK_OFF {
            self.clock_is_off = false;
        } else if !self.clock_is_off {
            self.clock_is_off = true;
            tracing::warn!(
                host_ahead = %ahead,
                "this host's time is not the store's, by which tasks fall due; it is wrong or was set"
            );
        }
    }

    async fn tick(&mut self, term: Term) -> Result<(), SweepError> {
        let began = Instant::now();
        // The store's work first: it must go on while the broker is away.
        let started = self.start_due(term).await;
        if is_due(&mut self.due.lapses, self.config.lapse_interval) {
            self.sweep_lapsed(term).await?;
        }
        if is_due(&mut self.due.upkeep, self.config.upkeep_interval) {
            self.upkeep(term);
        }
        if let Some(trials) = &self.trials
            && is_due(&mut self.due.trials, TRIAL_INTERVAL)
        {
            trials.judge(&self.live.catalog().known()).await;
        }
        started?;
        self.tell_policy().await?;
        let (store, broker) = (&*self.store, &*self.broker);
        self.lanes.fill(store, broker, self.config.page, self.config.budget).await?;
        metrics::histogram!("taskforge_sweep_duration_seconds").record(began.elapsed());
        Ok(())
    }

    async fn start_due(&self, term: Term) -> Result<(), SweepError> {
        let began = Instant::now();
        let mut broker_error = None;
        while began.elapsed() < self.config.budget {
            let due = self.store.promote_due(term, self.now(), self.config.page).await?;
            if let Err(error) = self.broker.push(&due).await {
                broker_error = Some(error);
            }
            if due.len() < self.config.page as usize {
                break;
            }
        }
        // Told last: a broker that is away keeps no task from becoming pending.
        broker_error.map_or(Ok(()), |error| Err(error.into()))
    }

    async fn sweep_lapsed(&self, term: Term) -> Result<(), SweepError> {
        let began = Instant::now();
        while began.elapsed() < self.config.budget {
            let now = self.now();
            let lapsed = self.store.lapsed(term, now, self.config.page).await?;
            if lapsed.is_empty() {
                break;
            }
            let resolved = lapses::resolve(&*self.store, term, &lapsed, now).await?;
            resolved.tell(&*self.broker).await;
        }
        Ok(())
    }

    /// Starts the store's upkeep, unless the last one is still at it: what it reads and moves may
    /// take longer than a lapsed worker's tasks can wait.
    fn upkeep(&mut self, term: Term) {
        if !self.upkeep.is_finished() {
            return;
        }
        let (store, now, retention) = (self.store.clone(), self.now(), self.config.retention);
        let collector = self.collector.clone();
        let upkeep = async move {
            match store.upkeep(Some(term), now, retention).await {
                Ok(done) if done == Upkeep::default() => {}
                Ok(done) => tracing::info!(
                    made = done.partitions_made,
                    dropped = done.partitions_dropped,
                    deleted = done.tasks_deleted,
                    moved = done.tasks_moved,
                    "the store was kept up"
                ),
                Err(error) => tracing::warn!(%error, "the store was not kept up"),
            }
            if let Some(collector) = collector
                && let Err(error) = collector.collect(term, now).await
            {
                tracing::warn!(%error, "old versions of plugins were not deleted");
            }
        };
        self.upkeep = AbortOnDropHandle::new(tokio::spawn(upkeep));
    }

    /// Gives the broker the policy when it has changed.
    async fn tell_policy(&mut self) -> Result<(), SweepError> {
        let forgotten = !self.broker.is_complete().await?;
        let revision = self.live.catalog().known().revision;
        let mode = self.broker.mode();
        let is_news = self.told_revision != revision || self.told_mode != mode;
        if is_due(&mut self.due.policy, POLICY_INTERVAL) || forgotten || is_news {
            let mut policy = self.live.catalog().overlay(self.store.policy().await?);
            let has_changed = self.told_policy.as_ref() != Some(&policy) || self.told_mode != mode;
            if is_due(&mut self.due.tell, TELL_INTERVAL) || forgotten || has_changed {
                // Who changes the policy tells the broker at once, and this must not take it back.
                loop {
                    self.broker.set_policy(&policy).await?;
                    let now = self.live.catalog().overlay(self.store.policy().await?);
                    if now == policy {
                        break;
                    }
                    policy = now;
                }
            }
            self.told_policy = Some(policy);
            self.told_revision = revision;
            self.told_mode = mode;
        }
        Ok(())
    }
}

/// Whether the policy has changed since the last look, as far as is known.
fn heard_of_policy(signals: &mut Signals) -> bool {
    let mut heard = false;
    loop {
        match signals.try_recv() {
            Ok(Signal::Policy | Signal::Missed) | Err(TryRecvError::Lagged(_)) => heard = true,
            Ok(Signal::Cancel(_) | Signal::Finished(_) | Signal::Plugins) => {}
            Err(TryRecvError::Empty | TryRecvError::Closed) => return heard,
        }
    }
}
