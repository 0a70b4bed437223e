//! What a worker outside the fleet says about a lease, carried out: that it still works, or how the
//! attempt ended.

use taskforge_broker::Signal;
use taskforge_domain::{
    Attempt, Digest, Next, Outcome, RetryPolicy, Task, TaskId, TaskState, TaskType, Timestamp,
    Usage, retry,
};
use taskforge_registry::Handler;
use taskforge_store::{Commit, Completion, Ended, complete_or_fail};

use crate::{
    Problem, ProblemKind,
    checks::check,
    external_workers::{
        lease::{self, VERSION},
        lease_token::Lease,
        report::{self, Report},
    },
    http::fields,
    state::App,
    tasks::enqueue,
};

/// Ends an attempt, and says where the task went. A repeat gets the first answer.
pub(crate) async fn complete(app: &App, report: Report) -> Result<(TaskId, TaskState), Problem> {
    let id = report.task;
    let lease = app.lease_tokens.read(id, &report.token).ok_or_else(lost)?;
    // A task of its own, so that a client that hangs up does not separate the commit from its
    // signal.
    let ended = tokio::spawn(end(app.clone(), lease, report)).await;
    let state = ended.unwrap_or_else(|error| {
        tracing::error!(%error, "a completion ended badly");
        Err(Problem::internal())
    })?;
    Ok((id, state))
}

async fn end(app: App, lease: Lease, report: Report) -> Result<TaskState, Problem> {
    let store = &app.services.store;
    let task = store.task(&lease.tenant, lease.task).await?.ok_or_else(lost)?;
    if !may_hold(&task, &lease) {
        return first_answer(&app, &lease).await;
    }
    check_output(&app, &task, &report.outcome)?;
    let now = app.now();
    // A lease that has run out is over even if the sweeper has not come by yet.
    if !store.heartbeat(lease.worker, now).await? {
        return first_answer(&app, &lease).await;
    }
    let (task_type, policy) = (task.task_type.clone(), task.retry);
    let attempt = attempt(&lease, &task, report, now);
    let seconds = std::time::Duration::from_micros(attempt.usage.wall_micros).as_secs_f64();
    let outcome = match &attempt.outcome {
        Outcome::Completed(_) => "completed",
        Outcome::Failed(failure) => failure.kind.as_str(),
    };
    let next = retry::after(&attempt.outcome, attempt.number, &policy, now, fastrand::f64());
    let Ended { commit, next } = complete_or_fail(&**store, &Completion { attempt, next }).await?;
    let state = match commit {
        Commit::Committed => state_of(next),
        Commit::Cancelled => TaskState::Cancelled,
        // It lapsed in this very moment, or somebody who repeats the request was faster.
        Commit::Stale => return first_answer(&app, &lease).await,
    };
    metrics::counter!("taskforge_external_leases_total", "outcome" => state.as_str()).increment(1);
    observe(&task_type, outcome, seconds);
    if matches!(next, Next::Complete | Next::DeadLetter) {
        enqueue::publish(&*app.services.broker, &[Signal::Finished(lease.task)]).await;
    }
    lease::forget(&app, lease.worker).await;
    Ok(state)
}

/// Counted like the attempts of the fleet's own workers, under the same names.
fn observe(task_type: &TaskType, outcome: &'static str, seconds: f64) {
    let task_type = task_type.to_string();
    metrics::counter!(
        "taskforge_attempts_total", "task_type" => task_type.clone(), "outcome" => outcome)
    .increment(1);
    metrics::histogram!("taskforge_attempt_duration_seconds", "task_type" => task_type)
        .record(seconds);
}

/// Whether a task is in the attempt of this lease, or was when somebody cancelled it: then the
/// attempt still goes on record.
fn may_hold(task: &Task, lease: &Lease) -> bool {
    let in_state = match task.state {
        TaskState::Running => task.worker == Some(lease.worker),
        state => state == TaskState::Cancelled,
    };
    in_state && task.run_lease == lease.run_lease
}

