//! What the Redis broker costs: `cargo test -p taskforge-broker --test measure -- --ignored
//! --nocapture`.
//!
//! Prints and judges nothing: the figures are those of the machine that it runs on.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, reason = "a measurement")]

#[path = "support/hints.rs"]
#[allow(dead_code, reason = "other tests use the rest")]
mod hints;
#[path = "support/server.rs"]
#[allow(dead_code, reason = "other tests use the rest")]
mod server;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use hints::{LONG, hint, kind, kinds, pop};
use server::Server;
use taskforge_broker::{Broker, LocalBroker, QueuedTask, RedisBroker, Signal, Want};
use taskforge_domain::{Lane, LaneLimits, QueuePolicy, TaskId, TaskType};

const BATCH: usize = 256;

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement"]
async fn throughput_latency_and_idle_cost() {
    let server = Server::start();
    let redis = Arc::new(RedisBroker::connect(&server.config()).await.unwrap());
    redis.set_policy(&QueuePolicy::default()).await.unwrap();
    redis.mark_complete().await.unwrap();
    let local = LocalBroker::new();
    local.mark_complete().await.unwrap();
    for tenants in [1, 100] {
        for types in [1, 5] {
            throughput("local", &local, tenants, types).await;
            throughput("redis", &*redis, tenants, types).await;
        }
    }
    refill(&*redis).await;
    wake_up(&redis).await;
    signals(&redis).await;
    idle(&redis).await;
}

/// 51,200 hints in, and out again.
async fn throughput(name: &str, broker: &dyn Broker, tenants: usize, types: usize) {
    let kinds: Vec<_> = (0..types).map(|n| format!("type{n}")).collect();
    let names: Vec<_> = kinds.iter().map(String::as_str).collect();
    let batches: Vec<Vec<QueuedTask>> = (0..200)
        .map(|batch| {
            (0..BATCH)
                .map(|n| {
                    let n = batch * BATCH + n;
                    hint(&format!("tenant{}", n % tenants), &kinds[n / tenants % types], 3)
                })
                .collect()
        })
        .collect();
    let (mut pushing, mut popping, mut count) = (Duration::ZERO, Duration::ZERO, 0);
    // As many as fit into a lane at a time.
    for portion in batches.chunks(50) {
        let begin = Instant::now();
        for batch in portion {
            broker.push(batch).await.unwrap();
        }
        pushing += begin.elapsed();
        let begin = Instant::now();
        loop {
            let popped = pop(broker, &names, BATCH).await;
            if popped.hints.is_empty() {
                break;
            }
            count += popped.hints.len();
        }
        popping += begin.elapsed();
    }
    assert_eq!(count, 200 * BATCH);
    let rate = |time: Duration| count as f64 / time.as_secs_f64();
    println!(
        "{name}: {tenants} tenants, {types} types, batches of {BATCH}: {:.0} pushes/s, {:.0} pops/s",
        rate(pushing),
        rate(popping)
    );
}

async fn refill(broker: &dyn Broker) {
    let ids: Vec<_> = (0..16_384).map(|_| TaskId::generate()).collect();
    let lane = Lane { ..hint("a", "refilled", 3).lane };
    let begin = Instant::now();
    broker.refill(&lane, None, &ids, true).await.unwrap();
    println!("redis: a lane of 16,384 refilled in {:?}", begin.elapsed());
    while !pop(broker, &["refilled"], 4096).await.hints.is_empty() {}
}

async fn wake_up(broker: &Arc<RedisBroker>) {
    let mut times = Vec::new();
    for _ in 0..500 {
        let worker = {
            let broker = broker.clone();
            tokio::spawn(async move {
                let want = Want {
                    types: &kinds(&["woken"]),
                    lanes: LaneLimits::none(),
                    max: 8,
                    wait: LONG,
                };
                broker.pop(want).await.unwrap();
                Instant::now()
            })
        };
        tokio::time::sleep(Duration::from_millis(3)).await;
        let begin = Instant::now();
        broker.push(&[hint("a", "woken", 3)]).await.unwrap();
        times.push(worker.await.unwrap() - begin);
    }
    times.sort();
    println!("redis: push to waiting pop p50 {:?}, p99 {:?}", times[250], times[495]);
}

async fn signals(broker: &Arc<RedisBroker>) {
    let mut heard = broker.subscribe();
    let begin = Instant::now();
    let senders: Vec<_> = (0..64)
        .map(|_| {
            let broker = broker.clone();
            tokio::spawn(async move {
                for _ in 0..200 {
                    broker.publish(&[Signal::Finished(TaskId::generate())]).await.unwrap();
                }
            })
        })
        .collect();
    for sender in senders {
        sender.await.unwrap();
    }
    println!(
        "redis: {:.0} publishes of one signal a second, 64 at once",
        12_800.0 / begin.elapsed().as_secs_f64()
    );
    for _ in 0..12_800 {
        heard.recv().await.unwrap();
    }
}

/// One worker that serves 200 types waits.
async fn idle(broker: &Arc<RedisBroker>) {
    let types: Vec<TaskType> = (0..200).map(|n| kind(&format!("type{n}"))).collect();
    let used = || {
        let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
        let fields: Vec<_> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
        // Fields 14 and 15 of the whole: user and system time, in hundredths of a second.
        fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
    };
    let before = used();
    let want =
        Want { types: &types, lanes: LaneLimits::none(), max: 8, wait: Duration::from_secs(10) };
    broker.pop(want).await.unwrap();
    println!("redis: idle for 10 s: {:.1} % of a core", (used() - before) as f64 / 10.0);
}
