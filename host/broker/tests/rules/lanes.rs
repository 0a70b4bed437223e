//! Lanes that overflow, and their refill.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use taskforge_broker::{
    Broker, LocalBroker, QueuedTask, RedisBroker, ShortLane, Want, queue::AGEING_AFTER,
};
use taskforge_domain::{LaneLimits, QueuePolicy, TaskId};

use crate::{
    fixture::{Dyn, Fixture},
    hints::{LONG, hints, kinds, lane, pop, take},
    server::Server,
};

both_keep! {
    a_full_lane_keeps_its_first_hints_and_is_refilled_in_order(8);
    a_push_that_races_with_a_refill_is_not_lost(8);
    an_empty_lane_that_overflowed_sends_workers_to_the_store(4);
    in_a_storm_of_pushes_pops_and_refills_nothing_is_lost(16);
}

fn ids(hints: &[QueuedTask]) -> Vec<TaskId> {
    hints.iter().map(|hint| hint.id).collect()
}

/// The lane's tasks that follow, as the store would give them.
fn page(store: &[QueuedTask], lane: &ShortLane) -> (Vec<TaskId>, bool) {
    let rest: Vec<_> =
        ids(store).into_iter().filter(|id| lane.after.is_none_or(|after| *id > after)).collect();
    (rest[..rest.len().min(lane.room)].to_vec(), rest.len() <= lane.room)
}

fn local_incomplete() -> Fixture {
    Fixture { broker: Arc::new(LocalBroker::with(AGEING_AFTER, 8)), _server: None }
}

async fn redis_incomplete() -> Fixture {
    let server = Server::start();
    let mut config = server.config();
    config.lane_capacity = 8;
    let broker = Arc::new(RedisBroker::connect(&config).await.unwrap());
    broker.set_policy(&QueuePolicy::default()).await.unwrap();
    Fixture { broker, _server: Some(server) }
}

async fn a_full_lane_keeps_its_first_hints_and_is_refilled_in_order(broker: Dyn) {
    let mut all = hints("a", "t", 3, 30);
    // The fourth comes last, as a retry would.
    let retry = all.remove(3);
    broker.push(&all).await.unwrap();
    broker.push(std::slice::from_ref(&retry)).await.unwrap();
    all.insert(3, retry);
    assert_eq!(broker.depth().await.unwrap(), 8);
    assert_eq!(broker.short_lanes().await.unwrap(), [], "it is full");

    let (mut got, mut store) = (Vec::new(), all.clone());
    while got.len() < all.len() {
        let next = take(&*broker, &["t"], 5).await;
        store.retain(|hint| !next.contains(hint));
        got.extend(next);
        for short in broker.short_lanes().await.unwrap() {
            assert_eq!(short.lane, lane("a", "t", 3));
            let (tasks, is_all) = page(&store, &short);
            broker.refill(&short.lane, short.after, &tasks, is_all).await.unwrap();
        }
    }
    assert_eq!(got, all);
    assert_eq!(broker.short_lanes().await.unwrap(), []);
}

