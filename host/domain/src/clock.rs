//! The store's time.

use std::sync::{
    Arc,
    atomic::{AtomicI64, Ordering},
};

use jiff::{SignedDuration, Timestamp};

/// The store's time, measured from its last reading by a monotonic clock of this host, which nobody
/// can set and which also runs while the machine sleeps.
///
/// Leases, due times, delays and the age of a task go by this clock. A host's own time may be set
/// at any moment, by a person or a daemon, and a healthy worker would then seem to have been silent
/// for an hour.
///
/// Clones share one clock.
#[derive(Debug, Clone)]
pub struct Clock {
    /// Microseconds by which it is ahead of the monotonic clock.
    ahead: Arc<AtomicI64>,
    is_stopped: bool,
}

/// A reading of the clock, and how it was set then.
#[derive(Debug, Clone, Copy)]
pub struct Reading {
    /// The time.
    pub time: Timestamp,
    ahead: i64,
}

impl Default for Clock {
    /// A clock that begins with the host's present time.
    fn default() -> Self {
        let ahead = Timestamp::now().as_microsecond().saturating_sub(running());
        Self { ahead: Arc::new(AtomicI64::new(ahead)), is_stopped: false }
    }
}

impl Clock {
    /// A stopped clock that only moves when it is shifted, for tests.
    #[must_use]
    pub fn stopped(at: Timestamp) -> Self {
        Self { ahead: Arc::new(AtomicI64::new(at.as_microsecond())), is_stopped: true }
    }

    /// The time in whole microseconds, as stores keep it.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.read().time
    }

    /// The time, with what [`Clock::shift_since`] needs.
    #[must_use]
    pub fn read(&self) -> Reading {
        let passed = if self.is_stopped { 0 } else { running() };
        let ahead = self.ahead.load(Ordering::Relaxed);
        let time = Timestamp::from_microsecond(passed.saturating_add(ahead)).unwrap_or_default();
        Reading { time, ahead }
    }

    /// Shifts the clock, unless it was shifted since this reading.
    pub fn shift_since(&self, told: Reading, by: SignedDuration) {
        let micros = i64::try_from(by.as_micros()).unwrap_or(0);
        let ahead = told.ahead.saturating_add(micros);
        // Fails if another caller has corrected it meanwhile.
        self.ahead.compare_exchange(told.ahead, ahead, Ordering::Relaxed, Ordering::Relaxed).ok();
    }

    /// Shifts the clock, forward or back.
    pub fn shift(&self, by: SignedDuration) {
        let micros = i64::try_from(by.as_micros()).unwrap_or(0);
        self.ahead.fetch_add(micros, Ordering::Relaxed);
    }

    /// How far the host's own time is ahead of this clock.
    #[must_use]
    pub fn host_ahead(&self) -> SignedDuration {
        Timestamp::now().duration_since(self.now())
    }
}

/// Microseconds since the machine was started.
#[cfg(target_os = "linux")]
fn running() -> i64 {
    use rustix::time::{ClockId, clock_gettime};
    let time = clock_gettime(ClockId::Boottime);
    time.tv_sec.saturating_mul(1_000_000).saturating_add(time.tv_nsec / 1_000)
}

/// Microseconds since the first call.
#[cfg(not(target_os = "linux"))]
fn running() -> i64 {
    use std::{sync::LazyLock, time::Instant};
    static BEGIN: LazyLock<Instant> = LazyLock::new(Instant::now);
    i64::try_from(BEGIN.elapsed().as_micros()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_begins_with_the_hosts_time_and_is_shifted_for_all_its_clones() {
        let clock = Clock::default();
        assert!(clock.host_ahead().abs() < SignedDuration::from_secs(1));
        clock.clone().shift(SignedDuration::from_hours(1));
        let behind = -clock.host_ahead();
        assert!((3_599..=3_600).contains(&behind.as_secs()), "{behind:?} after an hour forward");
        let before = clock.now();
        assert!(clock.now() >= before);
    }

    #[test]
    fn what_two_find_by_the_same_reading_is_put_right_once() {
        let clock = Clock::stopped(Timestamp::UNIX_EPOCH);
        let hour = SignedDuration::from_hours(1);
        let (one, other) = (clock.read(), clock.read());
        clock.shift_since(one, hour);
        clock.shift_since(other, hour);
        assert_eq!(clock.now().duration_since(one.time), hour);
        clock.shift_since(clock.read(), -hour);
        assert_eq!(clock.now(), one.time);
    }

    #[test]
    fn one_that_is_stopped_goes_on_when_it_is_shifted() {
        let at = Timestamp::from_millisecond(1_700_000_000_000).unwrap_or_default();
        let clock = Clock::stopped(at);
        assert_eq!(clock.now(), at);
        clock.shift(SignedDuration::from_millis(3));
        assert_eq!(clock.now(), at + SignedDuration::from_millis(3));
    }
}
