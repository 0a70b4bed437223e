//! Leases of tasks to workers outside the fleet.
//!
//! In the store a lease belongs to a worker, and a worker renews all its leases at once. A client
//! is no such worker: it may hold ten tasks and lose one. So each task that is leased gets a worker
//! row of its own, whose lease is the length that the client asked for, and the sweeper returns it
//! when that lapses, as it does with everything else.

use std::{cmp::Reverse, sync::Arc, time::Duration};

use taskforge_broker::{Popped, QueuedTask, Want};
use taskforge_domain::{
    Attempt, ClaimedTask, Digest, Failure, FailureKind, LaneLimits, Next, Outcome, TaskType,
    Timestamp, Usage, WorkerId,
};
use taskforge_store::{
    ClaimBy, ClaimRequest, Claimed, Commit, Completion, StoreError, StoreResult, WorkerRecord,
};
use tokio::{
    runtime::Handle,
    task::JoinSet,
    time::{Instant, sleep, timeout_at},
};

use crate::{
    Problem, external_workers::lease_token::Lease, http::request::Gone, state::App, tasks::enqueue,
};

/// What stands for the version of a plugin in an attempt that no plugin made.
pub(crate) const VERSION: &str = "external";
/// Inputs in one answer, in bytes, beyond the first. The tasks that do not fit go back.
const ANSWER_BYTES: usize = 16 << 20;
/// Between two looks into the store while there is no broker to wait for: doubled from the first to
/// the second.
const LOOK_AGAIN: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(1));

/// What a client asks for.
pub(crate) struct LeaseRequest {
    pub(crate) types: Vec<TaskType>,
    pub(crate) max: usize,
    /// In whole milliseconds.
    pub(crate) length: Duration,
    /// What the client calls itself, for people.
    pub(crate) worker: String,
}

/// A task for a client.
pub(crate) struct Leased {
    pub(crate) task: ClaimedTask,
    pub(crate) lease: Lease,
    pub(crate) expires_at: Timestamp,
}

/// Tasks on their way to a client. What is not [delivered](LeasedBatch::deliver) is handed back,
/// uncounted, wherever this is dropped: in a handler whose client has hung up, or in a claim that
/// outlived its handler.
struct LeasedBatch {
    app: App,
    leased: Vec<Leased>,
}

impl LeasedBatch {
    /// The tasks, at most as many as make an answer of a sensible size. There must be no wait
    /// between this and the answer.
    fn deliver(mut self) -> Vec<Leased> {
        let mut bytes = 0;
        let fits = |leased: &&Leased| {
            let is_first = bytes == 0;
            bytes += leased.task.input.as_str().len().max(1);
            is_first || bytes <= ANSWER_BYTES
        };
        let count = self.leased.iter().take_while(fits).count();
        let rest = self.leased.split_off(count);
        metrics::counter!("taskforge_external_leases_total", "outcome" => "given")
            .increment(count as u64);
        std::mem::replace(&mut self.leased, rest)
    }
}

impl Drop for LeasedBatch {
    fn drop(&mut self) {
        let leased = std::mem::take(&mut self.leased);
        // Without a runtime the process is about to end, and the leases lapse.
        if !leased.is_empty()
            && let Ok(runtime) = Handle::try_current()
        {
            runtime.spawn(hand_back(self.app.clone(), leased));
        }
    }
}

/// Leases tasks to a client; waits until `deadline` while there are none, until the server shuts
/// down, or until the client has gone. What was leased by then is handed back.
pub(crate) async fn take(
    app: &App,
    request: LeaseRequest,
    deadline: Instant,
    Gone(gone): &Gone,
) -> Result<Vec<Leased>, Problem> {
    let request = Arc::new(request);
    let mut pause = LOOK_AGAIN.0;
    loop {
        let began = Instant::now();
        let popped = tokio::select! {
            popped = pop(app, &request, deadline.saturating_duration_since(began)) => popped,
            () = app.draining.cancelled() => return Ok(Vec::new()),
            () = gone.cancelled() => return Ok(Vec::new()),
        };
        let (looked, hinted) = (popped.look_in_store, !popped.hints.is_empty());
        let mut at_cap = false;
        if looked || hinted {
            // A task of its own from here on: a claim that is under way when the client hangs up is
            // finished, and handed back.
            let round = tokio::spawn(round(app.clone(), Arc::clone(&request), popped));
            let (batch, is_at_cap) = round.await.unwrap_or_else(|error| {
                tracing::error!(%error, "a claim ended badly");
                Err(StoreError::Closed)
            })?;
            if gone.is_cancelled() {
                return Ok(Vec::new());
            }
            if !batch.leased.is_empty() {
                return Ok(batch.deliver());
            }
            at_cap = is_at_cap;
        }
        // Hints that led nowhere are used up, so this ends. Those of tasks over a cap come back.
        if Instant::now() >= deadline && (!hinted || at_cap) {
            return Ok(Vec::new());
        }
        // A broker that did not wait will not the next time either, and each try at a cap writes.
        if (looked || at_cap) && began.elapsed() < pause {
            let nap = sleep(pause);
            tokio::select! {
                _ = timeout_at(deadline, nap) => {}
                () = app.draining.cancelled() => return Ok(Vec::new()),
                () = gone.cancelled() => return Ok(Vec::new()),
            }
            pause = (pause * 2).min(LOOK_AGAIN.1);
        }
    }
}

