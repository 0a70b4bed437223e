//! Threads for attempts that compute for long.
//!
//! An attempt whose [profile](Profile) is quick begins in the *foreground*: on the threads of its
//! caller, which also claim and commit. Most attempts end within microseconds, and a change of
//! threads would cost more than that. Every other attempt, and one that goes on computing, runs in
//! the *background*: on as many threads as there are processors, with a lower priority. It gets
//! what other threads leave, which is all of an idle machine and a tenth of a busy one. Its copies
//! and the clearing of its memory happen there too, and so does every HTTP exchange.
//!
//! No attempt computes for long without yielding (see [`chunks`](crate::chunks) and
//! [`host`](crate::host)). Work of the host that takes longer, such as parsing a large output or
//! dropping a large memory, runs on threads that do nothing else.

mod profile;

use std::{
    future::poll_fn,
    pin::Pin,
    sync::{Arc, Once, OnceLock},
    task::Poll,
    time::Duration,
};

use tokio::runtime::{Builder, Handle, Runtime};
use tokio_util::task::AbortOnDropHandle;

use super::processors::{self, Share, computed};
pub(crate) use profile::{Profile, Profiles};

/// Processor time after which an attempt goes on in the background: a few yields, and far more than
/// a change of threads costs.
const FOREGROUND: Duration = Duration::from_micros(500);

/// An attempt that computed for so long without a yield blocked its thread, and costs its profile
/// the foreground. A guest in a loop yields after a tenth of a millisecond.
const BLOCKED: Duration = Duration::from_millis(2);

/// Work that can be continued on another thread.
pub(crate) type Work<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// The threads that work runs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Threads {
    /// The caller's.
    Foreground,
    /// Those of a lower priority.
    Background,
}

/// What an attempt used of the processors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Effort {
    /// Processor time.
    pub computed: Duration,
    /// The longest that it computed without a yield.
    pub longest: Duration,
}

impl Effort {
    /// The threads for attempts that use so much.
    fn threads(&self) -> Threads {
        if self.computed >= FOREGROUND { Threads::Background } else { Threads::Foreground }
    }
}

/// The background threads; started when they are first needed.
pub(crate) struct Background {
    processors: usize,
    share: Share,
    giving_way: OnceLock<Option<Runtime>>,
}

impl Default for Background {
    fn default() -> Self {
        Self {
            // Now, because the thread that first needs them may have another share.
            share: Share::of_this_thread(),
            processors: std::thread::available_parallelism().map_or(1, usize::from),
            giving_way: OnceLock::new(),
        }
    }
}

impl Background {
    /// Drives work to its end. Returns its result, or `None` if the process is ending, and what it
    /// used.
    ///
    /// # Panics
    /// If the work does.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        work: Work<T>,
        profile: &Arc<Profile>,
    ) -> (Option<T>, Effort) {
        let mut driven = Driven { work, profile: Arc::clone(profile), effort: Effort::default() };
        let begin = profile.threads();
        if begin == Threads::Foreground {
            match driven.run_on(Threads::Foreground).await {
                (Next::Done(done), effort) => {
                    profile.ended(effort, Threads::Foreground);
                    return (Some(done), effort);
                }
                (Next::GoOn(rest), effort) => {
                    profile.left(effort);
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
                profile.ended(effort, Threads::Background);
                (Some(done), effort)
            }
            Some((Next::GoOn(_), effort)) => (None, effort),
            None => (None, so_far),
        }
    }

    /// Drives work to its end in the background. Returns its result, or `None` if the process is
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

    /// Does work that cannot yield, on a thread of the lower priority that does nothing else
    /// meanwhile.
    pub(crate) fn apart(&self, work: impl FnOnce() + Send + 'static) {
        match self.pool() {
            Some(pool) => drop(pool.spawn_blocking(work)),
            None => work(),
        }
    }

    /// `None` if the system refuses threads.
    fn pool(&self) -> Option<&Handle> {
        let share = self.share;
        let pool = self.giving_way.get_or_init(|| start(self.processors, move || share.lower()));
        pool.as_ref().map(Runtime::handle)
    }
}

/// Polls after which a thread that is never idle looks at timers and sockets.
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
            // If this is refused, the work has the priority of all other work.
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

/// Runs a future on other threads until it ends or its caller does. `None`: the process is ending.
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
        // The thread that drops this may be one that must not block.
        if let Some(Some(runtime)) = self.giving_way.take() {
            runtime.shutdown_background();
        }
    }
}

/// Work, and what it has used so far.
struct Driven<T> {
    work: Work<T>,
    profile: Arc<Profile>,
    effort: Effort,
}

/// The state of work that has run on some threads.
enum Next<T> {
    Done(T),
    /// It goes on in the background.
    GoOn(Driven<T>),
}

impl<T> Driven<T> {
    /// Drives the work until it is done or must go on elsewhere.
    async fn run_on(mut self, threads: Threads) -> (Next<T>, Effort) {
        let done = poll_fn(|context| {
            if threads == Threads::Background {
                processors::give_way();
            } else if !self.profile.is_trusted() {
                // Another attempt of the profile has just blocked a thread.
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
                // Polled again in the background, so that what it waits for wakes it there.
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
