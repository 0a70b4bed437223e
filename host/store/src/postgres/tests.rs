mod database;
mod drops;
mod fleet;
mod loss;
mod notices;
mod partitions;
mod plans;
mod pooler;
mod refused;
mod schema;

use std::{sync::Arc, time::Duration};

use taskforge_domain::{
    Attempt, ClaimedTask, Digest, Json, LaneLimits, NewTask, Next, Outcome, QueuePolicy, TaskId,
    TaskType, TenantId, Timestamp, Usage, WorkerId,
};

use self::database::TestDatabase;
use crate::{ClaimBy, ClaimRequest, Completion, PostgresStore, Store, conformance::Fixture};

async fn open() -> Fixture {
    let database = TestDatabase::new().await;
    let store = database.store().await;
    Fixture { plugins: store.clone(), store, keep: Box::new(database) }
}

mod rules {
    crate::conformance_suite!(crate::postgres::tests::open);
}

fn kind() -> TaskType {
    TaskType::new("work").unwrap()
}

fn new_task() -> NewTask {
    let input = Json::from(serde_json::json!({"n": 1}));
    NewTask::new(TenantId::default(), kind(), input, Timestamp::now())
}

fn new_tasks(count: usize) -> Vec<NewTask> {
    (0..count).map(|_| new_task()).collect()
}

fn ids(tasks: &[NewTask]) -> Vec<TaskId> {
    tasks.iter().map(|task| task.id).collect()
}

async fn claim(store: &PostgresStore, worker: WorkerId, by: ClaimBy<'_>) -> Vec<ClaimedTask> {
    let now = Timestamp::now();
    let claimed = store.claim(ClaimRequest { worker, by, now }).await;
    claimed.unwrap().tasks
}

async fn claim_order(
    store: &PostgresStore,
    worker: WorkerId,
    limit: u32,
    policy: &QueuePolicy,
) -> Vec<ClaimedTask> {
    let types = [kind()];
    let by = ClaimBy::Order { types: &types, lanes: LaneLimits::none(), limit, policy };
    claim(store, worker, by).await
}

fn completion(task: &ClaimedTask, worker: WorkerId) -> Completion {
    let attempt = Attempt {
        task: task.id,
        run_lease: task.run_lease,
        number: task.attempt,
        worker,
        plugin_version: "1.0.0".into(),
        plugin_digest: Digest::from_bytes([1; 32]),
        started_at: task.started_at,
        finished_at: Timestamp::now(),
        outcome: Outcome::Completed(task.input.clone()),
        usage: Usage::default(),
        logs: Vec::new(),
    };
    Completion { attempt, next: Next::Complete }
}

fn completions(tasks: &[ClaimedTask], worker: WorkerId) -> Vec<Completion> {
    tasks.iter().map(|task| completion(task, worker)).collect()
}

/// Waits for what must come, however slow the machine.
async fn eventually<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(60), what).await.expect("it must come to pass")
}