async fn a_push_that_races_with_a_refill_is_not_lost(broker: Dyn) {
    let mut store = hints("a", "t", 3, 12);
    // Created between the others, and committed late.
    let late = store.remove(9);
    broker.push(&store).await.unwrap();
    let taken = take(&*broker, &["t"], 8).await;
    store.retain(|hint| !taken.contains(hint));
    let short = broker.short_lanes().await.unwrap().remove(0);
    let (tasks, is_all) = page(&store, &short);
    assert!(is_all);
    broker.push(std::slice::from_ref(&late)).await.unwrap();
    broker.refill(&short.lane, short.after, &tasks, is_all).await.unwrap();

    store.push(late);
    store.sort_by_key(|hint| hint.id);
    let mut got = take(&*broker, &["t"], 8).await;
    let short = broker.short_lanes().await.unwrap().remove(0);
    assert!(short.after.is_none_or(|after| after < store[store.len() - 2].id));
    store.retain(|hint| !got.contains(hint));
    let (tasks, is_all) = page(&store, &short);
    broker.refill(&short.lane, short.after, &tasks, is_all).await.unwrap();
    got = take(&*broker, &["t"], 8).await;
    assert_eq!(got, store);
    assert_eq!(broker.short_lanes().await.unwrap(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refill_after_a_loss_puts_the_old_before_the_new() {
    for fixture in [local_incomplete(), redis_incomplete().await] {
        let broker = &*fixture.broker;
        let all = hints("a", "t", 3, 12);
        assert!(!broker.is_complete().await.unwrap());
        // Pushed since the loss.
        broker.push(&all[10..]).await.unwrap();
        let lane = lane("a", "t", 3);
        broker.refill(&lane, None, &ids(&all[..6]), false).await.unwrap();
        broker.mark_complete().await.unwrap();
        assert!(broker.is_complete().await.unwrap());
        let mut got = take(broker, &["t"], 8).await;
        assert_eq!(got, all[..6]);
        let short = broker.short_lanes().await.unwrap().remove(0);
        assert_eq!(short.after, Some(all[5].id));
        broker.refill(&lane, short.after, &ids(&all[6..]), true).await.unwrap();
        got.extend(take(broker, &["t"], 8).await);
        assert_eq!(got, all);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rebuild_finds_what_is_missing_among_what_was_known() {
    for fixture in [local_incomplete(), redis_incomplete().await] {
        let broker = &*fixture.broker;
        let all = hints("a", "t", 3, 12);
        broker.push(&all).await.unwrap();
        // The seventh is lost.
        let mut got = take(broker, &["t"], 8).await;
        got.remove(6);
        broker.push(&got).await.unwrap();

        let lane = lane("a", "t", 3);
        broker.refill(&lane, None, &ids(&all[..4]), false).await.unwrap();
        broker.mark_complete().await.unwrap();
        got = take(broker, &["t"], 8).await;
        assert_eq!(got, all[..4]);
        let short = broker.short_lanes().await.unwrap().remove(0);
        let (tasks, is_all) = page(&all[4..], &short);
        broker.refill(&lane, short.after, &tasks, is_all).await.unwrap();
        got.extend(take(broker, &["t"], 8).await);
        assert_eq!(got, all);
    }
}

async fn an_empty_lane_that_overflowed_sends_workers_to_the_store(broker: Dyn) {
    let all = hints("a", "t", 3, 6);
    broker.push(&all).await.unwrap();
    assert!(!pop(&*broker, &["t"], 2).await.look_in_store);
    assert!(pop(&*broker, &["t"], 2).await.look_in_store);
    assert!(!pop(&*broker, &["u"], 2).await.look_in_store);
    // An answer without hints comes, though not at once.
    let want = Want { types: &kinds(&["t"]), lanes: LaneLimits::none(), max: 2, wait: LONG };
    let popped =
        tokio::time::timeout(Duration::from_secs(20), broker.pop(want)).await.unwrap().unwrap();
    assert!(popped.hints.is_empty() && popped.look_in_store);
    let short = broker.short_lanes().await.unwrap().remove(0);
    broker.refill(&short.lane, short.after, &ids(&all[4..]), true).await.unwrap();
    let popped = pop(&*broker, &["t"], 9).await;
    assert_eq!((popped.hints.len(), popped.look_in_store), (2, false));
}

/// Producers push late and out of order, workers take, and a sweeper refills from what a store
/// would hold. Every hint that was dropped comes in later, so the store is empty in the end.
async fn in_a_storm_of_pushes_pops_and_refills_nothing_is_lost(broker: Dyn) {
    const TASKS: usize = 3_000;
    let store = Arc::new(std::sync::Mutex::new(BTreeSet::new()));
    let lane_of_all = lane("a", "t", 3);
    let done = Arc::new(AtomicBool::new(false));
    let producers: Vec<_> = (0..3)
        .map(|seed| {
            let (broker, store) = (broker.clone(), store.clone());
            tokio::spawn(async move {
                let mut random = fastrand::Rng::with_seed(seed);
                let mut made = 0;
                while made < TASKS / 3 {
                    let mut batch = hints("a", "t", 3, random.usize(1..12));
                    random.shuffle(&mut batch);
                    made += batch.len();
                    tokio::task::yield_now().await;
                    // Committed, and pushed some time later.
                    store.lock().unwrap().extend(ids(&batch));
                    tokio::task::yield_now().await;
                    broker.push(&batch).await.unwrap();
                }
            })
        })
        .collect();
    let sweeper = {
        let (broker, store, done) = (broker.clone(), store.clone(), done.clone());
        tokio::spawn(async move {
            while !done.load(Ordering::Acquire) {
                for short in broker.short_lanes().await.unwrap() {
                    let (tasks, is_all) = {
                        let pending = store.lock().unwrap();
                        let rest: Vec<_> = pending
                            .iter()
                            .copied()
                            .filter(|id| short.after.is_none_or(|after| *id > after))
                            .take(short.room + 1)
                            .collect();
                        (rest[..rest.len().min(short.room)].to_vec(), rest.len() <= short.room)
                    };
                    tokio::task::yield_now().await;
                    broker.refill(&lane_of_all, short.after, &tasks, is_all).await.unwrap();
                }
                tokio::task::yield_now().await;
            }
        })
    };
    let worker = {
        let (broker, store, done) = (broker.clone(), store.clone(), done.clone());
        tokio::spawn(async move {
            let mut random = fastrand::Rng::with_seed(9);
            while !done.load(Ordering::Acquire) {
                for hint in take(&*broker, &["t"], random.usize(1..8)).await {
                    // A claim: once, whatever the hints say.
                    store.lock().unwrap().remove(&hint.id);
                }
                tokio::task::yield_now().await;
            }
        })
    };
    for producer in producers {
        producer.await.unwrap();
    }
    let begin = std::time::Instant::now();
    while !store.lock().unwrap().is_empty() {
        assert!(
            begin.elapsed() < Duration::from_secs(60),
            "{} are lost",
            store.lock().unwrap().len()
        );
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    done.store(true, Ordering::Release);
    sweeper.await.unwrap();
    worker.await.unwrap();
}
