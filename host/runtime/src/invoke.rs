//! One attempt: instantiate, call, and the time it may take.
//!
//! | file | the concept |
//! |---|---|
//! | `handler` | calling a component that exports the handler interface |
//! | `command` | calling a WASI command |
//! | `web` | calling a WASI web server |

mod command;
mod handler;
mod web;

use std::{
    panic::AssertUnwindSafe,
    pin::pin,
    sync::Arc,
    task::Poll,
    time::{Duration, Instant},
};

use futures_util::FutureExt as _;
use taskforge_domain::{
    Failure, FailureKind, Json, LogLine, Outcome, PluginInfo, Progress, TaskId, TenantId, Timestamp, Usage,
};
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::CancellationToken;
use wasmtime::Store;

use crate::{
    background::Untouched,
    code::Code,
    contract::handler::Task,
    engine::YIELD_INTERVAL,
    host::{Attempt, HostState, Switch, Values},
    plugin::Plugin,
    refusal::LoadError,
    runtime::Shared,
    verdict::{self, Ending},
};

/// After which time a task is tried again whose plugin could not be loaded.
const UNLOADED_RETRY: Duration = Duration::from_secs(10);

/// One attempt at a task.
pub struct Invocation {
    /// Whose task it is. Tenants never share a connection.
    pub tenant: TenantId,
    /// The task.
    pub task: TaskId,
    /// From 1.
    pub attempt: u32,
    /// The last attempt that will be made.
    pub max_attempts: u32,
    /// Matches the plugin's input schema; the runtime does not check it.
    pub input: Json,
    /// Ends the attempt early.
    pub cancel: CancellationToken,
    /// Called with each of the handler's reports, on the thread that runs it; must not block.
    pub progress: Option<Arc<dyn Fn(Progress) + Send + Sync>>,
}

/// What an attempt came to.
#[derive(Debug, Clone)]
pub struct Invoked {
    /// How it ended.
    pub outcome: Outcome,
    /// What it used.
    pub usage: Usage,
    /// What the handler and the host had to say, oldest first.
    pub logs: Vec<LogLine>,
}

/// See [`crate::Runtime::invoke`].
pub(crate) async fn invoke(shared: &Arc<Shared>, plugin: &Plugin, invocation: Invocation) -> Invoked {
    let cancel = &invocation.cancel;
    // The code first: a plugin that must be compiled waits without taking an instance from its neighbours.
    let ready = async {
        let code = plugin.code(shared).await?;
        let slot = Arc::clone(&shared.slots).acquire_owned().await;
        Ok::<_, LoadError>((code, slot.map_err(LoadError::internal)?))
    };
    let ready = tokio::select! {
        biased;
        ready = ready => Some(ready),
        () = cancel.cancelled() => None,
    };
    let (code, slot) = match ready {
        Some(Ok(ready)) if !cancel.is_cancelled() => ready,
        Some(Err(error)) => {
            tracing::error!(%error, plugin = %plugin.info().name, "a plugin's code is not there");
            // Retried later than other failures: what is in the way is this host's, and takes longer to pass.
            return unused(Failure {
                retry_after: Some(UNLOADED_RETRY),
                ..Failure::new(FailureKind::Internal, "the host could not load the plugin")
            });
        }
        _ => return unused(verdict::cancelled()),
    };
    let lane = shared.lanes.of(&invocation.tenant, plugin.info().digest);
    let untouched = Untouched::default();
    let entered = Entered {
        shared: Arc::clone(shared),
        info: Arc::clone(plugin.shared_info()),
        config: Arc::clone(plugin.config()),
        code,
        invocation,
        untouched: untouched.clone(),
        _slot: slot,
    };
    let running = shared.background.run(Box::pin(entered.run()), &lane, &untouched);
    let (ended, _) = running.await;
    ended.unwrap_or_else(|| unused(verdict::cancelled()))
}

/// An attempt that has its code and its instance.
struct Entered {
    shared: Arc<Shared>,
    info: Arc<PluginInfo>,
    config: Arc<Values>,
    code: Arc<Code>,
    invocation: Invocation,
    untouched: Untouched,
    // The last to go: what is dropped before it includes the instance.
    _slot: OwnedSemaphorePermit,
}

