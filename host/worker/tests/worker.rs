//! A worker with a real store, a real broker and real components.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use serde_json::{Value, json};
use taskforge_broker::{Broker, BrokerError, BrokerResult, Hint, LocalBroker, Signal, Signals, Want};
use taskforge_domain::{
    EventKind, FailureKind, Json, NewTask, Outcome, RetryPolicy, Task, TaskId, TaskState, TaskType, TenantId,
    Timestamp,
};
use taskforge_runtime::{OutboxMailer, PluginSettings, Runtime, RuntimeConfig};
use taskforge_store::{CancelOutcome, SqliteStore, Store};
use taskforge_testing::{guests, wait::wait_until};
use taskforge_worker::{Handlers, Services, Sweeper, SweeperConfig, Worker, WorkerConfig};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// A broker that can be away.
struct Flaky {
    broker: LocalBroker,
    away: AtomicBool,
}

impl Flaky {
    fn check(&self) -> BrokerResult<()> {
        if self.away.load(Ordering::SeqCst) {
            Err(BrokerError("away".into()))
        } else {
            Ok(())
        }
    }
}

#[async_trait]
impl Broker for Flaky {
    async fn push(&self, hints: &[Hint]) -> BrokerResult<()> {
        self.check()?;
        self.broker.push(hints).await
    }
    async fn pop(&self, want: Want<'_>) -> BrokerResult<Vec<Hint>> {
        self.check()?;
        self.broker.pop(want).await
    }
    async fn depth(&self) -> BrokerResult<u64> {
        self.check()?;
        self.broker.depth().await
    }
    async fn is_complete(&self) -> BrokerResult<bool> {
        self.check()?;
        self.broker.is_complete().await
    }
    async fn mark_complete(&self) -> BrokerResult<()> {
        self.check()?;
        self.broker.mark_complete().await
    }
    async fn publish(&self, signals: &[Signal]) -> BrokerResult<()> {
        self.check()?;
        self.broker.publish(signals).await
    }
    fn subscribe(&self) -> Signals {
        self.broker.subscribe()
    }
}

/// A store, a broker, a sweeper and the hostile plugin; workers are started by the test.
struct Bed {
    store: Arc<SqliteStore>,
    broker: Arc<Flaky>,
    services: Services,
    tasks: TaskTracker,
    stop: CancellationToken,
    _data: tempfile::TempDir,
}

impl Bed {
    async fn new() -> Self {
        let data = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(&data.path().join("tasks.db")).await.unwrap();
        let broker = Arc::new(Flaky {
            broker: LocalBroker::new(),
            away: AtomicBool::new(false),
        });
        let runtime = sandbox(data.path());
        let hostile = runtime
            .load(guests::bytes("hostile"), PluginSettings::default())
            .await
            .unwrap();
        let services = Services {
            store: store.clone(),
            broker: broker.clone(),
            runtime,
            handlers: Arc::new(Handlers::new([hostile])),
        };
        let bed = Self {
            store,
            broker,
            services,
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
            _data: data,
        };
        let config = SweeperConfig {
            interval: Duration::from_millis(20),
            audit_interval: Duration::from_millis(200),
            ..SweeperConfig::default()
        };
        let sweeper = Sweeper::new(config, bed.store.clone(), bed.broker.clone());
        bed.tasks.spawn(sweeper.run(bed.stop.clone()));
        bed
    }

    fn start_worker(&self, adjust: impl FnOnce(&mut WorkerConfig)) {
        let mut config = WorkerConfig {
            concurrency: 8,
            heartbeat_interval: Duration::from_millis(50),
            hint_wait: Duration::from_millis(200),
            progress_interval: Duration::from_millis(20),
            ..WorkerConfig::default()
        };
        adjust(&mut config);
        self.tasks
            .spawn(Worker::new(config, self.services.clone()).run(self.stop.clone()));
    }

