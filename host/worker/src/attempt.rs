//! One task from claim to commit.

use std::{panic::AssertUnwindSafe, pin::pin, sync::Arc, task::Poll, time::Duration};

use futures_util::{FutureExt as _, poll};
use taskforge_broker::Broker;
use taskforge_domain::{
    Attempt, ClaimedTask, Digest, Failure, FailureKind, Next, Outcome, Timestamp, Usage, WorkerId,
    retry,
};
use taskforge_registry::{Live, Serving, UsageBoard};
use taskforge_runtime::{Effort, Invocation, Invoked, Plugin, Runtime};
use taskforge_store::{Commit, Completion, Ended, Store, StoreError, complete_or_fail};

use crate::{
    admission::{Admission, InFlight, SLOW},
    heartbeat::StoreBackoff,
    notifier::{Notification, Notifier},
    progress::{ProgressBoard, Said},
    running::{Running, RunningGuard, StopReason},
};

/// How long a task is kept whose version is not here yet before it is handed back. It may come to
/// this worker again, which looks at the registry each second.
const BEHIND_PAUSE: Duration = Duration::from_millis(250);

/// After which time a task is tried again that failed on a version which it was perhaps not
/// accepted for.
const BEHIND_RETRY: Duration = Duration::from_secs(2);

/// An input up to so many bytes is parsed in some tens of microseconds.
const SMALL_INPUT: usize = 4 << 10;

/// What every attempt of a worker shares.
pub(crate) struct WorkerContext {
    pub(crate) worker: WorkerId,
    pub(crate) runtime: Runtime,
    pub(crate) live: Arc<Live>,
    pub(crate) usage: Arc<UsageBoard>,
    pub(crate) broker: Arc<dyn Broker>,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) running: Arc<Running>,
    pub(crate) progress: Arc<ProgressBoard>,
    pub(crate) notifier: Notifier,
    pub(crate) admission: Arc<Admission>,
}

impl WorkerContext {
    /// The store's time.
    pub(crate) fn now(&self) -> Timestamp {
        self.store.clock().now()
    }
}

/// Runs a claimed task and commits how it ended. It is in flight until the store has acknowledged or
/// refused that: a worker that cannot commit must not claim more.
pub(crate) async fn run(
    context: Arc<WorkerContext>,
    task: ClaimedTask,
    guard: RunningGuard,
    mut flight: InFlight,
) {
    let completion = match context.live.get(&task.task_type, task.id) {
        Some(serving) => {
            match execute_safely(&context, &serving, &task, &guard, &mut flight).await {
                Executed::Ended(invoked) => {
                    observe(&task, &invoked);
                    conclude(&context, &serving.plugin, &task, invoked, guard.switch().reason())
                }
                Executed::NotHere(why) => Some(hand_back(&context, &task, why)),
            }
        }
        // The plugin went away between the hint and the claim. It is not among the types that the
        // next hints are for, so the task does not come back here.
        None => Some(hand_back(&context, &task, "no plugin handles it on this worker any more")),
    };
    flight.end(None);
    let notification = match completion {
        Some(completion) => commit(&context, &task, completion, &guard).await,
        None => None,
    };
    if let Some(notification) = notification {
        context.notifier.tell(notification);
    }
    // Before the next claim can bring the task here again.
    drop(guard);
}

