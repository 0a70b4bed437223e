//! What the threads of attempts leave to others of the machine's processors.
//!
//! A low priority is not enough. To Linux it counts only among the threads of one group (a control group, or a session): against the threads
//! of another group, those of a database for example, what counts is the group. A thread that yields leaves the processor to its own group
//! only. And who is given a processor keeps it for some milliseconds, whoever else wakes up meanwhile. So such a thread also goes to sleep now
//! and then if the machine has more to do than processors, and what cannot be trusted to come to that point is kept off some processors.

use std::{cell::Cell, fs::File, io, os::unix::fs::FileExt as _, sync::LazyLock, time::Duration};

use rustix::{
    process::nice,
    thread::{CpuSet, sched_getaffinity, sched_setaffinity},
    time::{ClockId, clock_gettime},
};

/// A tenth of the share of a thread that is not niced. With less, what runs under it would starve beside a busy neighbour until its time is
/// over. Slices are left as they are: to Linux a shorter slice is a nearer deadline, so whoever has one goes first.
pub(crate) const NICENESS: i32 = 10;

/// How long a thread computes before it looks whether others wait.
const TURN: Duration = Duration::from_micros(300);

/// How long it then leaves its processor to them: enough for several of the quick steps that a task takes through the processes of a fleet.
const PAUSE: Duration = Duration::from_micros(500);

/// Lowers the priority of the calling thread, and of the processes that it starts.
pub(crate) fn lower() -> io::Result<()> {
    nice(NICENESS)?;
    Ok(())
}

/// Keeps the calling thread, and the processes that it starts, on half of the processors that it may use: the same half in every process of
/// the machine, so that the other half is free of whatever is confined, however many processes do so. A single processor is all.
pub(crate) fn confine() -> io::Result<()> {
    let allowed = sched_getaffinity(None)?;
    let usable: Vec<usize> = (0..CpuSet::MAX_CPU).filter(|&cpu| allowed.is_set(cpu)).collect();
    let mut half = CpuSet::new();
    for &cpu in usable.iter().skip(usable.len() / 2) {
        half.set(cpu);
    }
    sched_setaffinity(None, &half)?;
    Ok(())
}

/// The processor time of this thread. Not the time on a clock: who was kept from computing by others has not computed for long.
pub(crate) fn computed() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    let (seconds, nanos) = (u64::try_from(time.tv_sec), u64::try_from(time.tv_nsec));
    Duration::from_secs(seconds.unwrap_or(0)) + Duration::from_nanos(nanos.unwrap_or(0))
}

/// Gives way to whoever waits for the processor of the calling thread. To be called every now and then by what computes for long.
pub(crate) fn give_way() {
    thread_local! {
        static LATELY: Cell<Duration> = const { Cell::new(Duration::ZERO) };
    }
    std::thread::yield_now();
    LATELY.with(|lately| {
        if computed().saturating_sub(lately.get()) >= TURN {
            if is_crowded() {
                std::thread::sleep(PAUSE);
            }
            lately.set(computed());
        }
    });
}

/// Whether more threads of this machine want to run than it has processors. Where the system does not say, they never do. Costs 1 µs.
fn is_crowded() -> bool {
    static LOAD: LazyLock<Option<File>> = LazyLock::new(|| File::open("/proc/loadavg").ok());
    static PROCESSORS: LazyLock<usize> = LazyLock::new(|| {
        let online = std::fs::read_to_string("/sys/devices/system/cpu/online");
        let online = online.ok().and_then(|text| count(text.trim()));
        // Of the whole machine, as the load is; the latter counts only those that this process may use.
        online.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from))
    });
    let mut text = [0; 64];
    let read = LOAD.as_ref().and_then(|file| file.read_at(&mut text, 0).ok());
    let load = read.and_then(|read| std::str::from_utf8(text.get(..read)?).ok());
    load.and_then(runnable)
        .is_some_and(|runnable| runnable > *PROCESSORS)
}

/// The number before the stroke in `0.20 0.18 0.12 1/80 11206`.
fn runnable(load: &str) -> Option<usize> {
    load.split(' ').nth(3)?.split_once('/')?.0.parse().ok()
}

/// How many numbers are named by a list of ranges like `0-3,8,10-11`.
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
        let (before, after) = std::thread::spawn(|| {
            let before = sched_getaffinity(None).unwrap();
            confine().unwrap();
            (before, sched_getaffinity(None).unwrap())
        })
        .join()
        .unwrap();
        assert_eq!(after.count(), before.count().div_ceil(2));
        assert!((0..CpuSet::MAX_CPU).all(|cpu| before.is_set(cpu) || !after.is_set(cpu)));
        let again = std::thread::spawn(|| {
            confine().unwrap();
            sched_getaffinity(None).unwrap()
        });
        assert_eq!(again.join().unwrap(), after, "the same half for all");
    }

    #[test]
    fn a_machine_is_crowded_when_more_threads_compute_than_it_has_processors() {
        use std::sync::atomic::{AtomicBool, Ordering};
        static OVER: AtomicBool = AtomicBool::new(false);
        let busy: Vec<_> = (0..2 * std::thread::available_parallelism().unwrap().get())
            .map(|_| {
                std::thread::spawn(|| {
                    while !OVER.load(Ordering::Relaxed) {
                        std::hint::spin_loop();
                    }
                })
            })
            .collect();
        let begun = std::time::Instant::now();
        while !is_crowded() {
            assert!(begun.elapsed() < Duration::from_secs(30), "never crowded");
        }
        OVER.store(true, Ordering::Relaxed);
        for thread in busy {
            thread.join().unwrap();
        }
    }
}
