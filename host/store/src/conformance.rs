//! The rules that every database must keep, as tests.
//!
//! [`conformance_suite!`](crate::conformance_suite) makes one test of each rule, named after it,
//! for a database given by an async function (as a path from the crate's root) that opens an empty
//! store:
//!
//! ```ignore
//! async fn open() -> Fixture { ... }
//! taskforge_store::conformance_suite!(crate::open);
//! ```
//!
//! The rules inject every time that they hand to the store, and never sleep.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    reason = "these are tests; they are compiled outside cfg(test) for other crates' tests. Each rule's name is its documentation"
)]

pub mod caps;
pub mod claim;
pub mod collect;
pub mod complete;
pub mod dead;
pub mod drops;
pub mod enqueue;
pub mod lanes;
pub mod lead;
pub mod list;
pub mod mail;
pub mod operate;
pub mod policy;
pub mod registry;
pub mod requeue;
pub mod secrets;
pub mod state;
pub mod storm;
pub mod suite;
pub mod sweep;
pub mod upkeep;
pub mod usage;
pub mod values;
pub mod versions;

use std::{any::Any, sync::Arc, time::Duration};

use taskforge_domain::{
    Attempt, ClaimedTask, Digest, Failure, FailureKind, Json, Lane, LaneLimits, LogLevel, LogLine,
    NewTask, Next, Outcome, QueuePolicy, RunLease, Task, TaskId, TaskState, TaskType, TenantId,
    Timestamp, Usage, WorkerId,
};

use crate::{
    CancelOutcome, ClaimBy, ClaimRequest, Commit, Completion, History, PluginStore, QueuedTask,
    Resolution, RetryOutcome, Store, Term, WorkerRecord,
};

/// An empty store, and what must stay alive with it.
pub struct Fixture {
    /// The store.
    pub store: Arc<dyn Store>,
    /// The same store.
    pub plugins: Arc<dyn PluginStore>,
    /// Its folder, server or container.
    pub keep: Box<dyn Any + Send + Sync>,
}

/// A second, counted from the beginning of the test's time.
pub(crate) fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_767_225_600 + seconds).unwrap()
}

/// How old a worker's heartbeat may be, unless a rule says otherwise.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(10);

pub(crate) fn tenant() -> TenantId {
    TenantId::default()
}

pub(crate) fn kind(name: &str) -> TaskType {
    TaskType::new(name).unwrap()
}

pub(crate) fn json(value: serde_json::Value) -> Json {
    Json::from(value)
}

/// A task of type `work`, created at second 0.
pub(crate) fn new_task() -> NewTask {
    NewTask::new(tenant(), kind("work"), json(serde_json::json!({"n": 10})), at(0))
}

/// A task of type `work`, moved to this lane.
pub(crate) fn in_lane(lane: &Lane) -> NewTask {
    NewTask {
        tenant: lane.tenant.clone(),
        task_type: lane.task_type.clone(),
        priority: lane.priority,
        ..new_task()
    }
}

pub(crate) fn failure(kind: FailureKind) -> Outcome {
    Outcome::Failed(Failure::new(kind, "it did not work"))
}

pub(crate) fn success() -> Outcome {
    Outcome::Completed(json(serde_json::json!({"result": 55})))
}

/// The end of a claimed task's attempt at second `end`, with an outcome that fits what follows.
pub(crate) fn ended(task: &ClaimedTask, worker: WorkerId, next: Next, end: i64) -> Completion {
    let outcome = match next {
        Next::Complete => success(),
        Next::RetryAt(_) | Next::DeadLetter => failure(FailureKind::Retryable),
        Next::HandBack | Next::Cancelled => failure(FailureKind::Cancelled),
    };
    let attempt = Attempt {
        task: task.id,
        run_lease: task.run_lease,
        number: task.attempt,
        worker,
        plugin_version: "1.2.3".into(),
        plugin_digest: Digest::from_bytes([0xab; 32]),
        started_at: task.started_at,
        finished_at: at(end),
        outcome,
        usage: Usage {
            fuel: 1,
            peak_memory: 2,
            wall_micros: 3,
            host_calls: 4,
            http_requests: 5,
            http_bytes: 6,
        },
        logs: vec![LogLine { at: at(end), level: LogLevel::Info, message: "hello".into() }],
    };
    Completion { attempt, next }
}

/// The store under test, with the steps that most rules begin with.
pub struct World {
    pub(crate) store: Arc<dyn Store>,
    /// The same store.
    pub(crate) plugins: Arc<dyn PluginStore>,
    /// A registered worker whose last heartbeat was at second 0.
    pub(crate) worker: WorkerId,
    /// The world leads the sweep.
    pub(crate) term: Term,
    _keep: Box<dyn Any + Send + Sync>,
}

impl World {
    /// Begins a rule.
    pub async fn begin(fixture: Fixture) -> Self {
        let worker = WorkerId::generate();
        let term = fixture.store.lead(worker, at(0), Duration::from_secs(1_000_000)).await.unwrap();
        let world = Self {
            store: fixture.store,
            plugins: fixture.plugins,
            worker,
            term: term.expect("nobody else leads"),
            _keep: fixture.keep,
        };
        world.register(world.worker, 0).await;
        world
    }

