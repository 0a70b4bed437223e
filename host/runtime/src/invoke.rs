//! One attempt: instantiate and call, within its deadline.
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
    code::Code,
    contract::handler::Task,
    ending::{self, Ending},
    engine::yield_interval,
    host::{Attempt, HostState, Switch, Values},
    plugin::Plugin,
    refusal::LoadError,
    runtime::Shared,
    tail::LogTail,
    threads::background::{Background, Effort},
};

/// The delay before the next attempt when a plugin could not be loaded.
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

/// The result of an attempt.
#[derive(Debug, Clone)]
pub struct Invoked {
    /// How it ended.
    pub outcome: Outcome,
    /// What it used.
    pub usage: Usage,
    /// What the handler and the host had to say, oldest first.
    pub logs: Vec<LogLine>,
    /// Its use of the processors.
    pub effort: Effort,
}

/// See [`crate::Runtime::invoke`].
pub(crate) async fn invoke(
    shared: &Arc<Shared>,
    plugin: &Plugin,
    invocation: Invocation,
) -> Invoked {
    let cancel = &invocation.cancel;
    // The code first: a plugin that must be compiled waits without taking an instance from others.
    let ready = async {
        let code = plugin.code(shared).await?;
        let permit = Arc::clone(&shared.instances).acquire_owned().await;
        Ok::<_, LoadError>((code, permit.map_err(LoadError::internal)?))
    };
    let ready = tokio::select! {
        biased;
        ready = ready => Some(ready),
        () = cancel.cancelled() => None,
    };
    let (code, permit) = match ready {
        Some(Ok(ready)) if !cancel.is_cancelled() => ready,
        Some(Err(error)) => {
            tracing::error!(%error, plugin = %plugin.info().name, "a plugin's code is not there");
            // Retried later than other failures: the fault is this host's and takes longer to pass.
            return unused(Failure {
                retry_after: Some(UNLOADED_RETRY),
                ..Failure::new(FailureKind::Internal, "the host could not load the plugin")
            });
        }
        _ => return unused(ending::cancelled()),
    };
    let profile = shared.profiles.of(&invocation.tenant, plugin.info().digest);
    let entered = Entered {
        shared: Arc::clone(shared),
        info: Arc::clone(plugin.shared_info()),
        config: Arc::clone(plugin.config()),
        code,
        invocation,
        permit,
    };
    let running = shared.background.run(Box::pin(entered.run()), &profile);
    let (ended, effort) = running.await;
    let ended = ended.unwrap_or_else(|| unused(ending::cancelled()));
    Invoked { effort, ..ended }
}

/// An attempt that has its code and its instance.
struct Entered {
    shared: Arc<Shared>,
    info: Arc<PluginInfo>,
    config: Arc<Values>,
    code: Arc<Code>,
    invocation: Invocation,
    permit: OwnedSemaphorePermit,
}

impl Entered {
    async fn run(self) -> Invoked {
        let started = Instant::now();
        let Self { shared, info, config, code, invocation, permit } = self;
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
            // A host function that panics is our bug. It fails this attempt and no other.
            bounded(AssertUnwindSafe(run).catch_unwind(), info.limits.deadline, &invocation.cancel)
                .await
        };
        let ended = Ended {
            ending,
            store,
            info,
            started,
            background: Arc::clone(&shared.background),
            permit,
        };
        ended.finish().await
    }
}

/// An output of this many bytes or more is parsed on another thread. JSON parses at some 300 MB/s.
const LARGE_OUTPUT: usize = 256 << 10;

/// An instance that used this many bytes or more is dropped on another thread: that takes up to
/// 0.08 ms for each mebibyte that was touched.
const LARGE_INSTANCE: u64 = 8 << 20;

/// An attempt that has ended, before its outcome is read.
struct Ended {
    ending: Ending<Result<String, Failure>>,
    store: Store<HostState>,
    info: Arc<PluginInfo>,
    started: Instant,
    background: Arc<Background>,
    permit: OwnedSemaphorePermit,
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
            // The receiver is gone if the process is ending.
            let judged = std::panic::catch_unwind(AssertUnwindSafe(|| self.judge()));
            sender
                .send(
                    judged.unwrap_or_else(|_| {
                        unused(ending::internal("reading its output panicked"))
                    }),
                )
                .ok();
        });
        receiver.await.unwrap_or_else(|_| unused(ending::cancelled()))
    }

    fn judge(mut self) -> Invoked {
        let outcome = ending::of_attempt(self.ending, &self.store, &self.info);
        let invoked = record(&mut self.store, &self.info, outcome, self.started);
        retire(&self.background, self.store, self.permit);
        invoked
    }
}

/// Drops an instance, and then its permit.
pub(crate) fn retire(
    background: &Background,
    store: Store<HostState>,
    permit: OwnedSemaphorePermit,
) {
    let large = store.data().budget.peak() >= LARGE_INSTANCE;
    let drop_both = move || {
        drop(store);
        drop(permit);
    };
    if large {
        background.apart(drop_both);
    } else {
        drop_both();
    }
}

/// Calls the export that takes the task. Returns the text of the output, or the handler's own
/// failure.
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

/// White space of at most this many bytes counts as no output. Longer texts are not searched.
const SILENCE: usize = 64 << 10;

/// The output of a command or web server as text; no output is `null`. Removes the byte order mark
/// with which some libraries begin UTF-8.
fn text(bytes: Vec<u8>, shape: Shape) -> Result<String, Failure> {
    let mut text = ending::text_of(bytes, shape)?;
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

/// Drives a future until it ends, its deadline passes or it is cancelled; then drops it, which
/// unwinds the guest.
///
/// The clock is read at every poll, because on a busy thread a timer fires late; the timer is for a
/// guest that waits. A handler that ends at its first poll, as most do, needs neither.
pub(crate) async fn bounded<T>(
    future: impl Future<Output = std::thread::Result<wasmtime::Result<T>>>,
    deadline: Duration,
    cancel: &CancellationToken,
) -> Ending<T> {
    let mut future = pin!(future);
    let now = tokio::time::Instant::now();
    // An absurd deadline in a settings file means thirty years, and not a panic.
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

/// How long a guest is polled again after it has yielded. A guest with a large memory limit yields
/// every few microseconds, which is too often to let others run each time.
const SLICE: Duration = Duration::from_micros(80);

/// Tells a future that has only yielded, and woke itself, from one that waits.
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