/// The answer that this lease's completion got before, if there was one.
async fn first_answer(app: &App, lease: &Lease) -> Result<TaskState, Problem> {
    let store = &app.services.store;
    let history = store.history(&lease.tenant, lease.task).await?.ok_or_else(lost)?;
    let policy = history.task.retry;
    let recorded = history
        .attempts
        .into_iter()
        .find(|attempt| attempt.run_lease == lease.run_lease && attempt.worker == lease.worker)
        .ok_or_else(lost)?;
    let state = state_after(&recorded, &policy);
    let now = recorded.finished_at;
    let next = retry::after(&recorded.outcome, recorded.number, &policy, now, 0.0);
    // It is on record, so this writes nothing; the store says what it said then.
    let completion = Completion { attempt: recorded, next };
    match store.complete(&[completion]).await?.first() {
        Some(Commit::Committed) => Ok(state),
        Some(Commit::Cancelled) => Ok(TaskState::Cancelled),
        Some(Commit::Stale) | None => Err(lost()),
    }
}

/// Where an attempt sends its task, if its lease holds.
fn state_after(attempt: &Attempt, policy: &RetryPolicy) -> TaskState {
    state_of(retry::after(&attempt.outcome, attempt.number, policy, attempt.finished_at, 0.0))
}

fn state_of(next: Next) -> TaskState {
    match next {
        Next::Complete => TaskState::Completed,
        Next::RetryAt(_) => TaskState::Scheduled,
        Next::DeadLetter => TaskState::Failed,
        Next::HandBack => TaskState::Pending,
        Next::Cancelled => TaskState::Cancelled,
    }
}

fn check_output(app: &App, task: &Task, outcome: &Outcome) -> Result<(), Problem> {
    let known = app.services.catalog.known();
    let (Some(Handler::External(external)), Outcome::Completed(output)) =
        (known.get(&task.task_type), outcome)
    else {
        return Ok(());
    };
    let Some(schema) = &external.output else {
        return Ok(());
    };
    let mut errors = Vec::new();
    check(schema, &output.to_value(), output.as_str().len(), "/output", &mut errors);
    fields::finish(Some(()), errors)
}

fn attempt(lease: &Lease, task: &Task, report: Report, now: Timestamp) -> Attempt {
    let started_at = task.started_at.unwrap_or(now);
    let finished_at = now.max(started_at);
    let wall = finished_at.duration_since(started_at).as_micros();
    Attempt {
        task: lease.task,
        run_lease: lease.run_lease,
        number: task.attempt,
        worker: lease.worker,
        plugin_version: VERSION.to_owned(),
        plugin_digest: Digest::from_bytes([0; 32]),
        started_at,
        finished_at,
        outcome: report.outcome,
        usage: Usage { wall_micros: u64::try_from(wall).unwrap_or(u64::MAX), ..Usage::default() },
        logs: report::cut(report.logs, finished_at),
    }
}

/// What a heartbeat found.
pub(crate) enum Beat {
    /// The lease holds until then.
    Held(Timestamp),
    /// Somebody cancelled the task: there is no more use in working on it.
    Cancelled,
}

/// Renews a lease.
pub(crate) async fn beat(app: &App, task: TaskId, token: &str) -> Result<Beat, Problem> {
    let lease = app.lease_tokens.read(task, token).ok_or_else(lost)?;
    let store = &app.services.store;
    let now = app.now();
    if !store.heartbeat(lease.worker, now).await? {
        return Err(lost());
    }
    let held = [(lease.task, lease.run_lease)];
    if store.lost_leases(&held).await?.is_empty() {
        return Ok(Beat::Held(lease::after(now, lease.length)));
    }
    let task = store.task(&lease.tenant, lease.task).await?;
    let was_cancelled =
        |task: &Task| task.state == TaskState::Cancelled && task.run_lease == lease.run_lease;
    if task.as_ref().is_some_and(was_cancelled) { Ok(Beat::Cancelled) } else { Err(lost()) }
}

/// The same whether the token never was one, or its time is over: a client can do nothing but
/// forget the task either way.
fn lost() -> Problem {
    metrics::counter!("taskforge_external_leases_total", "outcome" => "lost").increment(1);
    Problem::new(
        ProblemKind::LeaseLost,
        "This lease token does not hold the task, or no longer. Nothing was changed; drop the \
         work, it is given to others.",
    )
}