/// What came of a task on this worker.
enum Executed {
    /// An attempt, or a failure before it began.
    Ended(Invoked),
    /// It is for another worker, or for later.
    NotHere(&'static str),
}

/// [`execute`], whose panics are this host's fault and end the attempt like any other failure.
async fn execute_safely(
    context: &Arc<WorkerContext>,
    serving: &Serving,
    task: &ClaimedTask,
    guard: &RunningGuard,
    flight: &mut InFlight,
) -> Executed {
    if serving.owner.as_ref().is_some_and(|owner| *owner != task.tenant) {
        let message =
            "the plugin belongs to another tenant; it was not there when the task was accepted";
        return Executed::Ended(failed(Failure::new(FailureKind::Permanent, message)));
    }
    let executed =
        AssertUnwindSafe(execute(context, serving, task, guard, flight)).catch_unwind().await;
    executed.unwrap_or_else(|_| Executed::Ended(panicked()))
}

/// Runs a task, unless its input does not fit the version that it falls to (the version that it was
/// accepted for may be one that is not here yet), or slow attempts leave its lane no permit.
///
/// A version that takes more than the one before is live for the API a moment before it is for
/// this worker, so what fails here is looked at too: it may be of the kind that only the new
/// version takes, and is tried again.
async fn execute(
    context: &Arc<WorkerContext>,
    serving: &Serving,
    task: &ClaimedTask,
    guard: &RunningGuard,
    flight: &mut InFlight,
) -> Executed {
    let is_current = || context.live.is_current(&task.task_type, task.id);
    if serving.recheck
        && let Some(failure) = misfit(serving, task).await
    {
        // Not for ever: a worker that never gets the version would be handed the task again and
        // again.
        if is_current() || !Live::is_young(task.id, context.now()) {
            return Executed::Ended(failed(failure));
        }
        flight.end(None);
        tokio::time::sleep(BEHIND_PAUSE).await;
        return Executed::NotHere("the version that it was accepted for is not here yet");
    }
    let stopped = guard.switch().token();
    tokio::select! {
        biased;
        // The attempt ends at once.
        () = stopped.cancelled() => {}
        started = start(context, &serving.plugin, flight) => if !started {
            return Executed::NotHere("slow attempts hold all the permits that it can get on this worker");
        },
    }
    let mut invoked = invoke_timed(context, &serving.plugin, task, guard, flight).await;
    if let Outcome::Failed(failure) = &mut invoked.outcome
        && !failure.kind.is_retryable()
        && !is_current()
        && misfit(serving, task).await.is_some()
    {
        failure.kind = FailureKind::Retryable;
        failure.retry_after = Some(BEHIND_RETRY);
    }
    let (version, phase) = serving.counted;
    context.usage.record(version, phase, &invoked.outcome, &invoked.usage);
    Executed::Ended(invoked)
}

/// Waits for the plugin's code and then for a permit, which it would hold while it compiles.
/// `false`: it is better off on another worker.
async fn start(context: &WorkerContext, plugin: &Plugin, flight: &mut InFlight) -> bool {
    let mut prepared = pin!(context.runtime.prepare(plugin));
    if poll!(prepared.as_mut()).is_pending() {
        flight.wait_for_code();
        // Why the code cannot be had the attempt says.
        prepared.await.ok();
    }
    flight.start().await
}

/// What is wrong with an input that was accepted before this version ran: the API checked it
/// against another one.
async fn misfit(serving: &Serving, task: &ClaimedTask) -> Option<Failure> {
    let (schema, input) = (Arc::clone(serving.input.as_ref()?), task.input.clone());
    // Most inputs are small and fit, which is seen in less time than it takes to wake another
    // thread.
    if input.as_str().len() <= SMALL_INPUT && schema.fits_at_once(&input.to_value()) {
        return None;
    }
    // Apart: a large input and a large schema take as long as a handler may, and do not yield.
    let checked = tokio::task::spawn_blocking(move || {
        let mut faults = Vec::new();
        schema.check(&input.to_value(), input.as_str().len(), "/input", &mut faults);
        faults
    });
    let faults = match checked.await {
        Ok(faults) => faults,
        Err(panicked) => std::panic::resume_unwind(panicked.into_panic()),
    };
    let first = faults.first()?;
    let message = format!(
        "the input does not fit version {}, which became current after the task was accepted: {}: {}",
        serving.plugin.info().version,
        first.pointer,
        first.detail
    );
    Some(Failure::new(FailureKind::InvalidInput, message))
}

fn failed(failure: Failure) -> Invoked {
    Invoked {
        outcome: Outcome::Failed(failure),
        usage: Usage::default(),
        logs: Vec::new(),
        effort: Effort::default(),
    }
}

/// The host's own fault. Counted as an attempt like any other failure, so that a task that does
/// this every time ends as a dead letter. The panic itself was logged by the process's hook.
fn panicked() -> Invoked {
    metrics::counter!("taskforge_attempt_panics_total").increment(1);
    let message = "the host failed while it ran the handler";
    failed(Failure::new(FailureKind::Internal, message))
}

/// Runs an attempt under its permit, which is given back when it is over.
async fn invoke_timed(
    context: &Arc<WorkerContext>,
    plugin: &Plugin,
    task: &ClaimedTask,
    guard: &RunningGuard,
    flight: &mut InFlight,
) -> Invoked {
    let said = Arc::new(Said::default());
    let mut running = pin!(invoke(context, plugin, task, guard, &said));
    let invoked = match poll!(running.as_mut()) {
        Poll::Ready(invoked) => invoked,
        // Only now, so that most attempts need no timer.
        Poll::Pending => tokio::select! {
            biased;
            invoked = running.as_mut() => invoked,
            () = tokio::time::sleep(SLOW) => {
                flight.mark_slow();
                let _shown = context.progress.show(task.id, task.run_lease, &said);
                running.await
            }
        },
    };
    flight.end(Some(Duration::from_micros(invoked.usage.wall_micros)));
    invoked
}

async fn invoke(
    context: &Arc<WorkerContext>,
    plugin: &Plugin,
    task: &ClaimedTask,
    guard: &RunningGuard,
    said: &Arc<Said>,
) -> Invoked {
    let reported = Arc::clone(said);
    context
        .runtime
        .invoke(
            plugin,
            Invocation {
                tenant: task.tenant.clone(),
                task: task.id,
                attempt: task.attempt,
                max_attempts: task.retry.max_attempts(),
                input: task.input.clone(),
                cancel: guard.switch().token(),
                progress: Some(Arc::new(move |progress| reported.report(progress))),
                log: said.log.clone(),
            },
        )
        .await
}

/// What to commit, or nothing if the lease is gone.
fn conclude(
    context: &WorkerContext,
    plugin: &Plugin,
    task: &ClaimedTask,
    invoked: Invoked,
    stopped: Option<StopReason>,
) -> Option<Completion> {
    let was_stopped =
        matches!(&invoked.outcome, Outcome::Failed(f) if f.kind == FailureKind::Cancelled);
    // An attempt that ended by itself before it noticed the switch has a real outcome, and that is
    // what counts.
    let next = match stopped.filter(|_| was_stopped) {
        Some(StopReason::Lapsed) => return None,
        Some(StopReason::Draining) => Next::HandBack,
        Some(StopReason::Cancelled) => Next::Cancelled,
        None => retry::after(
            &invoked.outcome,
            task.attempt,
            &task.retry,
            context.now(),
            fastrand::f64(),
        ),
    };
    Some(Completion {
        attempt: Attempt {
            task: task.id,
            run_lease: task.run_lease,
            number: task.attempt,
            worker: context.worker,
            plugin_version: plugin.info().version.clone(),
            plugin_digest: plugin.info().digest,
            started_at: task.started_at,
            finished_at: context.now(),
            outcome: invoked.outcome,
            usage: invoked.usage,
            logs: invoked.logs,
        },
        next,
    })
}

fn hand_back(context: &WorkerContext, task: &ClaimedTask, reason: &str) -> Completion {
    Completion {
        attempt: Attempt {
            task: task.id,
            run_lease: task.run_lease,
            number: task.attempt,
            worker: context.worker,
            plugin_version: String::new(),
            plugin_digest: Digest::from_bytes([0; 32]),
            started_at: task.started_at,
            finished_at: context.now(),
            outcome: Outcome::Failed(Failure::new(FailureKind::Cancelled, reason)),
            usage: Usage::default(),
            logs: Vec::new(),
        },
        next: Next::HandBack,
    }
}

/// Commits how an attempt ended. Answers what the broker is to be told of it: nothing, if the lease
/// is lost or the store is closed.
async fn commit(
    context: &WorkerContext,
    task: &ClaimedTask,
    completion: Completion,
    guard: &RunningGuard,
) -> Option<Notification> {
    let mut backoff = StoreBackoff::new();
    let Ended { commit, next } = loop {
        match complete_or_fail(&*context.store, &completion).await {
            Ok(ended) => break ended,
            Err(StoreError::Closed) => return None,
            Err(_) if guard.switch().has_lapsed() => return None,
            Err(error) => {
                // Ours until the lease lapses, so keep trying: giving up would run the task again
                // for nothing.
                tracing::warn!(%error, task.id = %task.id, "the outcome was not committed; trying again");
                backoff.wait().await;
            }
        }
    };
    if commit == Commit::Stale {
        metrics::counter!("taskforge_stale_commits_total").increment(1);
        tracing::warn!(task.id = %task.id, attempt = task.attempt, "the lease was lost; the outcome was dropped");
        return None;
    }
    match next {
        Next::Complete | Next::DeadLetter => Some(Notification::Finished(task.id)),
        // The second: the attempt was stopped for a cancel that never was, and the task waits
        // again.
        Next::HandBack | Next::Cancelled
            if next == Next::HandBack || commit == Commit::Committed =>
        {
            Some(Notification::Waits(task.into()))
        }
        Next::RetryAt(_) | Next::Cancelled | Next::HandBack => None,
    }
}

fn observe(task: &ClaimedTask, invoked: &Invoked) {
    let outcome = match &invoked.outcome {
        Outcome::Completed(_) => "completed",
        Outcome::Failed(failure) => failure.kind.as_str(),
    };
    let task_type = task.task_type.to_string();
    metrics::counter!("taskforge_attempts_total", "task_type" => task_type.clone(), "outcome" => outcome)
        .increment(1);
    // Precision is not what a histogram is for.
    #[allow(clippy::cast_precision_loss)]
    let seconds = invoked.usage.wall_micros as f64 / 1e6;
    metrics::histogram!("taskforge_attempt_duration_seconds", "task_type" => task_type)
        .record(seconds);
    if let Outcome::Failed(failure) = &invoked.outcome {
        tracing::debug!(
            task.id = %task.id, task.type = %task.task_type, attempt = task.attempt, kind = %failure.kind,
            "attempt failed: {}", failure.message
        );
    }
}
