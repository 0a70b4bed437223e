//! One task from claim to commit.

use std::sync::Arc;

use taskforge_broker::{Broker, Hint, Signal};
use taskforge_domain::{
    Attempt, ClaimedTask, Digest, Failure, FailureKind, Next, Outcome, Timestamp, Usage, WorkerId, retry,
};
use taskforge_runtime::{Invocation, Invoked, Plugin, Runtime};
use taskforge_store::{Commit, Completion, Store, StoreError};
use tokio::sync::OwnedSemaphorePermit;

use crate::{
    handlers::Handlers,
    heartbeat::StoreBackoff,
    progress::ProgressBoard,
    running::{Running, RunningGuard, StopReason},
};

/// What every attempt of a worker shares.
pub(crate) struct Bench {
    pub(crate) worker: WorkerId,
    pub(crate) runtime: Runtime,
    pub(crate) handlers: Arc<Handlers>,
    pub(crate) broker: Arc<dyn Broker>,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) running: Arc<Running>,
    pub(crate) progress: Arc<ProgressBoard>,
}

/// Runs a claimed task and commits how it ended. The slot is free when the store has acknowledged or refused that, not before: a worker
/// that cannot commit must not claim more.
pub(crate) async fn run(bench: Arc<Bench>, task: ClaimedTask, slot: OwnedSemaphorePermit) {
    let guard = bench.running.enter(task.id, task.run_lease);
    let Some(plugin) = bench.handlers.get(&task.task_type) else {
        // The plugin went away between the hint and the claim.
        let completion = hand_back(&bench, &task);
        commit(&bench, &task, completion, &guard).await;
        return;
    };
    let invoked = invoke(&bench, &plugin, &task, &guard).await;
    observe(&task, &invoked);
    if let Some(completion) = conclude(&bench, &plugin, &task, invoked, guard.switch().reason()) {
        commit(&bench, &task, completion, &guard).await;
    }
    drop(slot);
}

async fn invoke(bench: &Arc<Bench>, plugin: &Plugin, task: &ClaimedTask, guard: &RunningGuard) -> Invoked {
    let (board, id, run_lease) = (bench.progress.clone(), task.id, task.run_lease);
    bench
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
                progress: Some(Arc::new(move |progress| board.report(id, run_lease, progress))),
            },
        )
        .await
}

/// What to commit, or nothing if the lease is gone.
fn conclude(
    bench: &Bench,
    plugin: &Plugin,
    task: &ClaimedTask,
    invoked: Invoked,
    stopped: Option<StopReason>,
) -> Option<Completion> {
    let was_stopped = matches!(&invoked.outcome, Outcome::Failed(f) if f.kind == FailureKind::Cancelled);
    // An attempt that ended by itself before it noticed the switch has a real outcome, and that is what counts.
    let next = match stopped.filter(|_| was_stopped) {
        Some(StopReason::Lapsed) => return None,
        Some(StopReason::Draining) => Next::HandBack,
        Some(StopReason::Cancelled) => Next::Cancelled,
        None => retry::after(
            &invoked.outcome,
            task.attempt,
            &task.retry,
            Timestamp::now(),
            fastrand::f64(),
        ),
    };
    Some(Completion {
        attempt: Attempt {
            task: task.id,
            run_lease: task.run_lease,
            number: task.attempt,
            worker: bench.worker,
            plugin_version: plugin.info().version.clone(),
            plugin_digest: plugin.info().digest,
            started_at: task.started_at,
            finished_at: Timestamp::now(),
            outcome: invoked.outcome,
            usage: invoked.usage,
            logs: invoked.logs,
        },
        next,
    })
}

fn hand_back(bench: &Bench, task: &ClaimedTask) -> Completion {
    let message = format!("no plugin handles {} on this worker any more", task.task_type);
    Completion {
        attempt: Attempt {
            task: task.id,
            run_lease: task.run_lease,
            number: task.attempt,
            worker: bench.worker,
            plugin_version: String::new(),
            plugin_digest: Digest::from_bytes([0; 32]),
            started_at: task.started_at,
            finished_at: Timestamp::now(),
            outcome: Outcome::Failed(Failure::new(FailureKind::Cancelled, message)),
            usage: Usage::default(),
            logs: Vec::new(),
        },
        next: Next::HandBack,
    }
}

async fn commit(bench: &Bench, task: &ClaimedTask, completion: Completion, guard: &RunningGuard) {
    let next = completion.next;
    let mut backoff = StoreBackoff::new();
    let verdict = loop {
        match bench.store.complete(std::slice::from_ref(&completion)).await {
            Ok(verdicts) => break verdicts.first().copied().unwrap_or(Commit::Stale),
            Err(StoreError::Closed) => return,
            Err(_) if guard.switch().has_lapsed() => return,
            Err(error) => {
                // Ours until the lease lapses, so keep trying: giving up would run the task again for nothing.
                tracing::warn!(%error, task.id = %task.id, "the outcome was not committed; trying again");
                backoff.wait().await;
            }
        }
    };
    if verdict == Commit::Stale {
        metrics::counter!("taskforge_stale_commits_total").increment(1);
        tracing::warn!(task.id = %task.id, attempt = task.attempt, "the lease was lost; the outcome was dropped");
        return;
    }
    tell(bench, task, next, verdict).await;
}

/// Passes on the news of a committed move. A broker that is away costs latency only.
async fn tell(bench: &Bench, task: &ClaimedTask, next: Next, verdict: Commit) {
    let told = match next {
        Next::Complete | Next::DeadLetter => bench.broker.publish(&[Signal::Finished(task.id)]).await,
        // The second: the attempt was stopped for a cancel that never was, and the task waits again.
        Next::HandBack | Next::Cancelled if next == Next::HandBack || verdict == Commit::Committed => {
            let hint = Hint {
                id: task.id,
                tenant: task.tenant.clone(),
                task_type: task.task_type.clone(),
                priority: task.priority,
            };
            bench.broker.push(&[hint]).await
        }
        Next::RetryAt(_) | Next::Cancelled | Next::HandBack => Ok(()),
    };
    if let Err(error) = told {
        tracing::debug!(%error, task.id = %task.id, "the broker was not told");
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
    metrics::histogram!("taskforge_attempt_duration_seconds", "task_type" => task_type).record(seconds);
    if let Outcome::Failed(failure) = &invoked.outcome {
        tracing::debug!(
            task.id = %task.id, task.type = %task.task_type, attempt = task.attempt, kind = %failure.kind,
            "attempt failed: {}", failure.message
        );
    }
}
