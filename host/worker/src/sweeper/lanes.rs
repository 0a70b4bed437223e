//! The broker's queues, filled and audited from the store.
//!
//! A lane of the broker holds the oldest waiting tasks and knows when there are more. Three things
//! put hints into it from here: a lane that runs short is filled on from where it ended; a broker
//! that lost everything is filled lane by lane from the beginning; and, slowly, every lane is held
//! against the store, for hints that got lost one by one.

use std::{
    cmp::Reverse,
    collections::VecDeque,
    time::{Duration, Instant},
};

use taskforge_broker::Broker;
use taskforge_domain::{Lane, TaskId};
use taskforge_store::Store;

use super::{SweepError, is_due};

/// The most lanes that a rebuild or an audit goes through.
const MAX_LANES: u32 = 100_000;
/// Pages of each lane that an audit looks at: what waits behind these is not hinted yet, or will be
/// audited when it has moved up.
const AUDITED_PAGES: u32 = 16;
/// Pages that an audit does in one tick. It is in no hurry.
const AUDITED_AT_ONCE: u32 = 2;

/// How far the filling has come.
pub(super) struct Lanes {
    scan: Option<Scan>,
    audit_every: Duration,
    last_audit: Option<Instant>,
}

/// A walk over all lanes.
struct Scan {
    left: VecDeque<Lane>,
    /// Of the first lane that is left: where it was left, after how many pages.
    after: Option<TaskId>,
    pages: u32,
    rebuilds: bool,
}

impl Lanes {
    /// Something may have got lost just now: the next audit is due at once.
    pub(super) fn audit_soon(&mut self) {
        self.last_audit = None;
    }

    pub(super) fn new(audit_every: Duration) -> Self {
        Self { scan: None, audit_every, last_audit: Some(Instant::now()) }
    }

    /// Fills for about `budget`, `page` tasks at a time.
    pub(super) async fn fill(
        &mut self,
        store: &dyn Store,
        broker: &dyn Broker,
        page: u32,
        budget: Duration,
    ) -> Result<(), SweepError> {
        let began = Instant::now();
        self.begin_scan(store, broker).await?;
        if let Some(scan) = &mut self.scan {
            let is_over = scan.go_on(store, broker, page, began, budget).await?;
            if is_over {
                if scan.rebuilds {
                    broker.mark_complete().await?;
                    tracing::info!("the broker's queues were filled from the store");
                }
                self.scan = None;
            }
        }
        // Those that workers are about to empty.
        while began.elapsed() < budget {
            let short = broker.short_lanes().await?;
            if short.is_empty() {
                break;
            }
            for short in &short {
                if began.elapsed() >= budget {
                    break;
                }
                let limit = page.min(u32::try_from(short.room).unwrap_or(page)).max(1);
                let tasks = store.pending(&short.lane, short.after, limit).await?;
                let is_all = tasks.len() < limit as usize;
                broker.refill(&short.lane, short.after, &tasks, is_all).await?;
            }
        }
        Ok(())
    }

    async fn begin_scan(
        &mut self,
        store: &dyn Store,
        broker: &dyn Broker,
    ) -> Result<(), SweepError> {
        let rebuilds = !broker.is_complete().await?;
        let is_rebuilding = self.scan.as_ref().is_some_and(|scan| scan.rebuilds);
        let begins = if rebuilds {
            !is_rebuilding
        } else {
            self.scan.is_none() && is_due(&mut self.last_audit, self.audit_every)
        };
        if begins {
            let mut lanes = store.lanes(MAX_LANES).await?;
            lanes.sort_unstable_by_key(|lane| Reverse(lane.priority));
            self.last_audit = Some(Instant::now());
            self.scan = Some(Scan { left: lanes.into(), after: None, pages: 0, rebuilds });
        }
        Ok(())
    }
}

impl Scan {
    /// Does some pages. `true` when all lanes are done.
    async fn go_on(
        &mut self,
        store: &dyn Store,
        broker: &dyn Broker,
        page: u32,
        began: Instant,
        budget: Duration,
    ) -> Result<bool, SweepError> {
        let mut pages = 0;
        while let Some(lane) = self.left.front() {
            if began.elapsed() >= budget || (!self.rebuilds && pages >= AUDITED_AT_ONCE) {
                return Ok(false);
            }
            let tasks = store.pending(lane, self.after, page).await?;
            let is_all = tasks.len() < page as usize;
            broker.refill(lane, self.after, &tasks, is_all).await?;
            pages += 1;
            self.pages += 1;
            self.after = tasks.last().copied().or(self.after);
            // A rebuild gives each lane a beginning, so that workers find something everywhere;
            // what follows, the lane asks for itself.
            if is_all || self.rebuilds || self.pages >= AUDITED_PAGES {
                self.left.pop_front();
                (self.after, self.pages) = (None, 0);
            }
        }
        Ok(true)
    }
}
