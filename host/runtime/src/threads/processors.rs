//! The share of the processors that background threads leave to others.
//!
//! A low priority is not enough. Linux applies it only among the threads of one group (a control
//! group, or a session); against another group, a database's for example, the groups compete. A
//! thread that yields leaves the processor to its own group only. And a running thread keeps its
//! processor for some milliseconds, whichever thread wakes up meanwhile. So a background thread
//! also sleeps at intervals while the machine is oversubscribed, and a compilation, which cannot be
//! trusted to do that, is kept off half of the processors.

use std::{cell::Cell, fs::File, io, os::unix::fs::FileExt as _, sync::LazyLock, time::Duration};

use rustix::{
    process::{getpriority_process, setpriority_process},
    thread::{CpuSet, sched_getaffinity, sched_setaffinity},
    time::{ClockId, clock_gettime},
};

/// A tenth of the share of a thread that is not niced. With less, attempts would starve beside a
/// busy neighbour until their deadline. The length of slices is left alone: to Linux a shorter
/// slice is a nearer deadline, so such threads would go first.
pub(crate) const NICENESS: i32 = 10;

/// How long a thread computes before it checks whether others wait.
const TURN: Duration = Duration::from_micros(300);

/// How long it then leaves its processor to them: enough for several of the short steps by which a
/// task passes through the processes of a fleet.
const PAUSE: Duration = Duration::from_micros(500);

/// A thread's own share of the processors. Changes are relative to this and not to the present
/// share, because threads inherit theirs from whichever thread starts them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Share {
    niceness: i32,
    /// `None` where the system does not tell.
    allowed: Option<CpuSet>,
}

impl Share {
    pub(crate) fn of_this_thread() -> Self {
        Self {
            niceness: getpriority_process(None).unwrap_or(0),
            allowed: sched_getaffinity(None).ok(),
        }
    }

    /// Lowers the priority of the calling thread, and of the processes that it starts.
    pub(crate) fn lower(&self) -> io::Result<()> {
        setpriority_process(None, (self.niceness + NICENESS).min(19))?;
        match &self.allowed {
            Some(allowed) if sched_getaffinity(None)? != *allowed => {
                Ok(sched_setaffinity(None, allowed)?)
            }
            _ => Ok(()),
        }
    }

    /// [`Self::lower`], and only half of the processors: the same half in every process of the
    /// machine with the same share, so that the other half stays free however many processes are
    /// confined. A single processor is not divided. (Two processors of one core may be in different
    /// halves; they share it as any two threads would.)
    pub(crate) fn confine(&self) -> io::Result<()> {
        // The system may allow one of the two only.
        let lowered = self.lower();
        if let Some(allowed) = &self.allowed {
            let usable: Vec<usize> =
                (0..CpuSet::MAX_CPU).filter(|&cpu| allowed.is_set(cpu)).collect();
            let kept = (usable.len() / 2).max(1);
            let mut half = CpuSet::new();
            for &cpu in usable.iter().rev().take(kept) {
                half.set(cpu);
            }
            sched_setaffinity(None, &half)?;
        }
        lowered
    }
}

/// The processor time of this thread. A clock would count the time in which others ran as well.
pub(crate) fn computed() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    let (seconds, nanos) = (u64::try_from(time.tv_sec), u64::try_from(time.tv_nsec));
    Duration::from_secs(seconds.unwrap_or(0)) + Duration::from_nanos(nanos.unwrap_or(0))
}

/// Leaves the processor to threads that wait for it. To be called at intervals by work that
/// computes for long.
pub(crate) fn give_way() {
    thread_local! {
        static LATELY: Cell<Duration> = const { Cell::new(Duration::ZERO) };
    }
    std::thread::yield_now();
    LATELY.with(|lately| {
        if computed().saturating_sub(lately.get()) >= TURN {
            if is_oversubscribed() {
                std::thread::sleep(PAUSE);
            }
            lately.set(computed());
        }
    });
}