async fn pop(app: &App, request: &LeaseRequest, wait: Duration) -> Popped {
    let want = Want { types: &request.types, lanes: LaneLimits::none(), max: request.max, wait };
    app.services.broker.pop(want).await.unwrap_or_else(|error| {
        tracing::debug!(%error, "claiming from the store directly");
        Popped { hints: Vec::new(), look_in_store: true }
    })
}

/// Claims what was hinted, and what else the store has if the broker says so. An error counts only
/// if there is nothing to show. Says besides whether a hinted task has to wait for a permit of a
/// cap.
async fn round(
    app: App,
    request: Arc<LeaseRequest>,
    popped: Popped,
) -> StoreResult<(LeasedBatch, bool)> {
    let mut batch = LeasedBatch { app: app.clone(), leased: Vec::new() };
    let now = app.now();
    let mut claims = JoinSet::new();
    for hint in popped.hints {
        // Together, so that the store makes one transaction of them.
        claims.spawn(by_hint(app.clone(), Arc::clone(&request), hint, now));
    }
    let (mut trouble, mut is_at_cap) = (None, false);
    while let Some(claim) = claims.join_next().await {
        match claim {
            Ok(Ok((leased, at_cap))) => {
                batch.leased.extend(leased);
                is_at_cap |= at_cap;
            }
            Ok(Err(error)) => trouble = Some(error),
            Err(error) => tracing::error!(%error, "a claim ended badly"),
        }
    }
    batch.leased.sort_by_key(|leased| (Reverse(leased.task.priority), leased.task.id));
    if popped.look_in_store
        && let Err(error) = by_order(&mut batch, &request, now).await
    {
        trouble = Some(error);
    }
    match trouble {
        Some(error) if batch.leased.is_empty() => Err(error),
        _ => Ok((batch, is_at_cap)),
    }
}

async fn by_hint(
    app: App,
    request: Arc<LeaseRequest>,
    hint: QueuedTask,
    now: Timestamp,
) -> StoreResult<(Option<Leased>, bool)> {
    let claimed = claim(&app, &request, ClaimBy::Ids(&[hint.id]), now).await;
    let broker = &*app.services.broker;
    match claimed {
        Ok((leased, at_cap)) => {
            if at_cap {
                enqueue::set_aside(broker, &[hint]).await;
            }
            Ok((leased, at_cap))
        }
        Err(error) => {
            // Taken but not used: others may have more luck with it.
            enqueue::push(broker, &[hint]).await;
            Err(error)
        }
    }
}

async fn by_order(
    batch: &mut LeasedBatch,
    request: &LeaseRequest,
    now: Timestamp,
) -> StoreResult<()> {
    let app = batch.app.clone();
    let policy = app.services.catalog.overlay(app.services.store.policy().await?);
    if request.types.iter().all(|name| policy.is_paused(name)) {
        return Ok(());
    }
    while batch.leased.len() < request.max {
        let by = ClaimBy::Order {
            types: &request.types,
            lanes: LaneLimits::none(),
            limit: 1,
            policy: &policy,
        };
        match claim(&app, request, by, now).await? {
            (Some(leased), _) => batch.leased.push(leased),
            (None, _) => break,
        }
    }
    Ok(())
}

/// Claims one task under a worker of its own. Says besides whether it has to wait for a permit of a
/// cap.
async fn claim(
    app: &App,
    request: &LeaseRequest,
    by: ClaimBy<'_>,
    now: Timestamp,
) -> StoreResult<(Option<Leased>, bool)> {
    let store = &app.services.store;
    let worker = WorkerId::generate();
    let record = WorkerRecord {
        id: worker,
        host: request.worker.clone(),
        pid: 0,
        started_at: now,
        lease: request.length,
    };
    // Before the claim: what belongs to a worker that nobody knows counts as lapsed.
    store.register_worker(&record, now).await?;
    let claimed = store.claim(ClaimRequest { worker, by, now }).await;
    let Claimed { tasks, at_cap, .. } = match claimed {
        Ok(claimed) => claimed,
        Err(error) => {
            // It may have been committed all the same. Without its worker the task lapses at once.
            forget(app, worker).await;
            return Err(error);
        }
    };
    let Some(task) = tasks.into_iter().next() else {
        forget(app, worker).await;
        return Ok((None, at_cap));
    };
    let lease = Lease {
        task: task.id,
        tenant: task.tenant.clone(),
        worker,
        run_lease: task.run_lease,
        length: request.length,
    };
    let leased = Leased { task, lease, expires_at: after(now, request.length) };
    Ok((Some(leased), at_cap))
}

