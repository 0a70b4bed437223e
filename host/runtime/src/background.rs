//! Threads for attempts that compute for long.
//!
//! An attempt of a [lane](Lane) that is known to be quick begins on the threads of its caller,
//! which also claim, commit and talk to the stores: most are over in microseconds, and a change of
//! threads would cost them more than that. Any other, and one that goes on computing, runs here, on
//! as many threads as there are processors, which have a lower priority and give way to everything
//! else: it gets what the others leave, which is all of an idle machine and a tenth of a busy one.
//! Its copies and the clearing of its memory go with it. So does every HTTP exchange, whose other
//! end may be anybody's.
//!
//! No attempt computes for long without coming back (see [`chunks`](crate::chunks) and
//! [`host`](crate::host)). What the host does with what an attempt leaves may take longer (reading
//! a large output, giving back a large memory) and runs on threads that do nothing else.

mod lane;

use std::{
    future::poll_fn,
    pin::Pin,
    sync::{Arc, Once, OnceLock},
    task::Poll,
    time::Duration,
};

use tokio::runtime::{Builder, Handle, Runtime};
use tokio_util::task::AbortOnDropHandle;

use crate::processors::{self, Share, computed};
pub(crate) use lane::{Lane, Lanes};

/// How long an attempt may compute before it is continued in the background: a few yields, far more
/// than a change of threads costs.
const FOREGROUND: Duration = Duration::from_micros(500);

/// How long work may compute without coming back before its lane is no longer trusted with a thread
/// of the foreground. A guest in a loop comes back after a tenth of a millisecond.
const STUBBORN: Duration = Duration::from_millis(2);

/// Work that can be continued on another thread.
pub(crate) type Work<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// Which threads work runs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Threads {
    /// Those of the caller.
    Foreground,
    /// Those that have a lower priority and give way.
    Background,
}

/// What an attempt took of the processors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Effort {
    /// Processor time.
    pub computed: Duration,
    /// The longest that it computed without coming back.
    pub longest: Duration,
}

impl Effort {
    /// Where work belongs that takes so much.
    fn threads(&self) -> Threads {
        if self.computed >= FOREGROUND { Threads::Background } else { Threads::Foreground }
    }
}

/// The threads; started when they are first needed.
pub(crate) struct Background {
    processors: usize,
    share: Share,
    giving_way: OnceLock<Option<Runtime>>,
}

impl Default for Background {
    fn default() -> Self {
        Self {
            // Not when they are first needed: that may be on a thread that has another one.
            share: Share::of_this_thread(),
            processors: std::thread::available_parallelism().map_or(1, usize::from),
            giving_way: OnceLock::new(),
        }
    }
}

impl Background {
    /// Drives work to its end. Says what it came to, or nothing if the process is ending, and what
    /// it took.
    ///
    /// # Panics
    /// If the work does.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        work: Work<T>,
        lane: &Arc<Lane>,
    ) -> (Option<T>, Effort) {
        let mut driven = Driven { work, lane: Arc::clone(lane), effort: Effort::default() };
        let begin = lane.threads();
        if begin == Threads::Foreground {
            match driven.run_on(Threads::Foreground).await {
                (Next::Done(done), effort) => {
                    lane.ended(effort, Threads::Foreground);
                    return (Some(done), effort);
                }
                (Next::GoOn(rest), effort) => {
                    lane.left(effort);
                    driven = rest;
                }
            }
        }
        let so_far = driven.effort;
        let Some(pool) = self.pool() else {
            return (Some(driven.work.await), so_far);
        };
        match on(pool, driven.run_on(Threads::Background)).await {
            Some((Next::Done(done), effort)) => {
                lane.ended(effort, Threads::Background);
                (Some(done), effort)
            }
            Some((Next::GoOn(_), effort)) => (None, effort),
            None => (None, so_far),
        }
    }

    /// Drives work to its end on these threads, and says what it came to; nothing if the process is
    /// ending.
    ///
    /// # Panics
    /// If the work does.
    pub(crate) async fn continued<T: Send + 'static>(&self, mut work: Work<T>) -> Option<T> {
        let Some(pool) = self.pool() else {
            return Some(work.await);
        };
        let giving_way = poll_fn(move |context| {
            processors::give_way();
            work.as_mut().poll(context)
        });
        on(pool, giving_way).await
    }

    /// Does what takes its time and cannot yield, on a thread that does nothing else meanwhile and
    /// has the lower priority.
    pub(crate) fn apart(&self, work: impl FnOnce() + Send + 'static) {
        match self.pool() {
            Some(pool) => drop(pool.spawn_blocking(work)),
            None => work(),
        }
    }

    /// `None` if the system gives no threads.
    fn pool(&self) -> Option<&Handle> {
        let share = self.share;
        let pool = self.giving_way.get_or_init(|| start(self.processors, move || share.lower()));
        pool.as_ref().map(Runtime::handle)
    }
}

/// Polls after which timers and sockets are looked at: a thread that is never idle does so only
/// then.
const INTERVAL: u32 = 8;

fn start(
    threads: usize,
    prepare: impl Fn() -> std::io::Result<()> + Send + Sync + 'static,
) -> Option<Runtime> {
    static REFUSED: Once = Once::new();
    Builder::new_multi_thread()
        .worker_threads(threads)
        .event_interval(INTERVAL)
        .thread_name("background")
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
async fn on<T: Send + 'static>(
    pool: &Handle,
    future: impl Future<Output = T> + Send + 'static,
) -> Option<T> {
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
        if let Some(Some(runtime)) = self.giving_way.take() {
            runtime.shutdown_background();
        }
    }
}

/// Work and what it has taken so far.
struct Driven<T> {
    work: Work<T>,
    lane: Arc<Lane>,
    effort: Effort,
}

/// What comes after work has run on some threads.
enum Next<T> {
    /// Nothing.
    Done(T),
    /// The rest.
    GoOn(Driven<T>),
}

impl<T> Driven<T> {
    /// Drives the work until it is done, or belongs on other threads.
    async fn run_on(mut self, threads: Threads) -> (Next<T>, Effort) {
        let done = poll_fn(|context| {
            if threads == Threads::Background {
                processors::give_way();
            } else if !self.lane.is_trusted() {
                // Another attempt of the lane holds a thread, or has just done so.
                return Poll::Ready(None);
            }
            let begun = computed();
            let polled = self.work.as_mut().poll(context);
            let took = computed().saturating_sub(begun);
            self.effort.computed += took;
            self.effort.longest = self.effort.longest.max(took);
            match polled {
                Poll::Ready(done) => Poll::Ready(Some(done)),
                Poll::Pending if threads == Threads::Background => Poll::Pending,
                Poll::Pending if self.effort.computed < FOREGROUND => Poll::Pending,
                // What it waits for is to wake it where it goes on.
                Poll::Pending => Poll::Ready(None),
            }
        })
        .await;
        let effort = self.effort;
        (done.map_or_else(|| Next::GoOn(self), Next::Done), effort)
    }
}

#[cfg(test)]
mod tests;