    pub(crate) async fn register(&self, worker: WorkerId, now: i64) {
        self.register_for(worker, now, TIMEOUT).await;
    }

    pub(crate) async fn register_for(&self, worker: WorkerId, now: i64, lease: Duration) {
        let record =
            WorkerRecord { id: worker, host: "here".into(), pid: 1, started_at: at(now), lease };
        self.store.register_worker(&record, at(now)).await.unwrap();
    }

    pub(crate) async fn add(&self, task: NewTask) -> TaskId {
        self.store.enqueue(std::slice::from_ref(&task)).await.unwrap();
        task.id
    }

    pub(crate) async fn add_many(&self, count: usize) -> Vec<TaskId> {
        let tasks: Vec<_> = (0..count).map(|_| new_task()).collect();
        self.store.enqueue(&tasks).await.unwrap();
        tasks.iter().map(|task| task.id).collect()
    }

    pub(crate) async fn claim_as(
        &self,
        worker: WorkerId,
        ids: &[TaskId],
        now: i64,
    ) -> Vec<ClaimedTask> {
        self.store
            .claim(ClaimRequest { worker, by: ClaimBy::Ids(ids), now: at(now) })
            .await
            .unwrap()
            .tasks
    }

    pub(crate) async fn claim_order(&self, types: &[&str], limit: u32) -> Vec<TaskId> {
        let types: Vec<_> = types.iter().map(|name| kind(name)).collect();
        let by = ClaimBy::Order {
            types: &types,
            lanes: LaneLimits::none(),
            limit,
            policy: &QueuePolicy::default(),
        };
        let claimed =
            self.store.claim(ClaimRequest { worker: self.worker, by, now: at(1) }).await.unwrap();
        claimed.tasks.into_iter().map(|task| task.id).collect()
    }

    /// Claims one pending task at second 1.
    pub(crate) async fn claim(&self, id: TaskId) -> ClaimedTask {
        self.claim_as(self.worker, &[id], 1).await.pop().expect("the task is pending")
    }

    /// A fresh task that runs since second 1.
    pub(crate) async fn running(&self) -> ClaimedTask {
        let id = self.add(new_task()).await;
        self.claim(id).await
    }

    pub(crate) async fn end(&self, task: &ClaimedTask, next: Next) -> Commit {
        self.complete(ended(task, self.worker, next, 2)).await
    }

    /// Ends an attempt with this failure at second `end`.
    pub(crate) async fn fail(
        &self,
        task: &ClaimedTask,
        kind: FailureKind,
        message: &str,
        next: Next,
        end: i64,
    ) -> Commit {
        let mut completion = ended(task, self.worker, next, end);
        completion.attempt.outcome = Outcome::Failed(Failure::new(kind, message));
        self.complete(completion).await
    }

    pub(crate) async fn complete(&self, completion: Completion) -> Commit {
        let commits = self.store.complete(&[completion]).await.unwrap();
        assert_eq!(commits.len(), 1);
        commits[0]
    }

    pub(crate) async fn get(&self, id: TaskId) -> Task {
        self.store.task(&tenant(), id).await.unwrap().expect("the task is there")
    }

    pub(crate) async fn history(&self, id: TaskId) -> History {
        self.store.history(&tenant(), id).await.unwrap().expect("the task is there")
    }

    /// Makes due tasks pending; says which.
    pub(crate) async fn promote(&self, now: Timestamp, limit: u32) -> Vec<QueuedTask> {
        self.store.promote_due(self.term, now, limit).await.unwrap()
    }

    /// The lane of [`new_task`].
    pub(crate) fn lane(&self) -> Lane {
        let NewTask { tenant, task_type, priority, .. } = new_task();
        Lane { tenant, task_type, priority }
    }

    pub(crate) async fn cancel(&self, id: TaskId) -> CancelOutcome {
        self.store.cancel(&tenant(), id, at(3)).await.unwrap()
    }

    pub(crate) async fn retry(&self, id: TaskId) -> RetryOutcome {
        self.store.retry(&tenant(), id, at(4)).await.unwrap()
    }

    pub(crate) async fn resolve(&self, id: TaskId, run_lease: RunLease, next: Next) -> bool {
        let resolution =
            Resolution { id, run_lease, next, detail: "its worker fell silent".into() };
        self.store.resolve_lapsed(None, &[resolution], at(5)).await.unwrap() == [id]
    }

    /// A task in the given state, reached by the shortest way.
    pub(crate) async fn task_in(&self, state: TaskState) -> Task {
        let id = match state {
            TaskState::Scheduled => self.add(NewTask { run_at: Some(at(100)), ..new_task() }).await,
            TaskState::Pending => self.add(new_task()).await,
            TaskState::Running => self.running().await.id,
            TaskState::Completed | TaskState::Failed => {
                let next =
                    if state == TaskState::Failed { Next::DeadLetter } else { Next::Complete };
                let task = self.running().await;
                assert_eq!(self.end(&task, next).await, Commit::Committed);
                task.id
            }
            TaskState::Cancelled => {
                let id = self.add(new_task()).await;
                self.cancel(id).await;
                id
            }
        };
        let task = self.get(id).await;
        assert_eq!(task.state, state);
        task
    }
}
