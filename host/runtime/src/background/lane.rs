//! Where attempts begin, by what those of their lane before them were like.
//!
//! A lane is one tenant's attempts of one component: of a version, not of a type, because a new
//! version may be anything. A lane whose last attempts were quick is trusted: its attempts begin on
//! the threads that also claim and commit, and a change of threads would cost them more than they
//! take. A lane that is not known yet begins in the background.
//!
//! # What a lane that turns can do
//! A lane can be quick for as long as it takes and then hold threads on purpose, with all its
//! attempts at once. The first that does takes the trust away while it still runs, and each attempt
//! asks for it before it goes on in the foreground. So each of these threads is held for at most
//! one stretch between two points at which an attempt can be stopped, and the lane begins in the
//! background for [`DISTRUST`] at least, and until its attempts have been quick again.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use taskforge_domain::{Digest, TenantId};

use super::{Effort, STUBBORN, Threads};

/// Attempts in a row that must have been quick before the next may begin in the foreground. Few,
/// because a task of a lane that is hardly used should not stay behind those that compute for long.
const QUICK_ATTEMPTS: u32 = 8;

/// How long a lane is not trusted after an attempt of it held a thread of the foreground.
const DISTRUST: Duration = Duration::from_secs(30);

/// Lanes that are remembered, some hundred bytes each. One more, and all begin in the background
/// again.
const MAX_LANES: usize = 4_096;

/// The lanes that a process has seen.
#[derive(Debug, Default)]
pub(crate) struct Lanes(Mutex<HashMap<(TenantId, Digest), Arc<Lane>>>);

/// What is known of a lane, shared by its attempts.
#[derive(Debug, Default)]
pub(crate) struct Lane {
    is_trusted: AtomicBool,
    record: Mutex<Record>,
}

#[derive(Debug, Default)]
struct Record {
    /// Quick attempts since the last that was not.
    quick: u32,
    /// When an attempt last held a thread of the foreground. What one does in the background, as
    /// the first may while its code is read, costs nobody else.
    held_a_thread: Option<Instant>,
}

impl Lanes {
    pub(crate) fn of(&self, tenant: &TenantId, component: Digest) -> Arc<Lane> {
        let mut lanes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (tenant.clone(), component);
        if lanes.len() >= MAX_LANES && !lanes.contains_key(&key) {
            lanes.clear();
        }
        Arc::clone(lanes.entry(key).or_default())
    }
}

impl Lane {
    /// Where the next attempt begins.
    pub(super) fn threads(&self) -> Threads {
        if self.is_trusted() { Threads::Foreground } else { Threads::Background }
    }

    /// Whether attempts may run in the foreground; asked again before each step of those that do.
    pub(super) fn is_trusted(&self) -> bool {
        self.is_trusted.load(Ordering::Relaxed)
    }

    /// An attempt has left the foreground. Others of its lane must not wait for its end to hear of
    /// that.
    pub(super) fn left(&self, so_far: Effort) {
        if so_far.threads() != Threads::Foreground {
            self.count(so_far, Threads::Foreground);
        }
    }

    /// An attempt has ended, on these threads.
    pub(super) fn ended(&self, effort: Effort, threads: Threads) {
        self.count(effort, threads);
    }

    fn count(&self, effort: Effort, threads: Threads) {
        let mut record = self.record();
        record.quick = match effort.threads() {
            Threads::Foreground => record.quick.saturating_add(1),
            Threads::Background => 0,
        };
        if threads == Threads::Foreground && effort.longest >= STUBBORN {
            record.held_a_thread = Some(Instant::now());
        }
        let is_good = record.quick >= QUICK_ATTEMPTS
            && record.held_a_thread.is_none_or(|then| then.elapsed() >= DISTRUST);
        self.is_trusted.store(is_good, Ordering::Relaxed);
    }

