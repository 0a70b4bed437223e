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
    future::poll_fn,
    panic::AssertUnwindSafe,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::{Context, Poll, Wake, Waker},
    time::{Duration, Instant},
};

use futures_util::{FutureExt as _, task::AtomicWaker};
use taskforge_domain::{
    Failure, FailureKind, Json, LogLine, Outcome, PluginInfo, Progress, Shape, TaskId, TenantId,
    Timestamp, Usage,
};
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tokio_util::sync::CancellationToken;
use wasmtime::Store;

use crate::{
    background::{Background, Effort},
    code::Code,
    contract::handler::Task,
    engine::yield_interval,
    host::{Attempt, HostState, Switch, Values},
    plugin::Plugin,
    refusal::LoadError,
    runtime::Shared,
    tail::LogTail,
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
    /// Shows the attempt's log while it runs.
    pub log: LogTail,
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
    /// What it took of the processors.
    pub effort: Effort,
}

/// See [`crate::Runtime::invoke`].
pub(crate) async fn invoke(
    shared: &Arc<Shared>,
    plugin: &Plugin,
    invocation: Invocation,
) -> Invoked {
    let cancel = &invocation.cancel;
    // The code first: a plugin that must be compiled waits without taking an instance from its
    // neighbours.
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
            // Retried later than other failures: what is in the way is this host's, and takes
            // longer to pass.
            return unused(Failure {
                retry_after: Some(UNLOADED_RETRY),
                ..Failure::new(FailureKind::Internal, "the host could not load the plugin")
            });
        }
        _ => return unused(verdict::cancelled()),
    };
    let lane = shared.lanes.of(&invocation.tenant, plugin.info().digest);
    let entered = Entered {
        shared: Arc::clone(shared),
        info: Arc::clone(plugin.shared_info()),
        config: Arc::clone(plugin.config()),
        code,
        invocation,
        slot,
    };
    let running = shared.background.run(Box::pin(entered.run()), &lane);
    let (ended, effort) = running.await;
    let ended = ended.unwrap_or_else(|| unused(verdict::cancelled()));
    Invoked { effort, ..ended }
}

/// An attempt that has its code and its instance.
struct Entered {
    shared: Arc<Shared>,
    info: Arc<PluginInfo>,
    config: Arc<Values>,
    code: Arc<Code>,
    invocation: Invocation,
    slot: OwnedSemaphorePermit,
}

impl Entered {
    async fn run(self) -> Invoked {
        let started = Instant::now();
        let Self { shared, info, config, code, invocation, slot } = self;
        let host = Attempt {
            plugin: Arc::clone(&info),
            tenant: invocation.tenant.clone(),
            task: invocation.task,
            progress: invocation.progress.clone(),
            mail: Arc::clone(&shared.mail),
            egress: Arc::clone(&shared.egress),
            config,
            key_value: shared.config.key_value.clone(),
        };
        let id = invocation.task.to_string();
        let task = Task {
            id: &id,
            attempt: invocation.attempt,
            max_attempts: invocation.max_attempts,
            deadline: deadline_millis(info.limits.deadline),
            input: invocation.input.as_str(),
        };
        let mut store = store(&shared, &info, HostState::new(host));
        invocation.log.follow(&store.data().log);
        let ending = {
            let run = call(&code, &mut store, task);
            // A host function that panics is our bug. The guest's attempt pays for it, not its
            // neighbours.
            bounded(AssertUnwindSafe(run).catch_unwind(), info.limits.deadline, &invocation.cancel)
                .await
        };
        let ended = Ended {
            ending,
            store,
            info,
            started,
            background: Arc::clone(&shared.background),
            slot,
        };
        ended.finish().await
    }
}

/// The size in bytes from which on an output is read apart. JSON is read at some 300 MB/s.
const LARGE_OUTPUT: usize = 256 << 10;

/// The memory in bytes from which on an instance is given back apart. Giving back takes up to
/// 0.08 ms for each mebibyte that was touched.
const LARGE_INSTANCE: u64 = 8 << 20;

/// An attempt that is over, and what it left.
struct Ended {
    ending: Ending<Result<String, Failure>>,
    store: Store<HostState>,
    info: Arc<PluginInfo>,
    started: Instant,
    background: Arc<Background>,
    slot: OwnedSemaphorePermit,
}

impl Ended {
    async fn finish(self) -> Invoked {
        let large =
            matches!(&self.ending, Ending::Returned(Ok(output)) if output.len() >= LARGE_OUTPUT);
        if !large {
            return self.judge();
        }
        let background = Arc::clone(&self.background);
        let (sender, receiver) = oneshot::channel();
        background.apart(move || {
            // Nobody waits for it if the process is ending.
            let judged = std::panic::catch_unwind(AssertUnwindSafe(|| self.judge()));
            sender
                .send(judged.unwrap_or_else(|_| {
                    unused(verdict::internal("the look at its output panicked"))
                }))
                .ok();
        });
        receiver.await.unwrap_or_else(|_| unused(verdict::cancelled()))
    }

    fn judge(mut self) -> Invoked {
        let outcome = verdict::of_attempt(self.ending, &self.store, &self.info);
        let invoked = record(&mut self.store, &self.info, outcome, self.started);
        retire(&self.background, self.store, self.slot);
        invoked
    }
}

