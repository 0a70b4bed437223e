//! How fast tasks live and die in the embedded store.
//!
//! `cargo bench -p taskforge-store` runs tasks through their whole life (enqueue, claim, complete
//! with an attempt's record), each step an fsynced commit, and prints tasks a second for each step
//! and for the whole. `TASKFORGE_BENCH_TASKS` says how many (default 50,000), `TASKFORGE_BENCH_DIR`
//! where the database goes (default: the system's temporary folder; a disk in memory makes fsync
//! free), `TASKFORGE_BENCH_LINGER_MICROS` how long an incomplete batch waits for company (default
//! 0). Then it lets `TASKFORGE_BENCH_BACKLOG` tasks wait (default 100,000) and prints what the
//! sweeper and a claim without hints cost beside them.
//!
//! It measures one run and no distribution: the numbers to compare are an order of magnitude above
//! its noise.
#![allow(clippy::print_stdout, clippy::unwrap_used, reason = "a program that prints its findings")]

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use taskforge_domain::{
    Attempt, ClaimedTask, Digest, Json, LaneLimits, NewTask, Next, Outcome, QueuePolicy, TaskId,
    TaskState, TaskType, TenantId, Timestamp, Usage, WorkerId,
};
use taskforge_store::{
    BatcherConfig, ClaimBy, ClaimRequest, Commit, Completion, Page, SqliteStore, Store,
    StoreResult, TaskFilter,
};

fn new_tasks(count: usize) -> Vec<NewTask> {
    let task_type = TaskType::new("fibonacci").unwrap();
    let input = |n: usize| Json::parse(format!("{{\"n\":{}}}", n % 90)).unwrap();
    (0..count)
        .map(|n| NewTask::new(TenantId::default(), task_type.clone(), input(n), Timestamp::now()))
        .collect()
}

fn completion(task: &ClaimedTask, worker: WorkerId) -> Completion {
    let attempt = Attempt {
        task: task.id,
        run_lease: task.run_lease,
        number: task.attempt,
        worker,
        plugin_version: "1.0.0".into(),
        plugin_digest: Digest::from_bytes([7; 32]),
        started_at: task.started_at,
        finished_at: Timestamp::now(),
        outcome: Outcome::Completed(Json::parse("{\"result\":6765}".into()).unwrap()),
        usage: Usage { fuel: 12_345, peak_memory: 1 << 20, wall_micros: 40, ..Usage::default() },
        logs: Vec::new(),
    };
    Completion { attempt, next: Next::Complete }
}

async fn claim(store: &SqliteStore, worker: WorkerId, ids: &[TaskId]) -> Vec<ClaimedTask> {
    store
        .claim(ClaimRequest { worker, by: ClaimBy::Ids(ids), now: Timestamp::now() })
        .await
        .unwrap()
        .tasks
}

async fn complete(store: &SqliteStore, worker: WorkerId, claimed: &[ClaimedTask]) {
    let completions: Vec<_> = claimed.iter().map(|task| completion(task, worker)).collect();
    let commits = store.complete(&completions).await.unwrap();
    assert!(commits.iter().all(|commit| *commit == Commit::Committed));
}

fn rate(count: usize, time: Duration) -> String {
    format!("{:>9.0}/s", count as f64 / time.as_secs_f64())
}

/// One caller, one step after the other.
async fn one_caller(store: &SqliteStore, tasks: &[NewTask], batch: usize) {
    let worker = WorkerId::generate();
    let (mut enqueue_time, mut claim_time, mut complete_time) =
        (Duration::ZERO, Duration::ZERO, Duration::ZERO);
    for tasks in tasks.chunks(batch) {
        let begin = Instant::now();
        store.enqueue(tasks).await.unwrap();
        enqueue_time += begin.elapsed();
    }
    for tasks in tasks.chunks(batch) {
        let ids: Vec<_> = tasks.iter().map(|task| task.id).collect();
        let begin = Instant::now();
        let claimed = claim(store, worker, &ids).await;
        claim_time += begin.elapsed();
        assert_eq!(claimed.len(), tasks.len());
        let begin = Instant::now();
        complete(store, worker, &claimed).await;
        complete_time += begin.elapsed();
    }
    println!(
        "one caller,  batches of {batch:>5}: enqueue {}  claim {}  complete {}  whole life {}",
        rate(tasks.len(), enqueue_time),
        rate(tasks.len(), claim_time),
        rate(tasks.len(), complete_time),
        rate(tasks.len(), enqueue_time + claim_time + complete_time),
    );
}