    async fn stop(self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// Commits a task without telling the broker.
    async fn commit(&self, attack: Value, max_retries: u32) -> TaskId {
        let hostile = TaskType::new("hostile").unwrap();
        let retry = RetryPolicy {
            max_retries,
            base: Duration::from_millis(1),
            cap: Duration::from_millis(5),
        };
        let task = NewTask {
            retry,
            ..NewTask::new(TenantId::default(), hostile, Json::from(attack), Timestamp::now())
        };
        self.store.enqueue(std::slice::from_ref(&task)).await.unwrap();
        task.id
    }

    async fn submit(&self, attack: Value, max_retries: u32) -> TaskId {
        let id = self.commit(attack, max_retries).await;
        let task = self.task(id).await;
        let hint = Hint {
            id,
            tenant: task.tenant,
            task_type: task.task_type,
            priority: task.priority,
        };
        self.broker.push(&[hint]).await.unwrap();
        id
    }

    async fn task(&self, id: TaskId) -> Task {
        self.store.task(&TenantId::default(), id).await.unwrap().unwrap()
    }

    async fn reaches(&self, id: TaskId, state: TaskState) -> Task {
        wait_until(&format!("task {id} is {state}"), async || {
            self.task(id).await.state == state
        })
        .await;
        self.task(id).await
    }
}

fn sandbox(data: &Path) -> Runtime {
    let mailer = Arc::new(OutboxMailer::new(data.join("outbox"), "test@localhost").unwrap());
    let cache = guests::folder().with_file_name("test-cache");
    Runtime::new(RuntimeConfig {
        cache_dir: Some(cache),
        max_instances: 32,
        ..RuntimeConfig::new(mailer)
    })
    .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_fails_twice_completes_at_the_third_attempt() {
    let bed = Bed::new().await;
    bed.start_worker(|_| {});
    let id = bed.submit(json!({ "attack": "fail", "times": 2 }), 3).await;
    let task = bed.reaches(id, TaskState::Completed).await;
    assert_eq!((task.attempt, task.retry_count(), task.error), (3, 2, None));
    let story = bed.store.story(&TenantId::default(), id).await.unwrap().unwrap();
    assert_eq!(story.attempts.len(), 3);
    bed.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn attempts_used_up_make_a_dead_letter_and_a_permanent_failure_at_once() {
    let bed = Bed::new().await;
    bed.start_worker(|_| {});
    let retried = bed.submit(json!({ "attack": "fail" }), 2).await;
    let permanent = bed
        .submit(json!({ "attack": "fail", "permanent": true }), 2)
        .await;
    let retried = bed.reaches(retried, TaskState::Failed).await;
    assert_eq!(
        (retried.attempt, retried.error.unwrap().kind),
        (3, FailureKind::Retryable)
    );
    let permanent = bed.reaches(permanent, TaskState::Failed).await;
    assert_eq!(
        (permanent.attempt, permanent.error.unwrap().kind),
        (1, FailureKind::Permanent)
    );
    bed.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cancelling_a_running_task_stops_it_and_keeps_its_record() {
    let bed = Bed::new().await;
    bed.start_worker(|_| {});
    let id = bed.submit(json!({ "attack": "endless_loop" }), 3).await;
    bed.reaches(id, TaskState::Running).await;
    let cancelled = bed
        .store
        .cancel(&TenantId::default(), id, Timestamp::now())
        .await
        .unwrap();
    assert!(matches!(cancelled, CancelOutcome::WasRunning(_)));
    bed.broker.publish(&[Signal::Cancel(id)]).await.unwrap();
    wait_until("the attempt is on record", async || {
        !bed.store
            .story(&TenantId::default(), id)
            .await
            .unwrap()
            .unwrap()
            .attempts
            .is_empty()
    })
    .await;
    let story = bed.store.story(&TenantId::default(), id).await.unwrap().unwrap();
    assert_eq!(story.task.state, TaskState::Cancelled);
    let Outcome::Failed(failure) = &story.attempts[0].outcome else {
        panic!("{:?}", story.attempts[0])
    };
    assert_eq!(failure.kind, FailureKind::Cancelled);
    bed.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_whose_signal_got_lost_is_noticed_all_the_same() {
    let bed = Bed::new().await;
    bed.start_worker(|_| {});
    let id = bed.submit(json!({ "attack": "endless_loop" }), 3).await;
    bed.reaches(id, TaskState::Running).await;
    bed.store
        .cancel(&TenantId::default(), id, Timestamp::now())
        .await
        .unwrap();
    wait_until("the attempt is on record", async || {
        !bed.store
            .story(&TenantId::default(), id)
            .await
            .unwrap()
            .unwrap()
            .attempts
            .is_empty()
    })
    .await;
    bed.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_found_lapsed_drops_its_task_and_another_attempt_completes() {
    let bed = Bed::new().await;
    bed.start_worker(|_| {});
    let id = bed.submit(json!({ "attack": "sleep", "ms": 4_000 }), 3).await;
    let running = bed.reaches(id, TaskState::Running).await;
    // What a sweeper on another host would find if this worker had been stopped for an hour.
    let later = Timestamp::now()
        .checked_add(jiff::SignedDuration::from_hours(1))
        .unwrap();
    bed.store
        .lapsed(later, Duration::from_secs(10), 10)
        .await
        .unwrap();
    let task = bed.reaches(id, TaskState::Completed).await;
    assert_eq!(task.attempt, 2);
    assert!(task.run_lease > running.run_lease);
    let story = bed.store.story(&TenantId::default(), id).await.unwrap().unwrap();
    assert_eq!(story.attempts.len(), 1, "the lapsed attempt committed nothing");
    assert_ne!(
        Some(story.attempts[0].worker),
        running.worker,
        "the worker came back under a fresh id"
    );
    assert!(story.events.iter().any(|event| event.kind == EventKind::Lapsed));
    bed.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_without_a_hint_is_found_by_the_audit() {
    let bed = Bed::new().await;
    bed.start_worker(|_| {});
    wait_until("the broker has been filled once", async || {
        bed.broker.is_complete().await.unwrap()
    })
    .await;
    let id = bed.commit(json!({ "attack": "ok" }), 0).await;
    bed.reaches(id, TaskState::Completed).await;
    bed.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_broker_tasks_are_claimed_from_the_store() {
    let bed = Bed::new().await;
    bed.broker.away.store(true, Ordering::SeqCst);
    bed.start_worker(|_| {});
    let id = bed.commit(json!({ "attack": "ok" }), 0).await;
    bed.reaches(id, TaskState::Completed).await;
    bed.broker.away.store(false, Ordering::SeqCst);
    let id = bed.submit(json!({ "attack": "ok" }), 0).await;
    bed.reaches(id, TaskState::Completed).await;
    bed.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_good_neighbour_completes_while_every_other_slot_is_under_attack() {
    let bed = Bed::new().await;
    bed.start_worker(|_| {});
    for attack in [
        "endless_loop",
        "endless_recursion",
        "grow_memory",
        "log_flood",
        "sleep",
        "panic",
    ] {
        bed.submit(json!({ "attack": attack }), 0).await;
    }
    let good = bed.submit(json!({ "attack": "ok", "value": 1 }), 0).await;
    bed.reaches(good, TaskState::Completed).await;
    // The attackers are left to the end of the test's runtime: their limits are the sandbox's tests.
    bed.stop.cancel();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ended_task_keeps_its_log_and_drops_its_progress() {
    let bed = Bed::new().await;
    bed.start_worker(|_| {});
    let id = bed.submit(json!({ "attack": "chatty" }), 0).await;
    let task = bed.reaches(id, TaskState::Completed).await;
    assert!(
        task.progress.is_none(),
        "a task that has ended reports no progress"
    );
    let story = bed.store.story(&TenantId::default(), id).await.unwrap().unwrap();
    assert!(story.attempts[0].logs.len() >= 6, "{:?}", story.attempts[0].logs);
    bed.stop().await;
}