/// Gives an instance back, and then its slot.
pub(crate) fn retire(background: &Background, store: Store<HostState>, slot: OwnedSemaphorePermit) {
    let large = store.data().budget.peak() >= LARGE_INSTANCE;
    let give_back = move || {
        drop(store);
        drop(slot);
    };
    if large {
        background.apart(give_back);
    } else {
        give_back();
    }
}

/// Hands the task in by the component's own door, and takes the text of an output or a failure of
/// the handler's own.
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

/// Bytes of white space that count as silence. More is not worth reading for that.
const SILENCE: usize = 64 << 10;

/// What a command wrote or a web server answered, as the text of an output. Who says nothing says
/// null. A mark of the byte order, with which some libraries begin UTF-8, is none of it.
fn text(bytes: Vec<u8>, shape: Shape) -> Result<String, Failure> {
    let mut text = verdict::text_of(bytes, shape)?;
    if text.starts_with('\u{feff}') {
        text.remove(0);
    }
    Ok(if text.len() <= SILENCE && text.trim().is_empty() { "null".to_owned() } else { text })
}

/// An attempt that ended before it began.
fn unused(failure: Failure) -> Invoked {
    Invoked {
        outcome: Outcome::Failed(failure),
        usage: Usage::default(),
        logs: Vec::new(),
        effort: Effort::default(),
    }
}

/// Usage and logs, taken before the instance is dropped.
fn record(
    store: &mut Store<HostState>,
    info: &PluginInfo,
    outcome: Outcome,
    started: Instant,
) -> Invoked {
    let fuel = info.limits.fuel.saturating_sub(store.get_fuel().unwrap_or(0));
    let state = store.data_mut();
    let logs = state.log.lock().finish();
    let usage = Usage {
        fuel,
        peak_memory: state.budget.peak(),
        wall_micros: u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX),
        host_calls: state.calls.made(),
        http_requests: state.outbound.requests(),
        http_bytes: state.outbound.received(),
    };
    Invoked { outcome, usage, logs, effort: Effort::default() }
}

/// A store with its limits set. Also serves `describe`.
pub(crate) fn store(shared: &Shared, info: &PluginInfo, state: HostState) -> Store<HostState> {
    let mut store = Store::new(&shared.engine, state);
    store.limiter_async(|state| &mut state.limiter);
    store.set_max_component_handles(info.limits.handles as usize);
    store.call_hook_async(Switch);
    let interval = yield_interval(info.limits.memory);
    // Both fail only without `consume_fuel` and async support, which the engine always has; a store
    // without fuel traps at once.
    if store.set_fuel(info.limits.fuel).is_err()
        || store.fuel_async_yield_interval(Some(interval)).is_err()
    {
        tracing::error!("the engine was built without fuel");
    }
    store
}

/// Drives a future until it ends, its time is up or it is cancelled; then drops it, which unwinds
/// the guest.
///
/// The clock is read whenever the future comes back: on a busy thread a timer fires late. The timer
/// is for a guest that waits. A handler that ends before it first waits or yields, as most do,
/// never touches either.
pub(crate) async fn bounded<T>(
    future: impl Future<Output = std::thread::Result<wasmtime::Result<T>>>,
    deadline: Duration,
    cancel: &CancellationToken,
) -> Ending<T> {
    let mut future = pin!(future);
    let now = tokio::time::Instant::now();
    // An absurd deadline in a settings file is no deadline for thirty years, not a panic.
    let limit =
        now.checked_add(deadline).unwrap_or(now + Duration::from_secs(30 * 365 * 24 * 3600));
    if let Poll::Ready(result) = futures_util::poll!(future.as_mut()) {
        return Ending::of(result);
    }
    let mut cancelled = pin!(cancel.cancelled());
    let mut timer = pin!(tokio::time::sleep_until(limit));
    let yields = Arc::new(Yields::default());
    let waker = Waker::from(Arc::clone(&yields));
    poll_fn(|context| {
        if cancelled.as_mut().poll(context).is_ready() {
            return Poll::Ready(Ending::Cancelled);
        }
        if timer.as_mut().poll(context).is_ready() || tokio::time::Instant::now() >= limit {
            return Poll::Ready(Ending::Deadline);
        }
        yields.outer.register(context.waker());
        let begun = Instant::now();
        loop {
            yields.yielded.store(false, Relaxed);
            if let Poll::Ready(result) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
                return Poll::Ready(Ending::of(result));
            }
            if !yields.yielded.load(Relaxed) || begun.elapsed() >= SLICE {
                return Poll::Pending;
            }
        }
    })
    .await
}

/// How long a guest goes on although it has yielded. A guest that may have much memory yields after
/// every few microseconds, which is too often to let others run each time.
const SLICE: Duration = Duration::from_micros(80);

/// Sees whether a future that comes back wants to go on, as it does when it has only yielded.
#[derive(Default)]
struct Yields {
    yielded: AtomicBool,
    outer: AtomicWaker,
}

impl Wake for Yields {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.yielded.store(true, Relaxed);
        self.outer.wake();
    }
}

fn deadline_millis(deadline: Duration) -> u64 {
    let now = u64::try_from(Timestamp::now().as_millisecond()).unwrap_or(0);
    now.saturating_add(u64::try_from(deadline.as_millis()).unwrap_or(u64::MAX))
}
