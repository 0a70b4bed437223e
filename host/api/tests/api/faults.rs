use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use serde_json::json;
use taskforge_broker::{
    Broker, BrokerError, BrokerResult, LocalBroker, Mode, Popped, QueuedTask, ShortLane, Signal,
    Signals, Want,
};
use taskforge_domain::{
    Clock, Json, Lane, LaneLimits, NewTask, QueuePolicy, RunLease, Task, TaskId, TaskType,
    TenantId, TenantPolicy, Timestamp, TypePolicy, WorkerId,
};
use taskforge_store::{
    CancelOutcome, ClaimRequest, Claimed, Commit, Completion, Counts, DeadLetterGroup, History,
    LapsedTask, LeaseConnection, Page, ProgressReport, Resolution, RetryOutcome, SqliteStore,
    Store, StoreClock, StoreError, StoreResult, TaskFilter, Term, Upkeep, WorkerRecord,
};
use tokio::sync::{Semaphore, broadcast};

use crate::harness::{Api, Setup, TEST_DEADLINE};

/// What is wrong with the store.
#[derive(Debug, Clone, Copy)]
enum Fault {
    None,
    Unavailable,
    Refused,
    Hangs,
    Panics,
}

/// A real store with a fault in front of it, and a gate before its enqueue.
struct Faulty {
    inner: Arc<SqliteStore>,
    fault: Mutex<Fault>,
    gate: Semaphore,
    flushes: AtomicUsize,
    pings: AtomicUsize,
}

impl Faulty {
    async fn check(&self) -> StoreResult<()> {
        let fault = *self.fault.lock().unwrap();
        match fault {
            Fault::None => Ok(()),
            Fault::Unavailable => Err(StoreError::Unavailable("secret: disk is on fire".into())),
            Fault::Refused => Err(StoreError::Refused("secret: near \"selct\"".into())),
            Fault::Hangs => std::future::pending().await,
            Fault::Panics => panic!("secret: out of cheese"),
        }
    }
}

macro_rules! guarded {
    ($($name:ident(&self $(, $arg:ident: $type:ty)*) -> $result:ty;)*) => {
        #[async_trait]
        impl Store for Faulty {
            async fn enqueue(&self, tasks: &[NewTask]) -> StoreResult<()> {
                self.flushes.fetch_add(1, Ordering::SeqCst);
                let _open = self.gate.acquire().await.unwrap();
                self.check().await?;
                self.inner.enqueue(tasks).await
            }
            async fn ping(&self) -> StoreResult<()> {
                self.pings.fetch_add(1, Ordering::SeqCst);
                self.check().await?;
                self.inner.ping().await
            }
            $(async fn $name(&self $(, $arg: $type)*) -> StoreResult<$result> {
                self.check().await?;
                self.inner.$name($($arg),*).await
            })*
        }
    };
}

impl StoreClock for Faulty {
    fn clock(&self) -> &Clock {
        self.inner.clock()
    }
}

