//! Decides on which threads an attempt begins, by the attempts before it.
//!
//! A profile is what is known of one tenant's attempts of one component. It is per version and not
//! per type, because a new version may be anything. A profile whose last attempts were quick is
//! trusted: its attempts begin in the foreground. A new profile is not.
//!
//! # When quick attempts turn
//! A tenant can be quick for a while and then block threads on purpose, with all its attempts at
//! once. The first attempt that does so ends the trust while it still runs, and every attempt asks
//! for the trust before each step in the foreground. So each of these threads is blocked for at
//! most one step. The profile begins in the background for [`DISTRUST`] at least, and until its
//! attempts have been quick again.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use taskforge_domain::{Digest, TenantId};

use super::{BLOCKED, Effort, Threads};

/// Quick attempts in a row after which the next begins in the foreground. Few, so that a plugin
/// that is rarely used does not stay behind those that compute for long.
const QUICK_ATTEMPTS: u32 = 8;

/// How long a profile is not trusted after one of its attempts blocked a thread of the foreground.
const DISTRUST: Duration = Duration::from_secs(30);

/// Profiles that are remembered, some hundred bytes each. One more clears them all, so that all
/// begin in the background again.
const MAX_PROFILES: usize = 4_096;

/// The profiles of a process.
#[derive(Debug, Default)]
pub(crate) struct Profiles(Mutex<HashMap<(TenantId, Digest), Arc<Profile>>>);

/// What is known of a tenant's attempts of a component; shared by these.
#[derive(Debug, Default)]
pub(crate) struct Profile {
    is_trusted: AtomicBool,
    record: Mutex<Record>,
}

#[derive(Debug, Default)]
struct Record {
    /// Quick attempts since the last one that was not.
    quick: u32,
    /// When an attempt last blocked a thread of the foreground. In the background, where the first
    /// attempt may do so while its code is read, it costs nobody else.
    blocked_at: Option<Instant>,
}

impl Profiles {
    pub(crate) fn of(&self, tenant: &TenantId, component: Digest) -> Arc<Profile> {
        let mut profiles = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (tenant.clone(), component);
        if profiles.len() >= MAX_PROFILES && !profiles.contains_key(&key) {
            profiles.clear();
        }
        Arc::clone(profiles.entry(key).or_default())
    }
}

impl Profile {
    /// The threads on which the next attempt begins.
    pub(super) fn threads(&self) -> Threads {
        if self.is_trusted() { Threads::Foreground } else { Threads::Background }
    }

    /// Whether attempts may run in the foreground. Asked before each step there.
    pub(super) fn is_trusted(&self) -> bool {
        self.is_trusted.load(Ordering::Relaxed)
    }

    /// An attempt has left the foreground. That counts at once, and not only when it ends.
    pub(super) fn left(&self, so_far: Effort) {
        if so_far.threads() != Threads::Foreground {
            self.count(so_far, Threads::Foreground);
        }
    }

    /// An attempt has ended on these threads.
    pub(super) fn ended(&self, effort: Effort, threads: Threads) {
        self.count(effort, threads);
    }

    fn count(&self, effort: Effort, threads: Threads) {
        let mut record = self.record();
        record.quick = match effort.threads() {
            Threads::Foreground => record.quick.saturating_add(1),
            Threads::Background => 0,
        };
        if threads == Threads::Foreground && effort.longest >= BLOCKED {
            record.blocked_at = Some(Instant::now());
        }
        let is_good = record.quick >= QUICK_ATTEMPTS
            && record.blocked_at.is_none_or(|then| then.elapsed() >= DISTRUST);
        self.is_trusted.store(is_good, Ordering::Relaxed);
    }

    fn record(&self) -> MutexGuard<'_, Record> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
impl Profile {
    /// A profile whose next attempt begins there.
    pub(super) fn beginning(threads: Threads) -> Arc<Self> {
        let profile = Self::default();
        profile.is_trusted.store(threads == Threads::Foreground, Ordering::Relaxed);
        Arc::new(profile)
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

    fn profile(quick: u32) -> Profile {
        let profile = Profile::default();
        (0..quick).for_each(|_| profile.ended(QUICK, Threads::Background));
        profile
    }

    #[test]
    fn a_profile_begins_in_the_background_until_it_has_shown_that_it_is_quick() {
        let profile = profile(QUICK_ATTEMPTS - 1);
        assert_eq!(profile.threads(), Threads::Background);
        profile.ended(QUICK, Threads::Background);
        assert_eq!(profile.threads(), Threads::Foreground);
    }

    #[test]
    fn another_version_and_another_tenant_have_profiles_of_their_own() {
        let profiles = Profiles::default();
        let (one, other) = (TenantId::new("one").unwrap(), TenantId::new("other").unwrap());
        let (old, new) = (Digest::from_bytes([1; 32]), Digest::from_bytes([2; 32]));
        (0..QUICK_ATTEMPTS).for_each(|_| profiles.of(&one, old).ended(QUICK, Threads::Background));
        let threads = |tenant, component| profiles.of(tenant, component).threads();
        assert_eq!(threads(&one, old), Threads::Foreground);
        assert_eq!(threads(&one, new), Threads::Background);
        assert_eq!(threads(&other, old), Threads::Background);
    }

    #[test]
    fn one_long_attempt_ends_the_trust_before_it_has_ended() {
        let profile = profile(50);
        profile.left(LONG);
        assert!(!profile.is_trusted());
        // Its end is quick.
        profile.ended(QUICK, Threads::Background);
        assert_eq!(profile.threads(), Threads::Background);
        (0..QUICK_ATTEMPTS).for_each(|_| profile.ended(QUICK, Threads::Background));
        assert_eq!(profile.threads(), Threads::Foreground);
    }

    #[test]
    fn a_profile_that_blocked_a_thread_is_not_trusted_for_a_while_however_quick_it_is() {
        distrusts(|profile| profile.left(STUCK));
        distrusts(|profile| profile.ended(STUCK, Threads::Foreground));
    }

    fn distrusts(block: fn(&Profile)) {
        let profile = profile(50);
        block(&profile);
        (0..1_000).for_each(|_| profile.ended(QUICK, Threads::Background));
        assert_eq!(profile.threads(), Threads::Background);
        let before = Instant::now().checked_sub(DISTRUST);
        profile.record().blocked_at = before;
        if before.is_some() {
            profile.ended(QUICK, Threads::Background);
            assert_eq!(profile.threads(), Threads::Foreground);
        }
    }

    #[test]
    fn blocking_a_thread_of_the_background_costs_the_trust_only_until_attempts_are_quick() {
        let profile = profile(0);
        profile.ended(STUCK, Threads::Background);
        assert_eq!(profile.threads(), Threads::Background);
        (0..QUICK_ATTEMPTS).for_each(|_| profile.ended(QUICK, Threads::Background));
        assert_eq!(profile.threads(), Threads::Foreground, "nobody had to wait");
    }

    #[test]
    fn an_attempt_that_moves_for_another_reason_does_not_cost_the_trust() {
        let profile = profile(QUICK_ATTEMPTS);
        profile.left(QUICK);
        assert!(profile.is_trusted());
    }

    #[test]
    fn no_more_profiles_are_remembered_than_there_is_room_for() {
        let (profiles, tenant) = (Profiles::default(), TenantId::default());
        for n in 0..2 * MAX_PROFILES {
            let mut bytes = [0; 32];
            bytes[..8].copy_from_slice(&n.to_le_bytes());
            profiles.of(&tenant, Digest::from_bytes(bytes));
        }
        assert!(profiles.0.lock().unwrap().len() <= MAX_PROFILES);
    }
}
