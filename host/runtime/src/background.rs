//! Threads for attempts that compute for long.
//!
//! An attempt of a [lane](Lane) that is known to be quick begins on the threads of its caller, which also
//! claim, commit and talk to the stores: most are over in microseconds, and a change of threads would cost
//! them more than that. Any other, and one that goes on computing, runs here, on as many threads as there
//! are processors, which have a lower priority and give way to everything else: it gets what the others
//! leave, which is all of an idle machine and a tenth of a busy one. Its copies and the clearing of its
//! memory go with it. So does every HTTP exchange, whose other end may be anybody's.
//!
//! Some work does not come back for milliseconds and so cannot give way: above all the first touch of much memory, which the kernel clears
//! page by page within a single instruction of the guest. It is confined to threads that keep to half of the processors.

mod lane;

use std::{
    future::poll_fn,
    pin::Pin,
    sync::{
        Arc, Once, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    task::Poll,
    time::Duration,
};

use tokio::runtime::{Builder, Handle, Runtime};
use tokio_util::task::AbortOnDropHandle;

use crate::processors::{self, Share, computed};
pub(crate) use lane::{Lane, Lanes};

/// How long an attempt may compute before it is continued in the background: a few yields, far more than a change of threads costs.
const FOREGROUND: Duration = Duration::from_micros(500);

/// How long work may compute without coming back before it counts as work that does not give way. A guest in a loop comes back after a tenth
/// of a millisecond.
const STUBBORN: Duration = Duration::from_millis(2);

/// How long it takes to touch a mebibyte for the first time: 0.6 ms where it was measured, without huge pages.
const TOUCH: Duration = Duration::from_millis(1);

/// Work that can be continued on another thread.
pub(crate) type Work<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// The memory in bytes that work was granted and has not been given the time to touch yet.
#[derive(Debug, Clone, Default)]
pub(crate) struct Untouched(Arc<AtomicU64>);

impl Untouched {
    pub(crate) fn add(&self, bytes: u64) {
        self.0.fetch_add(bytes, Ordering::Relaxed);
    }

    /// The time to touch it all; counted as given.
    pub(crate) fn take(&self) -> Duration {
        // Read first, because it hardly ever is anything.
        match self.0.load(Ordering::Relaxed) {
            0 => Duration::ZERO,
            _ => {
                let mebibytes = self.0.swap(0, Ordering::Relaxed).div_ceil(1 << 20);
                TOUCH.saturating_mul(u32::try_from(mebibytes).unwrap_or(u32::MAX))
            }
        }
    }
}

/// Which threads work runs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) enum Threads {
    /// Those of the caller.
    Foreground,
    /// Those that have a lower priority and give way.
    #[default]
    Background,
    /// Those that in addition keep to half of the processors.
    Confined,
}

/// What an attempt took of the processors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Effort {
    /// Processor time.
    pub(crate) computed: Duration,
    /// The longest that it computed without coming back.
    pub(crate) longest: Duration,
}

impl Effort {
    /// Where work belongs that takes so much.
    pub(crate) fn threads(&self) -> Threads {
        if self.longest >= STUBBORN {
            Threads::Confined
        } else if self.computed >= FOREGROUND {
            Threads::Background
        } else {
            Threads::Foreground
        }
    }
}

/// The threads; started when they are first needed.
pub(crate) struct Background {
    processors: usize,
    share: Share,
    giving_way: OnceLock<Option<Runtime>>,
    confined: OnceLock<Option<Runtime>>,
}

impl Default for Background {
    fn default() -> Self {
        Self {
            // Not when they are first needed: that may be on a thread that is confined.
            share: Share::of_this_thread(),
            processors: std::thread::available_parallelism().map_or(1, usize::from),
            giving_way: OnceLock::new(),
            confined: OnceLock::new(),
        }
    }
}