guarded! {
    claim(&self, request: ClaimRequest<'_>) -> Claimed;
    complete(&self, completions: &[Completion]) -> Vec<Commit>;
    report_progress(&self, reports: &[ProgressReport]) -> ();
    cancel(&self, tenant: &TenantId, id: TaskId, now: Timestamp) -> CancelOutcome;
    retry(&self, tenant: &TenantId, id: TaskId, now: Timestamp) -> RetryOutcome;
    prune(&self, tenant: &TenantId, filter: &TaskFilter, limit: u32) -> u64;
    task(&self, tenant: &TenantId, id: TaskId) -> Option<Task>;
    tasks(&self, tenant: &TenantId, filter: &TaskFilter, page: Page) -> Vec<Task>;
    history(&self, tenant: &TenantId, id: TaskId) -> Option<History>;
    requeue(&self, tenant: &TenantId, filter: &TaskFilter, limit: u32, input: Option<&Json>, now: Timestamp) -> Vec<QueuedTask>;
    dead_letters(&self, tenant: &TenantId, filter: &TaskFilter, limit: u32) -> Vec<DeadLetterGroup>;
    counts(&self) -> Counts;
    policy(&self) -> QueuePolicy;
    set_type_policy(&self, task_type: &TaskType, policy: TypePolicy) -> ();
    set_tenant_policy(&self, tenant: &TenantId, policy: TenantPolicy) -> ();
    register_worker(&self, worker: &WorkerRecord, now: Timestamp) -> ();
    heartbeat(&self, worker: WorkerId, now: Timestamp) -> bool;
    lease_connection(&self) -> Box<dyn LeaseConnection>;
    remove_worker(&self, worker: WorkerId) -> ();
    lost_leases(&self, held: &[(TaskId, RunLease)]) -> Vec<TaskId>;
    claimed_by(&self, worker: WorkerId) -> Vec<LapsedTask>;
    lead(&self, who: WorkerId, now: Timestamp, ttl: Duration) -> Option<Term>;
    resign(&self, term: Term) -> ();
    promote_due(&self, term: Term, now: Timestamp, limit: u32) -> Vec<QueuedTask>;
    next_due(&self) -> Option<Timestamp>;
    lapsed(&self, term: Term, now: Timestamp, limit: u32) -> Vec<LapsedTask>;
    resolve_lapsed(&self, term: Option<Term>, resolutions: &[Resolution], now: Timestamp) -> Vec<TaskId>;
    lanes(&self, limit: u32) -> Vec<Lane>;
    pending(&self, lane: &Lane, after: Option<TaskId>, limit: u32) -> Vec<TaskId>;
    upkeep(&self, term: Option<Term>, now: Timestamp, retention: Duration) -> Upkeep;
}

/// A server whose store has this fault. With the gate closed, enqueues wait for permits.
async fn faulty(fault: Fault, gate: usize) -> (Api, Arc<Faulty>) {
    let (tell, told) = std::sync::mpsc::channel();
    let wrap = Box::new(move |inner| {
        let (gate, flushes) = (Semaphore::new(gate), AtomicUsize::new(0));
        let store = Arc::new(Faulty {
            inner,
            fault: Mutex::new(fault),
            gate,
            flushes,
            pings: AtomicUsize::new(0),
        });
        tell.send(Arc::clone(&store)).unwrap();
        store as Arc<dyn Store>
    });
    let mut setup = Setup { wrap, ..Setup::default() };
    setup.config.handler_timeout = Duration::from_millis(300);
    setup.config.body_timeout = Duration::from_millis(300);
    let api = setup.start().await;
    (api, told.recv().unwrap())
}

/// Every route that needs the store.
fn requests(id: TaskId) -> Vec<(&'static str, String)> {
    vec![
        ("POST", "/tasks".into()),
        ("POST", "/tasks/batch".into()),
        ("GET", "/tasks".into()),
        ("DELETE", "/tasks?first=1".into()),
        ("GET", format!("/tasks/{id}")),
        ("GET", format!("/tasks/{id}/logs")),
        ("POST", format!("/tasks/{id}/cancel")),
        ("POST", format!("/tasks/{id}/retry")),
        ("GET", "/dlq".into()),
        ("GET", "/dlq/groups".into()),
        ("DELETE", "/dlq?all=true".into()),
        ("POST", "/dlq/requeue".into()),
        ("GET", "/queues".into()),
        ("PUT", "/queues/echo".into()),
        ("POST", "/queues/echo/pause".into()),
        ("GET", "/tenants".into()),
        ("PUT", "/tenants/default".into()),
    ]
}

async fn try_all(fault: Fault, status: u16, kind: &str) {
    let (api, _) = faulty(fault, 1000).await;
    for (method, path) in requests(TaskId::generate()) {
        let body = match path.as_str() {
            "/tasks" if method == "POST" => json!({"task_type": "echo"}).to_string(),
            "/tasks/batch" => json!({"tasks": [{"task_type": "echo"}]}).to_string(),
            "/dlq/requeue" => json!({"all": true}).to_string(),
            "/queues/echo" | "/tenants/default" => json!({"max_running": 1}).to_string(),
            _ => String::new(),
        };
        let answer =
            api.send(method, &path, &[("content-type", "application/json")], body.as_bytes()).await;
        answer.problem(status, kind);
        assert!(!answer.text().contains("secret"), "internal text: {}", answer.text());
        assert_eq!(answer.header("retry-after"), if status == 503 { "1" } else { "" });
    }
    assert_eq!(api.get("/healthz").await.status, 200, "the process lives on");
}

#[tokio::test]
async fn a_store_that_is_away_is_a_503_with_a_time_to_come_back() {
    try_all(Fault::Unavailable, 503, "unavailable").await;
}

#[tokio::test]
async fn a_store_that_refuses_is_our_fault_and_tells_nothing() {
    try_all(Fault::Refused, 500, "internal").await;
}

#[tokio::test]
async fn a_store_that_hangs_does_not_hang_its_clients() {
    try_all(Fault::Hangs, 503, "unavailable").await;
}

#[tokio::test]
async fn a_panic_ends_one_request_only() {
    let (api, store) = faulty(Fault::Panics, 1000).await;
    let path = format!("/tasks/{}", TaskId::generate());
    let answer = api.get(&path).await;
    answer.problem(500, "internal");
    assert!(!answer.text().contains("cheese"));
    *store.fault.lock().unwrap() = Fault::None;
    api.get(&path).await.problem(404, "not-found");
}

#[tokio::test]
async fn a_hung_store_holds_no_probe_for_long() {
    let (api, store) = faulty(Fault::None, 1000).await;
    assert_eq!(api.get("/readyz").await.status, 200);
    *store.fault.lock().unwrap() = Fault::Hangs;
    let unready = async { while api.get("/readyz").await.status != 503 {} };
    tokio::time::timeout(TEST_DEADLINE, unready).await.expect("it is noticed");
    // More than there are connections for probes, each of which waited for two seconds once.
    let asked = std::time::Instant::now();
    for _ in 0..20 {
        let probes = futures_util::future::join_all((0..20).map(|_| api.get("/readyz"))).await;
        for answer in probes {
            assert_eq!(answer.status, 503);
            assert_eq!(answer.json()["checks"]["store"], "does not answer");
        }
        assert_eq!(api.get("/healthz").await.status, 200);
    }
    assert!(asked.elapsed() < Duration::from_secs(20), "{:?}", asked.elapsed());
    let pings = store.pings.load(Ordering::SeqCst);
    assert!(pings < 40, "{pings} questions for 400 probes");
}

#[tokio::test]
async fn readiness_says_which_part_does_not_work_and_recovers() {
    let (api, store) = faulty(Fault::Unavailable, 1000).await;
    let answer = api.get("/readyz").await;
    assert_eq!((answer.status, &answer.json()["checks"]["store"]), (503, &json!("unavailable")));
    assert!(!answer.text().contains("secret"));
    assert_eq!(answer.json()["checks"]["broker"], "ok");
    let metrics = api.get("/metrics").await;
    assert!(metrics.status == 200 && metrics.text().contains("taskforge_store_up 0"));
    *store.fault.lock().unwrap() = Fault::None;
    // What was said a moment ago is repeated.
    let ready = async { while api.get("/readyz").await.status != 200 {} };
    tokio::time::timeout(TEST_DEADLINE, ready).await.expect("it is ready again");
    assert!(
        api.get("/metrics").await.text().contains("taskforge_store_up 0"),
        "counts are read every few seconds only"
    );
}

#[tokio::test]
async fn concurrent_requests_do_not_wait_for_each_others_commits() {
    let (api, store) = faulty(Fault::None, 0).await;
    let requests = (0..50).map(|n| {
        let body = json!({"task_type": "fibonacci", "input": {"n": n}});
        let api = &api;
        async move { api.post("/tasks", &body).await.status }
    });
    let opening = async {
        // All of them reach the store although none has been committed, so the store can make one
        // transaction of them.
        while store.flushes.load(Ordering::SeqCst) < 50 {
            tokio::task::yield_now().await;
        }
        store.gate.add_permits(50);
    };
    let all = async { tokio::join!(join_all(requests), opening).0 };
    let statuses = tokio::time::timeout(TEST_DEADLINE, all).await.unwrap();
    assert_eq!(statuses, vec![201; 50]);
}

#[tokio::test]
async fn a_commit_whose_client_has_gone_is_hinted_all_the_same() {
    let (api, store) = faulty(Fault::None, 0).await;
    let body = json!({"task_type": "echo"});
    let request = api.post("/tasks", &body);
    let gone = async {
        while store.flushes.load(Ordering::SeqCst) == 0 {
            tokio::task::yield_now().await;
        }
    };
    // The request is dropped, and its connection closed, while its commit is under way.
    tokio::select! { _ = request => panic!("it was answered"), () = gone => {} }
    store.gate.add_permits(1);
    let echo = [TaskType::new("echo").unwrap()];
    let want = Want { types: &echo, lanes: LaneLimits::none(), max: 1, wait: TEST_DEADLINE };
    assert_eq!(api.broker.pop(want).await.unwrap().hints.len(), 1);
}

/// Runs futures together on this task.
async fn join_all<F: Future>(futures: impl Iterator<Item = F>) -> Vec<F::Output> {
    let mut futures: Vec<_> = futures.map(|future| (Box::pin(future), None)).collect();
    std::future::poll_fn(|cx| {
        let mut done = true;
        for (future, output) in &mut futures {
            if output.is_none() {
                match future.as_mut().poll(cx) {
                    std::task::Poll::Ready(value) => *output = Some(value),
                    std::task::Poll::Pending => done = false,
                }
            }
        }
        if done { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
    futures.into_iter().filter_map(|(_, output)| output).collect()
}

/// A broker that is away: every operation fails, and says something that is nobody's business.
struct Away {
    signals: broadcast::Sender<Signal>,
    mode: Mode,
}

macro_rules! away {
    ($($name:ident($($type:ty),*) -> $result:ty;)*) => {
        #[async_trait]
        impl Broker for Away {
            $(async fn $name(&self, $(_: $type),*) -> BrokerResult<$result> {
                Err(BrokerError("secret: connection refused".into()))
            })*
            fn subscribe(&self) -> Signals {
                self.signals.subscribe()
            }
            fn mode(&self) -> Mode {
                self.mode
            }
        }
    };
}

away! {
    push(&[QueuedTask]) -> ();
    pop(Want<'_>) -> Popped;
    set_aside(&[QueuedTask]) -> ();
    depth() -> u64;
    is_complete() -> bool;
    mark_complete() -> ();
    short_lanes() -> Vec<ShortLane>;
    refill(&Lane, Option<TaskId>, &[TaskId], bool) -> ();
    set_policy(&QueuePolicy) -> ();
    publish(&[Signal]) -> ();
}

/// A server whose broker is away.
async fn without_broker(mode: Mode) -> Api {
    let signals = broadcast::channel(1).0;
    let setup = Setup { broker: Some(Arc::new(Away { signals, mode })), ..Setup::default() };
    setup.start().await
}

#[tokio::test]
async fn a_broker_that_is_away_fails_no_request() {
    let api = without_broker(Mode::Redis).await;
    let id = api.fibonacci().await;
    for action in ["cancel", "retry", "cancel"] {
        assert_eq!(api.post_text(&format!("/tasks/{id}/{action}"), "").await.status, 200);
    }
    assert_eq!(api.get(&format!("/tasks/{id}?wait=5s")).await.json()["status"], "cancelled");
    assert!(
        api.get("/metrics")
            .await
            .text()
            .contains("taskforge_broker_errors_total{operation=\"publish\"}")
    );
}

#[tokio::test]
async fn a_fleet_whose_broker_is_away_is_ready_and_says_which_mode_is_on() {
    for (mode, said) in [
        (Mode::Redis, "unavailable"),
        (Mode::StoreWhileRedisIsAway, "Redis is away; tasks are claimed from the store itself"),
    ] {
        let api = without_broker(mode).await;
        let ready = api.get("/readyz").await;
        assert_eq!((ready.status, &ready.json()["status"]), (200, &json!("ready")));
        assert_eq!(ready.json()["mode"], mode.as_str());
        assert_eq!(ready.json()["checks"]["broker"], said);
        assert!(!ready.text().contains("secret"));
        let metrics = api.get("/metrics").await;
        for line in [
            format!("taskforge_broker_mode{{mode=\"{}\"}} 1\n", mode.as_str()),
            "taskforge_broker_mode{mode=\"local\"} 0\n".to_owned(),
            "taskforge_broker_up 0\n".to_owned(),
        ] {
            assert!(metrics.text().contains(&line), "{line}");
        }
    }
}

#[tokio::test]
async fn external_workers_are_served_from_the_store_while_the_broker_is_away() {
    let api = without_broker(Mode::StoreWhileRedisIsAway).await;
    let ids = [api.fibonacci().await, api.fibonacci().await];
    let ask = json!({"task_types": ["fibonacci"], "max": 3, "wait": "20s"});
    let tasks = api.post("/task/next", &ask).await.json()["tasks"].clone();
    assert_eq!(tasks[0]["id"], ids[0].to_string());
    assert_eq!(tasks[1]["id"], ids[1].to_string());
    let waiting = api.post("/task/next", &ask);
    let (answer, id) = tokio::join!(waiting, api.fibonacci());
    assert_eq!(answer.json()["tasks"][0]["id"], id.to_string(), "found by looking again");
    let body =
        json!({"task_id": tasks[0]["id"], "lease_token": tasks[0]["lease_token"], "output": 1});
    assert_eq!(api.post("/complete_task", &body).await.json()["status"], "completed");
}

#[tokio::test]
async fn a_store_that_is_away_loses_no_external_workers_hint() {
    let (api, store) = faulty(Fault::None, 1000).await;
    let id = api.fibonacci().await;
    *store.fault.lock().unwrap() = Fault::Unavailable;
    let ask = json!({"task_types": ["fibonacci"], "wait": "20s"});
    for _ in 0..3 {
        api.post("/task/next", &ask).await.problem(503, "unavailable");
    }
    *store.fault.lock().unwrap() = Fault::None;
    let leased = api.post("/task/next", &ask).await.json()["tasks"][0].clone();
    assert_eq!((&leased["id"], &leased["attempt"]), (&json!(id.to_string()), &json!(1)));
}

#[tokio::test]
async fn an_external_worker_gets_what_a_cap_allows_and_the_rest_when_that_has_ended() {
    let broker = Arc::new(LocalBroker::new());
    // Or else the store would be looked into beside it.
    broker.mark_complete().await.unwrap();
    let setup = Setup { broker: Some(broker.clone()), ..Setup::default() };
    let api = setup.start().await;
    let cap = TypePolicy { max_running: Some(1), ..TypePolicy::default() };
    let fibonacci = TaskType::new("fibonacci").unwrap();
    api.store.set_type_policy(&fibonacci, cap).await.unwrap();
    // One was cancelled while it waited, so its hint leads nowhere.
    let cancelled = api.fibonacci().await;
    api.post_text(&format!("/tasks/{cancelled}/cancel"), "").await;
    let waiting = [api.fibonacci().await, api.fibonacci().await];
    let ask = json!({"task_types": ["fibonacci"], "max": 5, "wait": "20s"});
    for id in waiting {
        let leased = api.post("/task/next", &ask).await.json()["tasks"].clone();
        assert_eq!(leased.as_array().unwrap().len(), 1, "{leased}");
        assert_eq!(leased[0]["id"], json!(id.to_string()));
        let none = json!({"task_types": ["fibonacci"], "wait": "100ms"});
        assert_eq!(api.post("/task/next", &none).await.json()["tasks"], json!([]));
        let failure = json!({"kind": "permanent", "message": "no"});
        let body = json!({
            "task_id": leased[0]["id"], "lease_token": leased[0]["lease_token"], "failure": failure
        });
        for _ in 0..2 {
            assert_eq!(api.post("/complete_task", &body).await.json()["status"], "failed");
        }
    }
    assert_eq!(broker.depth().await.unwrap(), 0);
}
