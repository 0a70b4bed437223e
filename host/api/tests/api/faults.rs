use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use serde_json::json;
use taskforge_broker::{Broker, BrokerError, BrokerResult, Hint, Signal, Signals, Want};
use taskforge_domain::{NewTask, RunLease, Task, TaskId, TaskType, TenantId, Timestamp, WorkerId};
use taskforge_store::{
    CancelOutcome, ClaimRequest, Commit, Completion, Counts, DueTask, LapsedTask, Page, ProgressReport,
    RetryOutcome, SqliteStore, Store, StoreError, StoreResult, Story, TaskFilter, Verdict, WorkerRecord,
};
use tokio::sync::{Semaphore, broadcast};

use crate::harness::{Api, PATIENCE, Setup};

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
            $(async fn $name(&self $(, $arg: $type)*) -> StoreResult<$result> {
                self.check().await?;
                self.inner.$name($($arg),*).await
            })*
        }
    };
}

guarded! {
    claim(&self, request: ClaimRequest<'_>) -> Vec<taskforge_domain::ClaimedTask>;
    complete(&self, completions: &[Completion]) -> Vec<Commit>;
    report_progress(&self, reports: &[ProgressReport]) -> ();
    cancel(&self, tenant: &TenantId, id: TaskId, now: Timestamp) -> CancelOutcome;
    retry(&self, tenant: &TenantId, id: TaskId, now: Timestamp) -> RetryOutcome;
    prune(&self, tenant: &TenantId, filter: &TaskFilter, limit: u32) -> u64;
    task(&self, tenant: &TenantId, id: TaskId) -> Option<Task>;
    tasks(&self, tenant: &TenantId, filter: &TaskFilter, page: Page) -> Vec<Task>;
    story(&self, tenant: &TenantId, id: TaskId) -> Option<Story>;
    counts(&self) -> Counts;
    register_worker(&self, worker: &WorkerRecord, now: Timestamp) -> ();
    heartbeat(&self, worker: WorkerId, now: Timestamp, timeout: Duration) -> bool;
    remove_worker(&self, worker: WorkerId) -> ();
    lost_leases(&self, held: &[(TaskId, RunLease)]) -> Vec<TaskId>;
    promote_due(&self, now: Timestamp, limit: u32) -> Vec<DueTask>;
    next_due(&self) -> Option<Timestamp>;
    lapsed(&self, now: Timestamp, timeout: Duration, limit: u32) -> Vec<LapsedTask>;
    resolve_lapsed(&self, verdicts: &[Verdict], now: Timestamp) -> Vec<TaskId>;
    pending(&self, after: Option<TaskId>, limit: u32) -> Vec<DueTask>;
    ping(&self) -> ();
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
        });
        tell.send(Arc::clone(&store)).unwrap();
        store as Arc<dyn Store>
    });
    let mut setup = Setup {
        wrap,
        ..Setup::default()
    };
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
    ]
}

