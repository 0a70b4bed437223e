//! Counts the guest's calls to the host, and acts at each crossing between the two.
//!
//! A call is counted where its host function fetches the state, which happens once a call. The
//! engine's hook also fires for internal calls (growing a memory, yielding), so it enforces the
//! limit but does not count.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use taskforge_domain::Limits;
use tokio::task::yield_now;
use wasmtime::{CallHook, CallHookHandler, StoreContextMut};

use super::HostState;

/// The most that one call may carry from the guest to the host, in bytes, if the attempt's budget
/// has room: twice the largest value that a plugin may keep. A list of short strings of this size
/// takes 5 ms to copy out of the guest and to drop.
pub(crate) const CARGO: usize = 2 << 20;

/// What a result needs besides its text: tags, lengths, the failure's delay.
const RESULT_OVERHEAD: usize = 64;

/// How long a guest may call the host before it yields. Host functions burn no fuel, so a guest
/// that only calls the host would yield too rarely. The clock is read after each call, because one
/// call may take as long as thousands of others.
const TURN: Duration = Duration::from_millis(1);

/// The guest made more calls than it may.
#[derive(Debug, thiserror::Error)]
#[error("the limit of {0} host calls")]
pub(crate) struct HostCallLimit(u64);

/// Calls of one attempt.
#[derive(Debug)]
pub(crate) struct Calls {
    count: u64,
    limit: u64,
    /// When the guest last yielded because of its calls.
    turn: Instant,
    output: usize,
    returned: bool,
}

impl Calls {
    pub(super) fn new(limits: &Limits) -> Self {
        let output =
            usize::try_from(limits.output).unwrap_or(usize::MAX).saturating_add(RESULT_OVERHEAD);
        Self { count: 0, limit: limits.host_calls, turn: Instant::now(), output, returned: false }
    }

    pub(super) const fn count(&mut self) {
        self.count += 1;
    }

    /// Calls so far.
    pub(crate) const fn made(&self) -> u64 {
        self.count
    }

    /// Whether the last crossing was a return from the guest, so that a failure now comes from
    /// reading its result.
    pub(crate) const fn returned(&self) -> bool {
        self.returned
    }
}

/// Acts at every crossing between guest and host.
pub(crate) struct Switch;

impl Switch {
    /// Returns whether the guest must yield.
    fn cross(
        store: &mut StoreContextMut<'_, HostState>,
        event: CallHook,
    ) -> wasmtime::Result<bool> {
        let calls = &mut store.data_mut().calls;
        calls.returned = false;
        match event {
            CallHook::CallingHost => {
                let cargo = store.data_mut().cargo(CARGO);
                store.set_hostcall_fuel(cargo);
            }
            CallHook::ReturningFromHost => {
                if calls.count > calls.limit {
                    return Err(HostCallLimit(calls.limit).into());
                }
                return Ok(calls.turn.elapsed() >= TURN);
            }
            CallHook::CallingWasm => {}
            // The engine reads the result next, and checks the size before it copies.
            CallHook::ReturningFromWasm => {
                calls.returned = true;
                let output = calls.output;
                let output = store.data_mut().cargo(output);
                store.set_hostcall_fuel(output);
            }
        }
        Ok(false)
    }
}

// Without `async_trait`, which would allocate a future at each crossing; a small attempt has
// twenty.
impl CallHookHandler<HostState> for Switch {
    fn handle_call_event<'a, 'b, 'c>(
        &'a self,
        mut store: StoreContextMut<'b, HostState>,
        event: CallHook,
    ) -> Pin<Box<dyn Future<Output = wasmtime::Result<()>> + Send + 'c>>
    where
        'a: 'c,
        'b: 'c,
        Self: 'c,
    {
        match Self::cross(&mut store, event) {
            Ok(false) => Box::pin(GoOn),
            Ok(true) => Box::pin(async move {
                yield_now().await;
                store.data_mut().calls.turn = Instant::now();
                Ok(())
            }),
            Err(error) => Box::pin(std::future::ready(Err(error))),
        }
    }
}

/// Ready at once, and of size zero, so that boxing it does not allocate.
struct GoOn;

impl Future for GoOn {
    type Output = wasmtime::Result<()>;

    fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Self::Output> {
        Poll::Ready(Ok(()))
    }
}