impl Background {
    /// Drives work to its end. Says what it came to, or nothing if the process is ending, and what it took.
    ///
    /// # Panics
    /// If the work does.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        work: Work<T>,
        lane: &Arc<Lane>,
        untouched: &Untouched,
    ) -> (Option<T>, Effort) {
        let begin = lane.threads();
        let mut driven = Driven {
            work,
            lane: Arc::clone(lane),
            effort: Effort::default(),
            untouched: untouched.clone(),
            confined: if begin == Threads::Confined {
                Duration::MAX
            } else {
                Duration::ZERO
            },
        };
        let mut threads = begin;
        loop {
            let so_far = driven.effort;
            let ended = if threads == Threads::Foreground {
                driven.run_on(threads).await
            } else if let Some(pool) = self.pool(threads) {
                match on(pool, driven.run_on(threads)).await {
                    Some(ended) => ended,
                    None => return (None, so_far),
                }
            } else {
                return (Some(driven.work.await), so_far);
            };
            match ended {
                (Next::Done(done), effort) => {
                    lane.ended(effort, threads);
                    return (Some(done), effort);
                }
                (Next::GoOn(rest, there), effort) => {
                    if threads == Threads::Foreground {
                        lane.left(effort);
                    }
                    (driven, threads) = (rest, there);
                }
            }
        }
    }

    /// Drives work to its end on these threads, and says what it came to; nothing if the process is ending.
    ///
    /// # Panics
    /// If the work does.
    pub(crate) async fn continued<T: Send + 'static>(&self, mut work: Work<T>) -> Option<T> {
        let Some(pool) = self.pool(Threads::Background) else {
            return Some(work.await);
        };
        let giving_way = poll_fn(move |context| {
            processors::give_way();
            work.as_mut().poll(context)
        });
        on(pool, giving_way).await
    }

    /// `None` for those of the caller, and if the system gives no threads.
    fn pool(&self, threads: Threads) -> Option<&Handle> {
        let share = self.share;
        let pool = match threads {
            Threads::Foreground => return None,
            Threads::Background => self
                .giving_way
                .get_or_init(|| start("background", self.processors, 8, move || share.lower())),
            Threads::Confined => self.confined.get_or_init(|| {
                let threads = (self.processors / 2).max(1);
                // What is polled here may take milliseconds.
                start("confined", threads, 1, move || share.confine())
            }),
        };
        pool.as_ref().map(Runtime::handle)
    }
}

/// Timers and sockets are looked at after each `interval` polls, because a thread that is never idle looks at them only then.
fn start(
    name: &str,
    threads: usize,
    interval: u32,
    prepare: impl Fn() -> std::io::Result<()> + Send + Sync + 'static,
) -> Option<Runtime> {
    static REFUSED: Once = Once::new();
    Builder::new_multi_thread()
        .worker_threads(threads)
        .event_interval(interval)
        .thread_name(name)
        .enable_all()
        .on_thread_start(move || {
            // If it is refused, the work is merely as important as the rest.
            if let Err(error) = prepare() {
                REFUSED.call_once(|| {
                    tracing::warn!(%error, "attempts that compute for long cannot be set back behind other work");
                });
            }
        })
        .build()
        .inspect_err(|error| tracing::warn!(%error, "no threads for attempts that compute for long"))
        .ok()
}

/// Runs a future on other threads, to its end or that of its caller. `None`: the process is ending.
async fn on<T: Send + 'static>(pool: &Handle, future: impl Future<Output = T> + Send + 'static) -> Option<T> {
    match AbortOnDropHandle::new(pool.spawn(future)).await {
        Ok(done) => Some(done),
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => None,
        },
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        // Whoever drops it may be a thread that must not block.
        for pool in [self.giving_way.take(), self.confined.take()] {
            if let Some(Some(runtime)) = pool {
                runtime.shutdown_background();
            }
        }
    }
}

/// Work on its way from threads to threads.
struct Driven<T> {
    work: Work<T>,
    lane: Arc<Lane>,
    effort: Effort,
    untouched: Untouched,
    /// The processor time that it is still to be confined for.
    confined: Duration,
}

/// What comes after work has run on some threads.
enum Next<T> {
    /// Nothing.
    Done(T),
    /// The rest, on these.
    GoOn(Driven<T>, Threads),
}

impl<T> Driven<T> {
    /// Drives the work until it is done, or belongs on other threads.
    async fn run_on(mut self, threads: Threads) -> (Next<T>, Effort) {
        let done = poll_fn(|context| {
            if threads != Threads::Foreground {
                processors::give_way();
            } else if !self.lane.is_trusted() {
                // Another attempt of the lane holds a thread, or has just done so.
                return Poll::Ready(None);
            }
            let begun = computed();
            let polled = self.work.as_mut().poll(context);
            self.count(computed().saturating_sub(begun));
            if let Poll::Ready(done) = polled {
                return Poll::Ready(Some(done));
            }
            if self.belongs(threads) == threads {
                Poll::Pending
            } else {
                Poll::Ready(None)
            }
        })
        .await;
        let effort = self.effort;
        let next = done.map_or_else(
            || {
                let there = self.belongs(threads);
                Next::GoOn(self, there)
            },
            Next::Done,
        );
        (next, effort)
    }

    fn count(&mut self, took: Duration) {
        self.effort.computed += took;
        self.effort.longest = self.effort.longest.max(took);
        if took >= STUBBORN {
            // Once is enough: it may do so again at any time.
            self.confined = Duration::MAX;
        } else if self.confined != Duration::MAX {
            self.confined = self.confined.saturating_sub(took) + self.untouched.take();
        }
    }

    fn belongs(&self, threads: Threads) -> Threads {
        if !self.confined.is_zero() {
            Threads::Confined
        } else if threads == Threads::Foreground
            && self.effort.computed < FOREGROUND
            && self.lane.is_trusted()
        {
            Threads::Foreground
        } else {
            Threads::Background
        }
    }
}

#[cfg(test)]
mod tests;