/// When a lease that was renewed now is over.
pub(crate) fn after(now: Timestamp, length: Duration) -> Timestamp {
    now.checked_add(length).unwrap_or(Timestamp::MAX)
}

/// Removes a worker row that is of no more use. One that stays holds nothing, and is forgotten in
/// time.
pub(crate) async fn forget(app: &App, worker: WorkerId) {
    if let Err(error) = app.services.store.remove_worker(worker).await {
        tracing::debug!(%error, worker.id = %worker, "a worker row was left behind");
    }
}

/// Puts tasks back that nobody was there to take, as if they had not been claimed.
async fn hand_back(app: App, leased: Vec<Leased>) {
    metrics::counter!("taskforge_external_leases_total", "outcome" => "returned")
        .increment(leased.len() as u64);
    let now = app.now();
    let completions: Vec<_> = leased.iter().map(|leased| returned(leased, now)).collect();
    match app.services.store.complete(&completions).await {
        Ok(commits) => {
            let back: Vec<_> = leased
                .iter()
                .zip(commits)
                .filter(|(_, commit)| *commit == Commit::Committed)
                .map(|(leased, _)| QueuedTask::from(&leased.task))
                .collect();
            enqueue::push(&*app.services.broker, &back).await;
        }
        Err(error) => {
            tracing::warn!(
                %error,
                "tasks that nobody took were not handed back; their leases lapse"
            );
        }
    }
    for leased in &leased {
        forget(&app, leased.lease.worker).await;
    }
}

fn returned(leased: &Leased, now: Timestamp) -> Completion {
    let task = &leased.task;
    let outcome = Outcome::Failed(Failure::new(
        FailureKind::Cancelled,
        "the client that asked for it had gone",
    ));
    Completion {
        attempt: Attempt {
            task: task.id,
            run_lease: task.run_lease,
            number: task.attempt,
            worker: leased.lease.worker,
            plugin_version: VERSION.to_owned(),
            plugin_digest: Digest::from_bytes([0; 32]),
            started_at: task.started_at,
            finished_at: now.max(task.started_at),
            outcome,
            usage: Usage::default(),
            logs: Vec::new(),
        },
        next: Next::HandBack,
    }
}

#[cfg(test)]
mod tests {
    use taskforge_broker::LocalBroker;
    use taskforge_domain::{Json, NewTask, TenantId};
    use taskforge_registry::{Parts, Registry};
    use taskforge_runtime::{OutboxMailer, Runtime, RuntimeConfig};
    use taskforge_store::SqliteStore;
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::{AlwaysReady, ApiConfig, Metrics, Services};

    const LEASED_WITHIN: Duration = Duration::from_secs(20);

    async fn take_one(app: &App) -> Vec<Leased> {
        let request = LeaseRequest {
            types: vec![TaskType::new("ocr").unwrap()],
            max: 10,
            length: Duration::from_secs(60),
            worker: "test".into(),
        };
        take(app, request, Instant::now() + LEASED_WITHIN, &Gone::default()).await.unwrap()
    }

    #[tokio::test]
    async fn a_client_that_goes_at_any_moment_leaves_its_task_uncounted_to_others() {
        let folder = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(&folder.path().join("tasks.db")).await.unwrap();
        let broker = Arc::new(LocalBroker::new());
        let mailer =
            OutboxMailer::new(folder.path().join("outbox"), "test <test@localhost>").unwrap();
        let registry = Registry::new(Parts {
            store: store.clone(),
            broker: broker.clone(),
            runtime: Runtime::new(RuntimeConfig {
                max_instances: 1,
                ..RuntimeConfig::new(Arc::new(mailer))
            })
            .unwrap(),
            keyring: None,
            signatures: Arc::default(),
        });
        let services = Services {
            store,
            broker,
            catalog: Arc::default(),
            registry,
            metrics: Metrics::install().unwrap(),
            ready: Arc::new(AlwaysReady),
        };
        let app = App::new(services, &ApiConfig::default(), CancellationToken::new());
        let (ocr, input) = (TaskType::new("ocr").unwrap(), Json::from(serde_json::json!({})));
        let task = NewTask::new(TenantId::default(), ocr, input, Timestamp::now());
        app.enqueuer.submit(vec![task]).await.unwrap();
        for moment in 0..40 {
            let soon = Duration::from_millis(moment / 2);
            // Dropped wherever it is then: before, in and after the claim.
            if let Ok(leased) = tokio::time::timeout(soon, take_one(&app)).await {
                hand_back(app.clone(), leased).await;
            }
        }
        let leased = take_one(&app).await;
        assert_eq!((leased.len(), leased[0].task.attempt), (1, 1));
    }
}
