//! A worker with a real store, a real broker and real components.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::ThreadId,
    time::Duration,
};

use async_trait::async_trait;
use serde_json::{Value, json};
use taskforge_broker::{
    Broker, BrokerError, BrokerResult, LocalBroker, Mode, Popped, QueuedTask, ShortLane, Signal,
    Signals, Want,
};
use taskforge_domain::{
    Clock, EventKind, FailureKind, Json, Lane, NewTask, Outcome, Priority, QueuePolicy,
    RetryPolicy, RunLease, Task, TaskId, TaskState, TaskType, TenantId, TenantPolicy, Timestamp,
    TypePolicy, WorkerId,
};
use taskforge_registry::Live;
use taskforge_runtime::{
    MailError, MailMessage, MailReceipt, Mailer, OutboxMailer, PluginSettings, Runtime,
    RuntimeConfig,
};
use taskforge_store::{
    CancelOutcome, ClaimRequest, Claimed, Commit, Completion, Counts, DeadLetterGroup, History,
    LapsedTask, LeaseConnection, Page, ProgressReport, Resolution, RetryOutcome, SqliteStore,
    Store, StoreClock, StoreError, StoreResult, TaskFilter, Term, Upkeep, WorkerRecord,
};
use taskforge_testing::{guests, wait::wait_until};
use taskforge_worker::{Services, Sweeper, SweeperConfig, Worker, WorkerConfig};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// A broker that can be away, or know of no task.
struct Flaky {
    broker: LocalBroker,
    away: AtomicBool,
    knows_nothing: AtomicBool,
}

impl Flaky {
    fn check(&self) -> BrokerResult<()> {
        if self.away.load(Ordering::SeqCst) { Err(BrokerError("away".into())) } else { Ok(()) }
    }
}

/// Every method but the three that ask nothing of anyone.
macro_rules! delegate {
    ($($name:ident($($argument:ident: $type:ty),*) -> $answer:ty;)*) => {
        #[async_trait]
        impl Broker for Flaky {
            async fn pop(&self, want: Want<'_>) -> BrokerResult<Popped> {
                self.check()?;
                if self.knows_nothing.load(Ordering::SeqCst) {
                    tokio::time::sleep(want.wait).await;
                    return Ok(Popped { look_in_store: true, ..Popped::default() });
                }
                self.broker.pop(want).await
            }
            $(async fn $name(&self, $($argument: $type),*) -> BrokerResult<$answer> {
                self.check()?;
                self.broker.$name($($argument),*).await
            })*
            fn subscribe(&self) -> Signals {
                self.broker.subscribe()
            }
            fn mode(&self) -> Mode {
                self.broker.mode()
            }
        }
    };
}

delegate! {
    push(hints: &[QueuedTask]) -> ();
    set_aside(hints: &[QueuedTask]) -> ();
    depth() -> u64;
    is_complete() -> bool;
    mark_complete() -> ();
    short_lanes() -> Vec<ShortLane>;
    refill(lane: &Lane, after: Option<TaskId>, tasks: &[TaskId], is_all: bool) -> ();
    set_policy(policy: &QueuePolicy) -> ();
    publish(signals: &[Signal]) -> ();
}

/// A store whose answer to a claim gets lost.
struct BrokenAnswers {
    store: Arc<SqliteStore>,
    next_claim: AtomicBool,
}

macro_rules! delegate_store {
    ($($name:ident($($argument:ident: $type:ty),*) -> $answer:ty;)*) => {
        #[async_trait]
        impl Store for BrokenAnswers {
            async fn claim(&self, request: ClaimRequest<'_>) -> StoreResult<Claimed> {
                let claimed = self.store.claim(request).await?;
                if !claimed.tasks.is_empty() && self.next_claim.swap(false, Ordering::SeqCst) {
                    return Err(StoreError::Unavailable("the connection broke".into()));
                }
                Ok(claimed)
            }
            $(async fn $name(&self, $($argument: $type),*) -> StoreResult<$answer> {
                self.store.$name($($argument),*).await
            })*
        }
    };
}

