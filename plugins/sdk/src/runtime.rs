//! The event loop behind an `async` handler: `wstd` in a component, a parked thread in native unit
//! tests.

use std::{future::Future, time::Duration};

#[cfg(target_family = "wasm")]
pub(crate) fn block_on<F: Future>(future: F) -> F::Output {
    wstd::runtime::block_on(future)
}

#[cfg(not(target_family = "wasm"))]
pub(crate) fn block_on<F: Future>(future: F) -> F::Output {
    use std::{
        pin::pin,
        sync::Arc,
        task::{Context, Poll, Wake, Waker},
        thread::{self, Thread},
    };

    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }

    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut context = Context::from_waker(&waker);
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut context) {
            Poll::Ready(output) => return output,
            Poll::Pending => thread::park(),
        }
    }
}

/// Waits, while other futures of the handler go on. The attempt's deadline does not stop for it: to
/// wait for long, return [`Failure::retry_after`](crate::Failure::retry_after), so that the worker
/// can run other tasks meanwhile.
pub async fn sleep(duration: Duration) {
    #[cfg(target_family = "wasm")]
    wstd::task::sleep(duration.into()).await;
    #[cfg(not(target_family = "wasm"))]
    std::thread::sleep(duration);
}

/// Runs a future for at most as long as `limit`; `None` when that was not enough.
#[cfg(target_family = "wasm")]
pub(crate) async fn timeout<F: Future>(future: F, limit: Duration) -> Option<F::Output> {
    use wstd::future::FutureExt;
    future.timeout(wstd::time::Duration::from(limit)).await.ok()
}