async fn try_all(fault: Fault, status: u16, kind: &str) {
    let (api, _) = faulty(fault, 1000).await;
    for (method, path) in requests(TaskId::generate()) {
        let body = match path.as_str() {
            "/tasks" if method == "POST" => json!({"task_type": "echo"}).to_string(),
            "/tasks/batch" => json!({"tasks": [{"task_type": "echo"}]}).to_string(),
            _ => String::new(),
        };
        let answer = api
            .send(
                method,
                &path,
                &[("content-type", "application/json")],
                body.as_bytes(),
            )
            .await;
        answer.problem(status, kind);
        assert!(
            !answer.text().contains("secret"),
            "internal text: {}",
            answer.text()
        );
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
async fn readiness_says_which_part_does_not_work_and_recovers() {
    let (api, store) = faulty(Fault::Unavailable, 1000).await;
    let answer = api.get("/readyz").await;
    assert_eq!(
        (answer.status, &answer.json()["checks"]["store"]),
        (503, &json!("unavailable"))
    );
    assert!(!answer.text().contains("secret"));
    assert_eq!(answer.json()["checks"]["broker"], "ok");
    let metrics = api.get("/metrics").await;
    assert!(metrics.status == 200 && metrics.text().contains("taskforge_store_up 0"));
    *store.fault.lock().unwrap() = Fault::None;
    assert_eq!(api.get("/readyz").await.json()["status"], "ready");
    assert!(
        api.get("/metrics").await.text().contains("taskforge_store_up 0"),
        "counts are read every few seconds only"
    );
}

#[tokio::test]
async fn concurrent_requests_share_a_commit() {
    let (api, store) = faulty(Fault::None, 0).await;
    let requests = (0..50).map(|n| {
        let body = json!({"task_type": "fibonacci", "input": {"n": n}});
        let api = &api;
        async move { api.post("/tasks", &body).await.status }
    });
    let opening = async {
        // The first commit is under way and waits at the gate; the others gather behind it.
        while store.flushes.load(Ordering::SeqCst) == 0 {
            tokio::task::yield_now().await;
        }
        for _ in 0..50 {
            assert_eq!(api.get("/healthz").await.status, 200);
        }
        store.gate.add_permits(1);
    };
    let all = async { tokio::join!(join_all(requests), opening).0 };
    let statuses = tokio::time::timeout(PATIENCE, all).await.unwrap();
    assert_eq!(statuses, vec![201; 50]);
    let flushes = store.flushes.load(Ordering::SeqCst);
    assert!(flushes <= 5, "50 tasks took {flushes} commits");
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
        if done {
            std::task::Poll::Ready(())
        } else {
            std::task::Poll::Pending
        }
    })
    .await;
    futures.into_iter().filter_map(|(_, output)| output).collect()
}

/// A broker that is away.
struct Away(broadcast::Sender<Signal>);

fn away<T>() -> BrokerResult<T> {
    Err(BrokerError("secret: connection refused".into()))
}

#[async_trait]
impl Broker for Away {
    async fn push(&self, _: &[Hint]) -> BrokerResult<()> {
        away()
    }
    async fn pop(&self, _: Want<'_>) -> BrokerResult<Vec<Hint>> {
        away()
    }
    async fn depth(&self) -> BrokerResult<u64> {
        away()
    }
    async fn is_complete(&self) -> BrokerResult<bool> {
        away()
    }
    async fn mark_complete(&self) -> BrokerResult<()> {
        away()
    }
    async fn publish(&self, _: &[Signal]) -> BrokerResult<()> {
        away()
    }
    fn subscribe(&self) -> Signals {
        self.0.subscribe()
    }
}

#[tokio::test]
async fn a_broker_that_is_away_fails_no_request() {
    let broker: Arc<dyn Broker> = Arc::new(Away(broadcast::channel(1).0));
    let api = Setup {
        broker: Some(broker),
        ..Setup::default()
    }
    .start()
    .await;
    let id = api.fibonacci().await;
    for action in ["cancel", "retry", "cancel"] {
        assert_eq!(
            api.post_text(&format!("/tasks/{id}/{action}"), "").await.status,
            200
        );
    }
    assert_eq!(
        api.get(&format!("/tasks/{id}?wait=5s")).await.json()["status"],
        "cancelled"
    );
    let ready = api.get("/readyz").await;
    assert_eq!(
        (ready.status, &ready.json()["checks"]["broker"]),
        (503, &json!("unavailable"))
    );
    assert!(!ready.text().contains("secret"));
    assert!(
        api.get("/metrics")
            .await
            .text()
            .contains("taskforge_broker_errors_total{operation=\"publish\"}")
    );
    let known = TaskType::new("fibonacci").unwrap();
    assert!(
        api.store
            .counts()
            .await
            .unwrap()
            .by_type
            .iter()
            .any(|(name, _, count)| *name == known && *count == 1)
    );
}