/// Many callers, each with few tasks: what the store's own batching makes of them.
async fn many_callers(store: &Arc<SqliteStore>, tasks: &[NewTask], callers: usize, batch: usize) {
    let begin = Instant::now();
    let share = tasks.len() / callers;
    let running: Vec<_> = (0..callers)
        .map(|n| {
            let (store, tasks) = (Arc::clone(store), tasks[n * share..(n + 1) * share].to_vec());
            tokio::spawn(async move {
                let worker = WorkerId::generate();
                for tasks in tasks.chunks(batch) {
                    store.enqueue(tasks).await.unwrap();
                    let ids: Vec<_> = tasks.iter().map(|task| task.id).collect();
                    let claimed = claim(&store, worker, &ids).await;
                    assert_eq!(claimed.len(), tasks.len());
                    complete(&store, worker, &claimed).await;
                }
            })
        })
        .collect();
    for caller in running {
        caller.await.unwrap();
    }
    println!(
        "{callers:>3} callers, batches of {batch:>5}: whole life {}",
        rate(share * callers, begin.elapsed())
    );
}

/// What a sweep and a claim by order cost while many tasks wait, in four types and two tenants.
async fn backlog(store: &SqliteStore, count: usize) {
    let types = ["a", "b", "c", "d"].map(|name| TaskType::new(name).unwrap());
    let tenants = ["one", "two"].map(|name| TenantId::new(name).unwrap());
    let mut tasks = new_tasks(count);
    for (n, task) in tasks.iter_mut().enumerate() {
        task.task_type = types[n % 4].clone();
        task.tenant = tenants[n / 4 % 2].clone();
        if n % 100 == 99 {
            task.run_at = Some(task.created_at + Duration::from_secs(3600));
        }
    }
    for tasks in tasks.chunks(5_000) {
        store.enqueue(tasks).await.unwrap();
    }
    let (worker, now) = (WorkerId::generate(), Timestamp::now());
    let term = store.lead(worker, now, Duration::from_secs(60)).await.unwrap();
    let term = term.unwrap();
    println!("with {count} tasks waiting:");
    let lanes = timed("the lanes", store.lanes(1_000)).await;
    timed("16,384 ids of a lane", store.pending(&lanes[0], None, 16_384)).await;
    timed("lapsed workers", store.lapsed(term, now, 1_000)).await;
    timed("due tasks: none", store.promote_due(term, now, 1_000)).await;
    let later = now + Duration::from_secs(7200);
    timed("due tasks: 1,000", store.promote_due(term, later, 1_000)).await;
    let old = Duration::from_secs(24 * 3600);
    timed("upkeep: none", store.upkeep(Some(term), now, old)).await;
    timed("upkeep: 1,000", store.upkeep(Some(term), later, Duration::ZERO)).await;
    timed("counts", store.counts()).await;
    for limit in [1, 64, 1024] {
        let policy = QueuePolicy::default();
        let by =
            ClaimBy::Order { types: &types, lanes: LaneLimits::none(), limit, policy: &policy };
        let what = format!("a claim of {limit} by order");
        let claimed = timed(&what, store.claim(ClaimRequest { worker, by, now })).await;
        assert_eq!(claimed.tasks.len(), limit as usize);
    }
    let waiting = TaskFilter { states: vec![TaskState::Pending], ..TaskFilter::default() };
    let page = Page { after: None, limit: 100 };
    timed("a page of 100 that wait", store.tasks(&tenants[0], &waiting, page)).await;
}

async fn timed<T>(what: &str, work: impl Future<Output = StoreResult<T>>) -> T {
    let begin = Instant::now();
    let done = work.await.unwrap();
    println!("{what:>26}: {:?}", begin.elapsed());
    done
}

async fn reads(store: &SqliteStore, tasks: usize) {
    let begin = Instant::now();
    store.counts().await.unwrap();
    println!("counts of {tasks} tasks: {:?}", begin.elapsed());
    let begin = Instant::now();
    let page = Page { after: None, limit: 100 };
    store.tasks(&TenantId::default(), &TaskFilter::default(), page).await.unwrap();
    println!("a page of 100: {:?}", begin.elapsed());
}

#[tokio::main]
async fn main() {
    let number = |name, default| {
        let number = std::env::var(name).ok();
        number.and_then(|number| number.parse().ok()).unwrap_or(default)
    };
    let count = number("TASKFORGE_BENCH_TASKS", 50_000);
    let folder = match std::env::var_os("TASKFORGE_BENCH_DIR") {
        Some(folder) => tempfile::tempdir_in(folder).unwrap(),
        None => tempfile::tempdir().unwrap(),
    };
    let linger = number("TASKFORGE_BENCH_LINGER_MICROS", 0);
    let batching =
        BatcherConfig { linger: Duration::from_micros(linger as u64), ..BatcherConfig::default() };
    let store =
        SqliteStore::open_with(&folder.path().join("taskforge.db"), batching).await.unwrap();
    let mut all = 0;
    for batch in [64, 256, 1024] {
        one_caller(&store, &new_tasks(count), batch).await;
        all += count;
    }
    for (callers, batch) in [(1, 1), (64, 1), (16, 16), (3, 64)] {
        let some = if callers == 1 { count / 50 } else { count };
        many_callers(&store, &new_tasks(some), callers, batch).await;
        all += some;
    }
    reads(&store, all).await;
    backlog(&store, number("TASKFORGE_BENCH_BACKLOG", 100_000)).await;
    store.close().await.unwrap();
}
