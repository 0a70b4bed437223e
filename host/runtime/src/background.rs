//! Threads for attempts that compute for long.
//!
//! An attempt begins on the threads of its caller, which also claim, commit and talk to the stores: most are over in microseconds, and a
//! change of threads would cost them more than that. One that goes on computing is continued here, on as many threads as there are
//! processors and of a lower priority than everything else: it gets what the others leave, which is all of an idle machine and a tenth of a
//! busy one. Its page faults, its copies and the clearing of its memory go with it. So does every HTTP exchange, whose other end may be
//! anybody's.

use std::{
    future::poll_fn,
    pin::Pin,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use rustix::time::{ClockId, clock_gettime};
use tokio::runtime::{Builder, Handle, Runtime};
use tokio_util::task::AbortOnDropHandle;

use crate::priority;

/// How long an attempt may compute before it is continued in the background: a few yields, far more than a change of threads costs.
pub const FOREGROUND: Duration = Duration::from_micros(500);

/// Work that can be continued on another thread.
pub(crate) type Work<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// Said by work that is about to take long: that it be continued in the background from its next wait on.
#[derive(Debug, Clone, Default)]
pub(crate) struct Wish(Arc<AtomicBool>);

impl Wish {
    pub(crate) fn make(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_made(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// Which threads an attempt begins on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Start {
    /// Those of the caller.
    #[default]
    Foreground,
    /// Those of a lower priority: for what is known to compute for long.
    Background,
}

/// The threads; started when they are first needed.
#[derive(Default)]
pub(crate) struct Background(OnceLock<Option<Runtime>>);

impl Background {
    /// Drives work to its end. Says how much processor time it took, and what it came to; nothing if the process
    /// is ending.
    ///
    /// # Panics
    /// If the work does.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        mut work: Work<T>,
        start: Start,
        wish: &Wish,
    ) -> (Option<T>, Duration) {
        let mut spent = Duration::ZERO;
        if start == Start::Foreground {
            let done = poll_fn(|context| match poll_timed(&mut work, context, &mut spent) {
                Poll::Ready(done) => Poll::Ready(Some(done)),
                Poll::Pending if spent >= FOREGROUND || wish.is_made() => Poll::Ready(None),
                Poll::Pending => Poll::Pending,
            });
            if let Some(done) = done.await {
                return (Some(done), spent);
            }
        }
        let rest = async move {
            let done = poll_fn(|context| {
                let polled = poll_timed(&mut work, context, &mut spent);
                if polled.is_pending() {
                    // Whoever woke up meanwhile need not wait until this thread's slice is over.
                    std::thread::yield_now();
                }
                polled
            });
            (done.await, spent)
        };
        match self.continued(Box::pin(rest)).await {
            Some((done, spent)) => (Some(done), spent),
            None => (None, spent),
        }
    }

    /// Drives work to its end on these threads, and says what it came to; nothing if the process is ending.
    ///
    /// # Panics
    /// If the work does.
    pub(crate) async fn continued<T: Send + 'static>(&self, work: Work<T>) -> Option<T> {
        let Some(threads) = self.threads() else {
            return Some(work.await);
        };
        // Ended with its caller, like everything that the caller awaits.
        match AbortOnDropHandle::new(threads.spawn(work)).await {
            Ok(done) => Some(done),
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(_) => None,
            },
        }
    }

    /// `None` if the system gives no threads: then everything runs on those of its caller.
    fn threads(&self) -> Option<&Handle> {
        let started = self.0.get_or_init(|| {
            let threads = std::thread::available_parallelism().map_or(1, usize::from);
            let runtime = Builder::new_multi_thread()
                .worker_threads(threads)
                .thread_name("background")
                .enable_all()
                .on_thread_start(|| {
                    // If it is refused, the work is merely as important as the rest.
                    if let Err(error) = priority::lower() {
                        tracing::debug!(%error, "the priority of a thread was not lowered");
                    }
                })
                .build();
            runtime
                .inspect_err(|error| tracing::warn!(%error, "no threads for attempts that compute for long"))
                .ok()
        });
        started.as_ref().map(Runtime::handle)
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        // Whoever drops it may be a thread that must not block.
        if let Some(Some(runtime)) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

fn poll_timed<T>(work: &mut Work<T>, context: &mut Context<'_>, spent: &mut Duration) -> Poll<T> {
    let begun = computed();
    let polled = work.as_mut().poll(context);
    *spent += computed().saturating_sub(begun);
    polled
}

/// The processor time of this thread. Not the time on a clock: who was kept from computing by others has not computed for long.
fn computed() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    let (seconds, nanos) = (u64::try_from(time.tv_sec), u64::try_from(time.tv_nsec));
    Duration::from_secs(seconds.unwrap_or(0)) + Duration::from_nanos(nanos.unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn thread() -> (String, i32) {
        let name = std::thread::current().name().unwrap_or_default().to_owned();
        (name, rustix::process::getpriority_process(None).unwrap())
    }

    #[tokio::test]
    async fn quick_work_stays_where_it_is() {
        let background = Background::default();
        let here = thread();
        let (there, _) = background
            .run(Box::pin(async { thread() }), Start::Foreground, &Wish::default())
            .await;
        assert_eq!(there.unwrap(), here);
        assert!(background.0.get().is_none(), "no threads were needed");
    }

    #[tokio::test]
    async fn work_that_computes_for_long_goes_on_with_a_lower_priority() {
        let background = Background::default();
        let (_, usual) = thread();
        let work = async {
            let before = thread();
            let begun = computed();
            while computed() - begun < FOREGROUND {}
            tokio::task::yield_now().await;
            (before, thread())
        };
        let (done, spent) = background
            .run(Box::pin(work), Start::Foreground, &Wish::default())
            .await;
        let (before, after) = done.unwrap();
        assert_eq!(before.1, usual);
        assert_eq!(
            after,
            ("background".to_owned(), (usual + priority::NICENESS).min(19))
        );
        assert!(spent >= FOREGROUND);
    }

    #[tokio::test]
    async fn work_that_wishes_for_it_goes_on_there_at_its_next_wait() {
        let (background, wish) = (Background::default(), Wish::default());
        let wished = wish.clone();
        let work = async move {
            wished.make();
            tokio::task::yield_now().await;
            thread().0
        };
        let (there, _) = background.run(Box::pin(work), Start::Foreground, &wish).await;
        assert_eq!(there.unwrap(), "background");
    }

    #[tokio::test]
    async fn what_waits_does_not_compute() {
        let background = Background::default();
        let work = async {
            tokio::time::sleep(20 * FOREGROUND).await;
            thread()
        };
        let here = thread();
        let (there, spent) = background
            .run(Box::pin(work), Start::Foreground, &Wish::default())
            .await;
        assert_eq!(there.unwrap(), here);
        assert!(spent < 20 * FOREGROUND);
    }

    #[tokio::test]
    async fn a_panic_there_is_one_here() {
        let work: Work<()> = Box::pin(async { panic!("so it was") });
        let caller = tokio::spawn(async move {
            Background::default()
                .run(work, Start::Background, &Wish::default())
                .await
        });
        let panic = caller.await.unwrap_err().into_panic();
        assert_eq!(*panic.downcast_ref::<&str>().unwrap(), "so it was");
    }

    #[tokio::test]
    async fn work_ends_with_its_caller() {
        let background = Background::default();
        let (alive, mut ended) = tokio::sync::mpsc::channel::<()>(1);
        let work: Work<()> = Box::pin(async move {
            let _alive = alive;
            std::future::pending::<()>().await;
        });
        let left = tokio::time::timeout(
            Duration::from_millis(50),
            background.run(work, Start::Background, &Wish::default()),
        )
        .await;
        assert!(left.is_err());
        assert_eq!(ended.recv().await, None);
    }
}