/// The processors of the whole machine, because the load is that of the whole machine.
static PROCESSORS: LazyLock<usize> = LazyLock::new(|| {
    let online = std::fs::read_to_string("/sys/devices/system/cpu/online");
    let online = online.ok().and_then(|text| count(text.trim()));
    // This counts only the processors that this process may use.
    online.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from))
});

/// Whether more threads of this machine are runnable than it has processors. `false` where the
/// system does not tell. Costs 1 µs.
fn is_oversubscribed() -> bool {
    static LOAD: LazyLock<Option<File>> = LazyLock::new(|| File::open("/proc/loadavg").ok());
    let mut text = [0; 64];
    let read = LOAD.as_ref().and_then(|file| file.read_at(&mut text, 0).ok());
    let load = read.and_then(|read| std::str::from_utf8(text.get(..read)?).ok());
    load.and_then(runnable).is_some_and(|runnable| runnable > *PROCESSORS)
}

/// The number before the stroke in `0.20 0.18 0.12 1/80 11206`.
fn runnable(load: &str) -> Option<usize> {
    load.split(' ').nth(3)?.split_once('/')?.0.parse().ok()
}

/// How many numbers a list of ranges like `0-3,8,10-11` has.
fn count(ranges: &str) -> Option<usize> {
    let sizes = ranges.split(',').map(|range| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last) = (first.parse::<usize>().ok()?, last.parse::<usize>().ok()?);
        last.checked_sub(first)?.checked_add(1)
    });
    sizes.sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_lists_and_figures_are_read() {
        assert_eq!(count("0"), Some(1));
        assert_eq!(count("0-1"), Some(2));
        assert_eq!(count("0-3,8,10-11"), Some(7));
        assert_eq!((count(""), count("3-1"), count("0-x")), (None, None, None));
        assert_eq!(runnable("0.20 0.18 0.12 11/80 11206\n"), Some(11));
        assert_eq!((runnable(""), runnable("0 0 0 4")), (None, None));
    }

    #[test]
    fn who_is_confined_keeps_half_of_the_processors() {
        let share = Share::of_this_thread();
        let allowed = share.allowed.unwrap();
        let confined = || {
            std::thread::spawn(move || {
                share.confine().unwrap();
                // From a thread that is confined.
                let by_it = std::thread::spawn(move || {
                    let inherited = sched_getaffinity(None).unwrap();
                    share.lower().unwrap();
                    (
                        inherited,
                        sched_getaffinity(None).unwrap(),
                        getpriority_process(None).unwrap(),
                    )
                });
                (sched_getaffinity(None).unwrap(), by_it.join().unwrap())
            })
            .join()
            .unwrap()
        };
        let (half, (inherited, whole, niceness)) = confined();
        assert_eq!(half.count(), (allowed.count() / 2).max(1));
        assert!((0..CpuSet::MAX_CPU).all(|cpu| allowed.is_set(cpu) || !half.is_set(cpu)));
        assert_eq!((inherited, whole), (half, allowed), "what is inherited is not kept");
        assert_eq!(niceness, (share.niceness + NICENESS).min(19), "nor added to");
        assert_eq!(confined().0, half, "the same half for all");
    }

    #[test]
    fn a_machine_is_oversubscribed_when_more_threads_compute_than_it_has_processors() {
        use std::sync::atomic::{AtomicBool, Ordering};
        static OVER: AtomicBool = AtomicBool::new(false);
        if std::thread::available_parallelism().unwrap().get() < *PROCESSORS {
            println!("this process may not use all processors, so it cannot oversubscribe them");
            return;
        }
        let busy: Vec<_> = (0..2 * *PROCESSORS)
            .map(|_| {
                std::thread::spawn(|| {
                    while !OVER.load(Ordering::Relaxed) {
                        std::hint::spin_loop();
                    }
                })
            })
            .collect();
        let until = std::time::Instant::now() + Duration::from_secs(30);
        let mut was_oversubscribed = false;
        while !was_oversubscribed && std::time::Instant::now() < until {
            was_oversubscribed = is_oversubscribed();
        }
        OVER.store(true, Ordering::Relaxed);
        for thread in busy {
            thread.join().unwrap();
        }
        assert!(was_oversubscribed);
    }
}