impl StoreClock for BrokenAnswers {
    fn clock(&self) -> &Clock {
        self.store.clock()
    }
}

delegate_store! {
    enqueue(tasks: &[NewTask]) -> ();
    complete(completions: &[Completion]) -> Vec<Commit>;
    report_progress(reports: &[ProgressReport]) -> ();
    cancel(tenant: &TenantId, id: TaskId, now: Timestamp) -> CancelOutcome;
    retry(tenant: &TenantId, id: TaskId, now: Timestamp) -> RetryOutcome;
    prune(tenant: &TenantId, filter: &TaskFilter, limit: u32) -> u64;
    requeue(tenant: &TenantId, filter: &TaskFilter, limit: u32, input: Option<&Json>, now: Timestamp) -> Vec<QueuedTask>;
    dead_letters(tenant: &TenantId, filter: &TaskFilter, limit: u32) -> Vec<DeadLetterGroup>;
    task(tenant: &TenantId, id: TaskId) -> Option<Task>;
    tasks(tenant: &TenantId, filter: &TaskFilter, page: Page) -> Vec<Task>;
    history(tenant: &TenantId, id: TaskId) -> Option<History>;
    counts() -> Counts;
    policy() -> QueuePolicy;
    set_type_policy(task_type: &TaskType, policy: TypePolicy) -> ();
    set_tenant_policy(tenant: &TenantId, policy: TenantPolicy) -> ();
    register_worker(worker: &WorkerRecord, now: Timestamp) -> ();
    heartbeat(worker: WorkerId, now: Timestamp) -> bool;
    lease_connection() -> Box<dyn LeaseConnection>;
    remove_worker(worker: WorkerId) -> ();
    lost_leases(held: &[(TaskId, RunLease)]) -> Vec<TaskId>;
    claimed_by(worker: WorkerId) -> Vec<LapsedTask>;
    lead(who: WorkerId, now: Timestamp, ttl: Duration) -> Option<Term>;
    resign(term: Term) -> ();
    promote_due(term: Term, now: Timestamp, limit: u32) -> Vec<QueuedTask>;
    next_due() -> Option<Timestamp>;
    lapsed(term: Term, now: Timestamp, limit: u32) -> Vec<LapsedTask>;
    resolve_lapsed(term: Option<Term>, resolutions: &[Resolution], now: Timestamp) -> Vec<TaskId>;
    lanes(limit: u32) -> Vec<Lane>;
    pending(lane: &Lane, after: Option<TaskId>, limit: u32) -> Vec<TaskId>;
    upkeep(term: Option<Term>, now: Timestamp, retention: Duration) -> Upkeep;
    ping() -> ();
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
        let outbox = OutboxMailer::new(data.path().join("outbox"), "test@localhost").unwrap();
        Self::with_data(data, Arc::new(outbox), PluginSettings::default()).await
    }

    /// One whose plugin may do more, and sends its mail there.
    async fn with(mailer: Arc<dyn Mailer>, settings: Value) -> Self {
        let data = tempfile::tempdir().unwrap();
        Self::with_data(data, mailer, serde_json::from_value(settings).unwrap()).await
    }

    async fn with_data(
        data: tempfile::TempDir,
        mailer: Arc<dyn Mailer>,
        settings: PluginSettings,
    ) -> Self {
        let store = SqliteStore::open(&data.path().join("tasks.db")).await.unwrap();
        let broker = Arc::new(Flaky {
            broker: LocalBroker::new(),
            away: AtomicBool::new(false),
            knows_nothing: AtomicBool::new(false),
        });
        let runtime = sandbox(mailer);
        let hostile = runtime.load(guests::bytes("hostile"), settings).await.unwrap();
        let services = Services {
            store: store.clone(),
            broker: broker.clone(),
            runtime,
            live: Arc::new(Live::of([hostile])),
            usage: Arc::default(),
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
        self.tasks.spawn(Worker::new(config, self.services.clone()).run(self.stop.clone()));
    }

    async fn stop(self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// Commits a task without telling the broker.
    async fn commit(&self, attack: Value, max_retries: u32) -> TaskId {
        self.commit_for(&TenantId::default(), attack, max_retries).await
    }

    async fn commit_for(&self, tenant: &TenantId, attack: Value, max_retries: u32) -> TaskId {
        let hostile = TaskType::new("hostile").unwrap();
        let retry = RetryPolicy {
            max_retries,
            base: Duration::from_millis(1),
            cap: Duration::from_millis(5),
        };
        let task = NewTask {
            retry,
            ..NewTask::new(tenant.clone(), hostile, Json::from(attack), Timestamp::now())
        };
        self.store.enqueue(std::slice::from_ref(&task)).await.unwrap();
        task.id
    }

    async fn submit(&self, attack: Value, max_retries: u32) -> TaskId {
        let id = self.commit(attack, max_retries).await;
        self.broker.push(&[self.hint(id).await]).await.unwrap();
        id
    }

    async fn submit_for(&self, tenant: &TenantId, attack: Value) -> TaskId {
        let id = self.commit_for(tenant, attack, 0).await;
        let lane = Lane {
            tenant: tenant.clone(),
            task_type: TaskType::new("hostile").unwrap(),
            priority: Priority::default(),
        };
        self.broker.push(&[QueuedTask { id, lane }]).await.unwrap();
        id
    }

    async fn hint(&self, id: TaskId) -> QueuedTask {
        let task = self.task(id).await;
        let lane = Lane { tenant: task.tenant, task_type: task.task_type, priority: task.priority };
        QueuedTask { id, lane }
    }

    async fn task(&self, id: TaskId) -> Task {
        self.store.task(&TenantId::default(), id).await.unwrap().unwrap()
    }

    async fn reaches(&self, id: TaskId, state: TaskState) -> Task {
        wait_until(&format!("task {id} is {state}"), async || self.task(id).await.state == state)
            .await;
        self.task(id).await
    }
}

fn sandbox(mailer: Arc<dyn Mailer>) -> Runtime {
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
    let history = bed.store.history(&TenantId::default(), id).await.unwrap().unwrap();
    assert_eq!(history.attempts.len(), 3);
    bed.stop().await;
}

/// Hints come, are lost, lead to what runs already; the broker is away; the store is looked into.
/// Nothing but the claim knows the cap.
#[tokio::test(flavor = "multi_thread")]
async fn a_cap_holds_however_a_worker_comes_by_its_tasks() {
    let bed = Bed::new().await;
    let hostile = TaskType::new("hostile").unwrap();
    let cap = TypePolicy { paused: false, max_running: Some(3) };
    bed.store.set_type_policy(&hostile, cap).await.unwrap();
    bed.start_worker(|_| {});
    bed.start_worker(|_| {});
    let mut tasks = Vec::new();
    for n in 0..24 {
        bed.broker.away.store(n % 5 == 0, Ordering::SeqCst);
        bed.broker.knows_nothing.store(n % 7 == 0, Ordering::SeqCst);
        let attack = json!({ "attack": "sleep", "ms": 20 + n % 4 * 30 });
        let id = bed.commit(attack, 0).await;
        tasks.push(id);
        if n % 2 == 0 {
            let hint = bed.hint(id).await;
            bed.broker.push(&[hint]).await.ok();
        }
        // One that runs by now, perhaps.
        let hint = bed.hint(tasks[n / 2]).await;
        bed.broker.broker.push(&[hint]).await.unwrap();
    }
    bed.broker.away.store(false, Ordering::SeqCst);
    bed.broker.knows_nothing.store(false, Ordering::SeqCst);
    let mut most = 0;
    wait_until("all have completed", async || {
        let counts = bed.store.counts().await.unwrap().by_type;
        let of = |state| {
            let all = counts.iter().filter(|(_, of, _)| *of == state);
            all.map(|(.., count)| *count).sum::<u64>()
        };
        most = most.max(of(TaskState::Running));
        of(TaskState::Pending) + of(TaskState::Running) == 0
    })
    .await;
    assert_eq!(most, 3);
    for id in tasks {
        assert_eq!(bed.task(id).await.state, TaskState::Completed);
    }
    bed.stop().await;
}

/// A permit that becomes free is used within milliseconds, and nobody is told of it.
#[tokio::test(flavor = "multi_thread")]
async fn a_lane_at_its_cap_goes_on_when_there_is_a_permit_and_holds_up_no_neighbour() {
    let bed = Bed::new().await;
    let (full, free) = (TenantId::new("full").unwrap(), TenantId::new("free").unwrap());
    let cap = TenantPolicy { max_running: Some(1), ..TenantPolicy::default() };
    bed.store.set_tenant_policy(&full, cap).await.unwrap();
    let attack = |ms: u32| json!({ "attack": "sleep", "ms": ms });
    let mut last = Vec::new();
    for _ in 0..40 {
        last.push(bed.submit_for(&full, attack(10)).await);
    }
    let others = [bed.submit_for(&free, attack(1)).await, bed.submit_for(&free, attack(1)).await];
    bed.start_worker(|_| {});
    for id in others {
        wait_until("its neighbour has completed", async || {
            let task = bed.store.task(&free, id).await.unwrap().unwrap();
            task.state == TaskState::Completed
        })
        .await;
    }
    let waiting = TaskFilter { states: vec![TaskState::Pending], ..TaskFilter::default() };
    let page = Page { after: None, limit: 100 };
    let left = bed.store.tasks(&full, &waiting, page).await.unwrap();
    assert!(!left.is_empty(), "it did not wait for all the others");
    let id = last[39];
    wait_until("the last one has completed", async || {
        let task = bed.store.task(&full, id).await.unwrap().unwrap();
        task.state == TaskState::Completed
    })
    .await;
    bed.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn attempts_used_up_make_a_dead_letter_and_a_permanent_failure_at_once() {
    let bed = Bed::new().await;
    bed.start_worker(|_| {});
    let retried = bed.submit(json!({ "attack": "fail" }), 2).await;
    let permanent = bed.submit(json!({ "attack": "fail", "permanent": true }), 2).await;
    let retried = bed.reaches(retried, TaskState::Failed).await;
    assert_eq!((retried.attempt, retried.error.unwrap().kind), (3, FailureKind::Retryable));
    let permanent = bed.reaches(permanent, TaskState::Failed).await;
    assert_eq!((permanent.attempt, permanent.error.unwrap().kind), (1, FailureKind::Permanent));
    bed.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cancelling_a_running_task_stops_it_and_keeps_its_record() {
    let bed = Bed::new().await;
    bed.start_worker(|_| {});
    let id = bed.submit(json!({ "attack": "endless_loop" }), 3).await;
    bed.reaches(id, TaskState::Running).await;
    let cancelled = bed.store.cancel(&TenantId::default(), id, Timestamp::now()).await.unwrap();
    assert!(matches!(cancelled, CancelOutcome::WasRunning(_)));
    bed.broker.publish(&[Signal::Cancel(id)]).await.unwrap();
    wait_until("the attempt is on record", async || {
        !bed.store.history(&TenantId::default(), id).await.unwrap().unwrap().attempts.is_empty()
    })
    .await;
    let history = bed.store.history(&TenantId::default(), id).await.unwrap().unwrap();
    assert_eq!(history.task.state, TaskState::Cancelled);
    let Outcome::Failed(failure) = &history.attempts[0].outcome else {
        panic!("{:?}", history.attempts[0])
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
    bed.store.cancel(&TenantId::default(), id, Timestamp::now()).await.unwrap();
    wait_until("the attempt is on record", async || {
        !bed.store.history(&TenantId::default(), id).await.unwrap().unwrap().attempts.is_empty()
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
    let later = Timestamp::now().checked_add(jiff::SignedDuration::from_hours(1)).unwrap();
    let usurper = WorkerId::generate();
    let term = bed.store.lead(usurper, later, Duration::ZERO).await.unwrap().unwrap();
    bed.store.lapsed(term, later, 10).await.unwrap();
    bed.store.resign(term).await.unwrap();
    let task = bed.reaches(id, TaskState::Completed).await;
    assert_eq!((task.attempt, task.lapses), (1, 1), "a lapse is no attempt");
    assert!(task.run_lease > running.run_lease);
    let history = bed.store.history(&TenantId::default(), id).await.unwrap().unwrap();
    assert_eq!(history.attempts.len(), 1, "the lapsed attempt committed nothing");
    assert_ne!(
        Some(history.attempts[0].worker),
        running.worker,
        "the worker came back under a fresh id"
    );
    assert!(history.events.iter().any(|event| event.kind == EventKind::Lapsed));
    bed.stop().await;
}

/// Mail that goes nowhere. A message whose subject says so holds the thread that sends it.
#[derive(Default)]
struct Blocking {
    /// The names of the threads that were held.
    held: Mutex<HashMap<ThreadId, String>>,
}

/// Longer than the lease of the worker under test.
const HELD: Duration = Duration::from_secs(6);
/// Of its worker: less than that, and more than a busy machine stands still.
const LEASE: Duration = Duration::from_secs(3);

#[async_trait]
impl Mailer for Blocking {
    async fn send(&self, message: MailMessage) -> Result<MailReceipt, MailError> {
        if message.subject == "hold" {
            let thread = std::thread::current();
            let name = thread.name().unwrap_or_default().to_owned();
            self.held.lock().unwrap().insert(thread.id(), name);
            std::thread::sleep(HELD);
        }
        Ok(MailReceipt {
            message_id: "<1@localhost>".into(),
            accepted: Vec::new(),
            log: Vec::new(),
            refused: Vec::new(),
        })
    }
}

/// One thread claims, commits and runs quick attempts, so that it is known to be held.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_worker_whose_threads_are_all_held_keeps_its_lease() {
    let mailer = Arc::new(Blocking::default());
    let bed = Bed::with(mailer.clone(), json!({ "grants": { "mail": true } })).await;
    bed.start_worker(|config| config.heartbeat_timeout = LEASE);
    let mail =
        |subject| json!({ "attack": "mail", "to": ["a@b.test"], "subject": subject, "text": "x" });
    // One after the other, so that its lane begins on the threads that claim and commit.
    for _ in 0..20 {
        let quick = bed.submit(mail("quick"), 0).await;
        bed.reaches(quick, TaskState::Completed).await;
    }
    let mut holding = Vec::new();
    for tenant in ["default", "stranger", "default", "stranger", "default", "stranger"] {
        let tenant = TenantId::new(tenant).unwrap();
        let id = bed.commit_for(&tenant, mail("hold"), 0).await;
        holding.push((tenant, id));
    }
    // The audit finds them, all at once.
    for (tenant, id) in holding {
        wait_until("it has ended", async || {
            let task = bed.store.task(&tenant, id).await.unwrap().unwrap();
            task.state.is_terminal()
        })
        .await;
        let history = bed.store.history(&tenant, id).await.unwrap().unwrap();
        let kinds: Vec<_> = history.events.iter().map(|event| event.kind).collect();
        assert_eq!(kinds, [], "no lease was lost: {:?}", history.events);
        assert_eq!((history.task.state, history.task.attempt), (TaskState::Completed, 1));
    }
    let held = mailer.held.lock().unwrap().clone();
    let foreground = held.values().filter(|name| name.starts_with("tokio")).count();
    assert_eq!(foreground, 1, "{held:?}");
    assert!(held.values().any(|name| name == "background"), "{held:?}");
    bed.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_without_a_hint_is_found_by_the_audit() {
    let bed = Bed::new().await;
    bed.start_worker(|_| {});
    wait_until("the broker has been filled once", async || bed.broker.is_complete().await.unwrap())
        .await;
    let id = bed.commit(json!({ "attack": "ok" }), 0).await;
    bed.reaches(id, TaskState::Completed).await;
    bed.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_that_was_committed_without_an_answer_is_handed_back_uncounted() {
    let mut bed = Bed::new().await;
    let broken =
        Arc::new(BrokenAnswers { store: bed.store.clone(), next_claim: AtomicBool::new(true) });
    bed.services.store = broken.clone();
    bed.start_worker(|_| {});
    let id = bed.submit(json!({ "attack": "ok" }), 0).await;
    let task = bed.reaches(id, TaskState::Completed).await;
    assert!(!broken.next_claim.load(Ordering::SeqCst), "a claim went unanswered");
    assert_eq!(task.attempt, 1, "the attempt that never began does not count");
    assert_eq!(task.run_lease.0, 2);
    bed.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_of_two_sweepers_leads_and_the_other_follows_at_once() {
    let bed = Bed::new().await;
    let (stop_second, second) = (CancellationToken::new(), TaskTracker::new());
    let sweeper = Sweeper::new(SweeperConfig::default(), bed.store.clone(), bed.broker.clone());
    wait_until("the first leads", async || bed.broker.is_complete().await.unwrap()).await;
    second.spawn(sweeper.run(stop_second.clone()));
    second.close();
    let stranger = WorkerId::generate();
    let ask = async || bed.store.lead(stranger, Timestamp::now(), Duration::ZERO).await.unwrap();
    assert_eq!(ask().await, None, "somebody leads");
    // The bed's sweeper and its worker stop; it resigns, and a retry still comes to its time under
    // the second.
    bed.stop.cancel();
    bed.tasks.close();
    bed.tasks.wait().await;
    let id = bed.submit(json!({ "attack": "fail", "times": 1 }), 1).await;
    let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
    let config = WorkerConfig { concurrency: 1, ..WorkerConfig::default() };
    tasks.spawn(Worker::new(config, bed.services.clone()).run(stop.clone()));
    let task = bed.reaches(id, TaskState::Completed).await;
    assert_eq!(task.attempt, 2);
    stop.cancel();
    stop_second.cancel();
    tasks.close();
    tasks.wait().await;
    second.wait().await;
    assert!(ask().await.is_some(), "the second has resigned too");
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
    for attack in
        ["endless_loop", "endless_recursion", "grow_memory", "log_flood", "sleep", "panic"]
    {
        bed.submit(json!({ "attack": attack }), 0).await;
    }
    let good = bed.submit(json!({ "attack": "ok", "value": 1 }), 0).await;
    bed.reaches(good, TaskState::Completed).await;
    // The attackers are left to the end of the test's runtime: their limits are the sandbox's
    // tests.
    bed.stop.cancel();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ended_task_keeps_its_log_and_drops_its_progress() {
    let bed = Bed::new().await;
    bed.start_worker(|_| {});
    let id = bed.submit(json!({ "attack": "chatty" }), 0).await;
    let task = bed.reaches(id, TaskState::Completed).await;
    assert!(task.progress.is_none(), "a task that has ended reports no progress");
    let history = bed.store.history(&TenantId::default(), id).await.unwrap().unwrap();
    assert!(history.attempts[0].logs.len() >= 6, "{:?}", history.attempts[0].logs);
    bed.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_attempt_logs_is_shown_while_it_runs() {
    let bed = Bed::new().await;
    bed.start_worker(|_| {});
    let sleep = json!({ "attack": "sleep", "ms": 600_000, "saying": "half of it is done" });
    let id = bed.submit(sleep, 0).await;
    let history = async || bed.store.history(&TenantId::default(), id).await.unwrap().unwrap();
    wait_until("the line is in the store", async || {
        let log = history().await.log;
        log.iter().any(|line| line.message.contains("half of it is done"))
    })
    .await;
    assert_eq!(history().await.task.state, TaskState::Running);
    assert!(history().await.task.progress.is_none(), "it has reported none");
    bed.store.cancel(&TenantId::default(), id, Timestamp::now()).await.unwrap();
    assert!(history().await.log.is_empty());
    bed.stop.cancel();
}