impl Entered {
    async fn run(self) -> Invoked {
        let started = Instant::now();
        let Self {
            shared, info, code, ..
        } = &self;
        let invocation = &self.invocation;
        let host = Attempt {
            plugin: Arc::clone(info),
            tenant: invocation.tenant.clone(),
            task: invocation.task,
            progress: invocation.progress.clone(),
            mailer: Arc::clone(&shared.config.mailer),
            egress: Arc::clone(&shared.egress),
            config: Arc::clone(&self.config),
            key_value: shared.config.key_value.clone(),
            untouched: self.untouched.clone(),
        };
        let id = invocation.task.to_string();
        let task = Task {
            id: &id,
            attempt: invocation.attempt,
            max_attempts: invocation.max_attempts,
            deadline: deadline_millis(info.limits.deadline),
            input: invocation.input.as_str(),
        };
        let mut store = store(shared, info, HostState::new(host));
        let ending = {
            let run = call(code, &mut store, task);
            // A host function that panics is our bug. The guest's attempt pays for it, not its neighbours.
            bounded(
                AssertUnwindSafe(run).catch_unwind(),
                info.limits.deadline,
                &invocation.cancel,
            )
            .await
        };
        let outcome = verdict::of_attempt(ending, &store, info);
        finish(store, info, outcome, started)
    }
}

/// Hands the task in by the component's own door, and takes the text of an output or a failure of the handler's own.
async fn call(
    code: &Code,
    store: &mut Store<HostState>,
    task: Task<'_>,
) -> wasmtime::Result<Result<String, Failure>> {
    match code {
        Code::Handler(code) => handler::call(code, store, task).await,
        Code::Command(code) => command::call(code, store, task).await,
        Code::Http(code) => web::call(code, store, task).await,
    }
}

/// What a command wrote or a web server answered, as the text of an output. Who says nothing says null.
fn text(bytes: Vec<u8>) -> Result<String, Failure> {
    let text = String::from_utf8(bytes).map_err(|error| {
        let why = format!("the output is not UTF-8: {error}");
        Failure::new(FailureKind::InvalidOutput, why)
    })?;
    Ok(if text.trim().is_empty() {
        "null".to_owned()
    } else {
        text
    })
}

/// An attempt that ended before it began.
fn unused(failure: Failure) -> Invoked {
    Invoked {
        outcome: Outcome::Failed(failure),
        usage: Usage::default(),
        logs: Vec::new(),
    }
}

/// Usage and logs, taken before the instance is dropped.
fn finish(mut store: Store<HostState>, info: &PluginInfo, outcome: Outcome, started: Instant) -> Invoked {
    let fuel = info.limits.fuel.saturating_sub(store.get_fuel().unwrap_or(0));
    let state = store.data_mut();
    let logs = state.log.lock().finish();
    let usage = Usage {
        fuel,
        peak_memory: state.limiter.peak(),
        wall_micros: u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX),
        host_calls: state.calls.made(),
        http_requests: state.outbound.requests(),
        http_bytes: state.outbound.received(),
    };
    Invoked { outcome, usage, logs }
}

/// A store with its limits set. Also serves `describe`.
pub(crate) fn store(shared: &Shared, info: &PluginInfo, state: HostState) -> Store<HostState> {
    let mut store = Store::new(&shared.engine, state);
    store.limiter_async(|state| &mut state.limiter);
    store.call_hook_async(Switch);
    // Both fail only without `consume_fuel` and async support, which the engine always has; a store without fuel
    // traps at once.
    if store.set_fuel(info.limits.fuel).is_err()
        || store.fuel_async_yield_interval(Some(YIELD_INTERVAL)).is_err()
    {
        tracing::error!("the engine was built without fuel");
    }
    store
}

/// Drives a future until it ends, its time is up or it is cancelled; then drops it, which unwinds the guest.
///
/// A handler that ends before it first waits or yields, as most do, never touches the timer.
pub(crate) async fn bounded<T>(
    future: impl Future<Output = std::thread::Result<wasmtime::Result<T>>>,
    deadline: Duration,
    cancel: &CancellationToken,
) -> Ending<T> {
    let mut future = pin!(future);
    let now = tokio::time::Instant::now();
    // An absurd deadline in a settings file is no deadline for thirty years, not a panic.
    let limit = now
        .checked_add(deadline)
        .unwrap_or(now + Duration::from_secs(30 * 365 * 24 * 3600));
    if let Poll::Ready(result) = futures_util::poll!(future.as_mut()) {
        return Ending::of(result);
    }
    tokio::select! {
        biased;
        () = cancel.cancelled() => Ending::Cancelled,
        () = tokio::time::sleep_until(limit) => Ending::Deadline,
        result = future => Ending::of(result),
    }
}

fn deadline_millis(deadline: Duration) -> u64 {
    let now = u64::try_from(Timestamp::now().as_millisecond()).unwrap_or(0);
    now.saturating_add(u64::try_from(deadline.as_millis()).unwrap_or(u64::MAX))
}
