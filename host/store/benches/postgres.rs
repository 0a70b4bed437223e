//! How fast tasks live and die in the fleet's store, beside what the database could do without us.
//!
//! `TASKFORGE_BENCH_POSTGRES=postgres://… cargo bench -p taskforge-store --bench postgres` migrates
//! the database that the URL names, runs tasks through their whole life (enqueue, claim, complete
//! with an attempt's record) and prints tasks a second. `TASKFORGE_BENCH_TASKS` says how many
//! (default 50,000). With `TASKFORGE_BENCH_BACKLOG` (a number of tasks) it leaves so many pending
//! at the end and measures what a sweeper's tick costs with them.
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
    TaskType, TenantId, Timestamp, Usage, WorkerId,
};
use taskforge_store::{
    ClaimBy, ClaimRequest, Commit, Completion, Page, PostgresConfig, PostgresStore, Store,
    TaskFilter, WorkerRecord,
    postgres::{ceiling, migrate},
};

fn number(variable: &str, default: usize) -> usize {
    std::env::var(variable).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}

fn kind() -> TaskType {
    TaskType::new("fibonacci").unwrap()
}

fn new_tasks(count: usize) -> Vec<NewTask> {
    let input = |n: usize| Json::parse(format!("{{\"n\":{}}}", n % 90)).unwrap();
    (0..count)
        .map(|n| NewTask::new(TenantId::default(), kind(), input(n), Timestamp::now()))
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

async fn claim(store: &PostgresStore, worker: WorkerId, by: ClaimBy<'_>) -> Vec<ClaimedTask> {
    let now = Timestamp::now();
    let claimed = store.claim(ClaimRequest { worker, by, now }).await;
    claimed.unwrap().tasks
}

async fn complete(store: &PostgresStore, worker: WorkerId, claimed: &[ClaimedTask]) {
    let completions: Vec<_> = claimed.iter().map(|task| completion(task, worker)).collect();
    let commits = store.complete(&completions).await.unwrap();
    assert!(commits.iter().all(|commit| *commit == Commit::Committed));
}

/// A worker that lives for as long as this may take.
async fn worker(store: &PostgresStore) -> WorkerId {
    let now = Timestamp::now();
    let worker = WorkerRecord {
        id: WorkerId::generate(),
        host: "bench".into(),
        pid: std::process::id(),
        started_at: now,
        lease: Duration::from_secs(3600),
    };
    store.register_worker(&worker, now).await.unwrap();
    worker.id
}

fn rate(count: usize, time: Duration) -> String {
    format!("{:>7.0}/s", count as f64 / time.as_secs_f64())
}

/// One caller, one step after the other: to compare with the ceiling of one connection.
async fn one_caller(store: &PostgresStore, tasks: &[NewTask], batch: usize) {
    let worker = worker(store).await;
    let mut claimed = Vec::with_capacity(tasks.len());
    let begin = Instant::now();
    for tasks in tasks.chunks(batch) {
        store.enqueue(tasks).await.unwrap();
    }
    let enqueued = begin.elapsed();
    for tasks in tasks.chunks(batch) {
        let ids: Vec<_> = tasks.iter().map(|task| task.id).collect();
        claimed.extend(claim(store, worker, ClaimBy::Ids(&ids)).await);
    }
    let taken = begin.elapsed() - enqueued;
    assert_eq!(claimed.len(), tasks.len());
    for claimed in claimed.chunks(batch) {
        complete(store, worker, claimed).await;
    }
    let ended = begin.elapsed() - enqueued - taken;
    println!(
        "store,   one caller,    batches of {batch:>4}: enqueue {}  claim {}  complete {}  claim+complete {}",
        rate(tasks.len(), enqueued),
        rate(tasks.len(), taken),
        rate(tasks.len(), ended),
        rate(tasks.len(), taken + ended),
    );
}

async fn bare(url: &str, tasks: usize, batch: usize, connections: usize) {
    let found = ceiling::measure(url, tasks, batch, connections).await.unwrap();
    println!(
        "ceiling, {connections} connection(s), batches of {batch:>4}: enqueue {:>7.0}/s  claim {:>7.0}/s  complete {:>7.0}/s  \
         claim+complete {:>7.0}/s",
        found.enqueue_per_second,
        found.claim_per_second,
        found.complete_per_second,
        found.claim_complete_per_second,
    );
}

/// Many callers, each with few tasks: what the store's own batching makes of them.
async fn many_callers(store: &Arc<PostgresStore>, tasks: &[NewTask], callers: usize, batch: usize) {
    let begin = Instant::now();
    let share = tasks.len() / callers;
    let running: Vec<_> = (0..callers)
        .map(|n| {
            let (store, tasks) = (Arc::clone(store), tasks[n * share..(n + 1) * share].to_vec());
            tokio::spawn(async move {
                let worker = worker(&store).await;
                for tasks in tasks.chunks(batch) {
                    store.enqueue(tasks).await.unwrap();
                    let ids: Vec<_> = tasks.iter().map(|task| task.id).collect();
                    let claimed = claim(&store, worker, ClaimBy::Ids(&ids)).await;
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
        "store,   {callers:>3} callers,   batches of {batch:>4}: whole life {}",
        rate(share * callers, begin.elapsed())
    );
}

/// The drain without a broker.
async fn in_order(store: &PostgresStore, tasks: &[NewTask], batch: u32) {
    for tasks in tasks.chunks(1024) {
        store.enqueue(tasks).await.unwrap();
    }
    let (worker, types, policy) = (worker(store).await, [kind()], QueuePolicy::default());
    let begin = Instant::now();
    let mut drained = 0;
    loop {
        let by = ClaimBy::Order {
            types: &types,
            lanes: LaneLimits::none(),
            limit: batch,
            policy: &policy,
        };
        let claimed = claim(store, worker, by).await;
        if claimed.is_empty() {
            break;
        }
        complete(store, worker, &claimed).await;
        drained += claimed.len();
    }
    println!(
        "store,   in order,      batches of {batch:>4}: claim+complete {}",
        rate(drained, begin.elapsed())
    );
}

async fn timed<T>(what: &str, work: impl Future<Output = T>) -> T {
    let begin = Instant::now();
    let answer = work.await;
    println!("  {what}: {:.1} ms", begin.elapsed().as_secs_f64() * 1e3);
    answer
}

/// What a sweeper asks of the database in a tick.
async fn backlog(store: &PostgresStore, count: usize) {
    println!("with {count} pending tasks");
    for _ in 0..count.div_ceil(10_000) {
        store.enqueue(&new_tasks(10_000.min(count))).await.unwrap();
    }
    let now = Timestamp::now();
    let term =
        store.lead(WorkerId::generate(), now, Duration::from_secs(600)).await.unwrap().unwrap();
    let types = [kind()];
    for _ in 0..3 {
        let begin = Instant::now();
        timed("promote_due", store.promote_due(term, now, 1000)).await.unwrap();
        timed("lapsed", store.lapsed(term, now, 1000)).await.unwrap();
        let lanes = timed("lanes", store.lanes(1000)).await.unwrap();
        timed("a page of 1,000 of a lane", store.pending(&lanes[0], None, 1000)).await.unwrap();
        println!("  a tick: {:.1} ms", begin.elapsed().as_secs_f64() * 1e3);
    }
    timed("a page of 16,384 of a lane", async {
        let lanes = store.lanes(1000).await.unwrap();
        store.pending(&lanes[0], Some(TaskId::generate()), 1).await.unwrap();
        store.pending(&lanes[0], None, 16_384).await.unwrap()
    })
    .await;
    let by = ClaimBy::Order {
        types: &types,
        lanes: LaneLimits::none(),
        limit: 64,
        policy: &QueuePolicy::default(),
    };
    timed("a claim of 64 in order", claim(store, WorkerId::generate(), by)).await;
    timed("counts", store.counts()).await.unwrap();
    let page = Page { after: None, limit: 100 };
    let filter = TaskFilter::default();
    timed("a page of a list", store.tasks(&TenantId::default(), &filter, page)).await.unwrap();
    store.resign(term).await.unwrap();
}

#[tokio::main]
async fn main() {
    let Ok(url) = std::env::var("TASKFORGE_BENCH_POSTGRES") else {
        println!("TASKFORGE_BENCH_POSTGRES names no database: nothing is measured");
        return;
    };
    migrate(&PostgresConfig::new(&url)).await.unwrap();
    let count = number("TASKFORGE_BENCH_TASKS", 50_000);
    let store = PostgresStore::connect(&PostgresConfig::new(&url)).await.unwrap();
    for batch in [64, 256, 1024] {
        bare(&url, count, batch, 1).await;
        one_caller(&store, &new_tasks(count), batch).await;
        bare(&url, count, batch, 2).await;
    }
    for (callers, batch) in [(1, 1), (64, 1), (16, 16), (3, 64)] {
        let some = if callers == 1 { count / 50 } else { count };
        many_callers(&store, &new_tasks(some), callers, batch).await;
    }
    for batch in [64, 256] {
        in_order(&store, &new_tasks(count), batch).await;
    }
    match number("TASKFORGE_BENCH_BACKLOG", 0) {
        0 => {}
        tasks => backlog(&store, tasks).await,
    }
    store.close().await;
}