    fn record(&self) -> MutexGuard<'_, Record> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
impl Lane {
    /// One whose next attempt begins there.
    pub(super) fn beginning(threads: Threads) -> Arc<Self> {
        let lane = Self::default();
        lane.is_trusted.store(threads == Threads::Foreground, Ordering::Relaxed);
        Arc::new(lane)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUICK: Effort =
        Effort { computed: Duration::from_micros(50), longest: Duration::from_micros(50) };
    const LONG: Effort =
        Effort { computed: Duration::from_millis(1), longest: Duration::from_micros(100) };
    const STUCK: Effort =
        Effort { computed: Duration::from_millis(10), longest: Duration::from_millis(10) };

    fn lane(quick: u32) -> Lane {
        let lane = Lane::default();
        (0..quick).for_each(|_| lane.ended(QUICK, Threads::Background));
        lane
    }

    #[test]
    fn a_lane_begins_in_the_background_until_it_has_shown_that_it_is_quick() {
        let lane = lane(QUICK_ATTEMPTS - 1);
        assert_eq!(lane.threads(), Threads::Background);
        lane.ended(QUICK, Threads::Background);
        assert_eq!(lane.threads(), Threads::Foreground);
    }

    #[test]
    fn another_version_and_another_tenant_are_not_known() {
        let lanes = Lanes::default();
        let (one, other) = (TenantId::new("one").unwrap(), TenantId::new("other").unwrap());
        let (old, new) = (Digest::from_bytes([1; 32]), Digest::from_bytes([2; 32]));
        (0..QUICK_ATTEMPTS).for_each(|_| lanes.of(&one, old).ended(QUICK, Threads::Background));
        let threads = |tenant, component| lanes.of(tenant, component).threads();
        assert_eq!(threads(&one, old), Threads::Foreground);
        assert_eq!(threads(&one, new), Threads::Background);
        assert_eq!(threads(&other, old), Threads::Background);
    }

    #[test]
    fn one_long_attempt_sends_a_lane_back_before_it_has_ended() {
        let lane = lane(50);
        lane.left(LONG);
        assert!(!lane.is_trusted());
        // It ends, and was no disaster.
        lane.ended(QUICK, Threads::Background);
        assert_eq!(lane.threads(), Threads::Background);
        (0..QUICK_ATTEMPTS).for_each(|_| lane.ended(QUICK, Threads::Background));
        assert_eq!(lane.threads(), Threads::Foreground);
    }

    #[test]
    fn a_lane_that_held_a_thread_is_not_trusted_for_a_while_however_quick_it_is() {
        type Held = fn(&Lane);
        let goes_on: Held = |lane| lane.left(STUCK);
        let ends: Held = |lane| lane.ended(STUCK, Threads::Foreground);
        for held in [goes_on, ends] {
            distrusts(held);
        }
    }

    fn distrusts(held: fn(&Lane)) {
        let lane = lane(50);
        held(&lane);
        (0..1_000).for_each(|_| lane.ended(QUICK, Threads::Background));
        assert_eq!(lane.threads(), Threads::Background);
        let before = Instant::now().checked_sub(DISTRUST);
        lane.record().held_a_thread = before;
        if before.is_some() {
            lane.ended(QUICK, Threads::Background);
            assert_eq!(lane.threads(), Threads::Foreground);
        }
    }

    #[test]
    fn what_an_attempt_does_in_the_background_is_not_held_against_its_lane_for_long() {
        let lane = lane(0);
        lane.ended(STUCK, Threads::Background);
        assert_eq!(lane.threads(), Threads::Background);
        (0..QUICK_ATTEMPTS).for_each(|_| lane.ended(QUICK, Threads::Background));
        assert_eq!(lane.threads(), Threads::Foreground, "nobody was held up");
    }

    #[test]
    fn what_moves_for_another_reason_is_not_held_against_its_lane() {
        let lane = lane(QUICK_ATTEMPTS);
        lane.left(QUICK);
        assert!(lane.is_trusted());
    }

    #[test]
    fn no_more_lanes_are_remembered_than_there_is_room_for() {
        let (lanes, tenant) = (Lanes::default(), TenantId::default());
        for n in 0..2 * MAX_LANES {
            let mut bytes = [0; 32];
            bytes[..8].copy_from_slice(&n.to_le_bytes());
            lanes.of(&tenant, Digest::from_bytes(bytes));
        }
        assert!(lanes.0.lock().unwrap().len() <= MAX_LANES);
    }
}
