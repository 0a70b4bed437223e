use std::collections::HashSet;

use taskforge_domain::{LaneLimits, Priority, TenantId};
use tokio::task::JoinHandle;

use super::*;

const LONG: Duration = Duration::from_secs(600);

fn kind(name: &str) -> TaskType {
    TaskType::new(name).unwrap()
}

fn hint(task_type: &str) -> QueuedTask {
    QueuedTask {
        id: TaskId::generate(),
        lane: Lane {
            tenant: TenantId::default(),
            task_type: kind(task_type),
            priority: Priority::default(),
        },
    }
}

fn pop(
    broker: &Arc<LocalBroker>,
    types: &[&str],
    max: usize,
    wait: Duration,
) -> JoinHandle<Vec<QueuedTask>> {
    let (broker, types) =
        (Arc::clone(broker), types.iter().map(|name| kind(name)).collect::<Vec<_>>());
    tokio::spawn(async move {
        let want = Want { types: &types, lanes: LaneLimits::none(), max, wait };
        hints(broker.pop(want).await.unwrap())
    })
}

fn hints(popped: Popped) -> Vec<QueuedTask> {
    popped.hints
}

/// A broker that knows all, so that a wait is for hints only.
async fn complete() -> Arc<LocalBroker> {
    let broker = Arc::new(LocalBroker::new());
    broker.mark_complete().await.unwrap();
    broker
}

/// What a worker got. A lost wake-up would make it wait for ever.
async fn soon(worker: JoinHandle<Vec<QueuedTask>>) -> Vec<QueuedTask> {
    tokio::time::timeout(Duration::from_secs(20), worker)
        .await
        .expect("the worker still waits")
        .unwrap()
}

async fn until_waiting(broker: &LocalBroker, waiters: usize) {
    while broker.state().waiters.len() != waiters {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn an_empty_broker_answers_when_the_wait_is_over() {
    let broker = complete().await;
    let wait = Duration::from_millis(30);
    let begin = std::time::Instant::now();
    assert_eq!(soon(pop(&broker, &["t"], 1, wait)).await, []);
    assert!(begin.elapsed() >= wait);
    assert_eq!(soon(pop(&broker, &["t"], 1, Duration::ZERO)).await, []);
    assert!(broker.state().waiters.is_empty());
}

#[tokio::test]
async fn a_waiting_worker_gets_what_is_pushed() {
    let broker = complete().await;
    let worker = pop(&broker, &["t"], 8, LONG);
    until_waiting(&broker, 1).await;
    let hints = [hint("t"), hint("t")];
    broker.push(&hints).await.unwrap();
    assert_eq!(soon(worker).await, hints);
    assert_eq!(broker.depth().await.unwrap(), 0);
}

#[tokio::test]
async fn a_push_wakes_the_worker_that_serves_its_type() {
    let broker = complete().await;
    let (x, y) = (pop(&broker, &["x"], 1, LONG), pop(&broker, &["y"], 1, LONG));
    until_waiting(&broker, 2).await;
    let hint = hint("y");
    broker.push(std::slice::from_ref(&hint)).await.unwrap();
    assert_eq!(soon(y).await, [hint]);
    assert!(!x.is_finished());
    x.abort();
}

#[tokio::test]
async fn hints_beyond_one_workers_wish_wake_the_next() {
    let broker = complete().await;
    let workers: Vec<_> = (0..3).map(|_| pop(&broker, &["t"], 2, LONG)).collect();
    until_waiting(&broker, 3).await;
    broker.push(&[hint("t"), hint("t"), hint("t"), hint("t"), hint("t")]).await.unwrap();
    let mut taken = HashSet::new();
    for worker in workers {
        taken.extend(soon(worker).await.into_iter().map(|hint| hint.id));
    }
    assert_eq!(taken.len(), 5);
}

#[tokio::test]
async fn a_worker_that_gives_up_when_woken_passes_the_wake_up_on() {
    let broker = complete().await;
    let first = pop(&broker, &["t"], 1, LONG);
    until_waiting(&broker, 1).await;
    let second = pop(&broker, &["t"], 1, LONG);
    until_waiting(&broker, 2).await;
    let hint = hint("t");
    // On the test's one thread the first worker is woken here and aborted before it runs.
    broker.push(std::slice::from_ref(&hint)).await.unwrap();
    assert!(broker.state().waiters[0].woken && !broker.state().waiters[1].woken);
    first.abort();
    assert_eq!(soon(second).await, [hint]);
    assert!(first.await.unwrap_err().is_cancelled());
}

#[tokio::test]
async fn a_dropped_pop_takes_nothing_and_leaves_no_trace() {
    let broker = complete().await;
    let worker = pop(&broker, &["t"], 1, LONG);
    until_waiting(&broker, 1).await;
    worker.abort();
    assert!(worker.await.unwrap_err().is_cancelled());
    assert!(broker.state().waiters.is_empty());
    broker.push(&[hint("t")]).await.unwrap();
    assert_eq!(broker.depth().await.unwrap(), 1);
}

#[tokio::test]
async fn a_start_is_a_loss_until_somebody_says_that_all_is_pushed() {
    let broker = LocalBroker::new();
    assert!(!broker.is_complete().await.unwrap());
    broker.mark_complete().await.unwrap();
    assert!(broker.is_complete().await.unwrap());
}

#[tokio::test]
async fn signals_reach_every_subscriber_and_need_none() {
    let broker = LocalBroker::new();
    let id = TaskId::generate();
    broker.publish(&[Signal::Finished(id)]).await.unwrap();
    let (mut one, mut two) = (broker.subscribe(), broker.subscribe());
    broker.publish(&[Signal::Cancel(id), Signal::Finished(id)]).await.unwrap();
    for subscriber in [&mut one, &mut two] {
        assert_eq!(subscriber.recv().await.unwrap(), Signal::Cancel(id));
        assert_eq!(subscriber.recv().await.unwrap(), Signal::Finished(id));
    }
}

/// Workers of different types wait, take, give up and come back while hints are pushed one by one.
/// A lost wake-up would leave a hint and a worker waiting for each other, which the deadline turns
/// into a failure.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn in_a_storm_every_hint_is_taken_once() {
    let broker = complete().await;
    let (taken, mut inbox) = tokio::sync::mpsc::unbounded_channel();
    let workers: Vec<_> = (0..12_usize)
        .map(|n| {
            let (broker, taken) = (Arc::clone(&broker), taken.clone());
            tokio::spawn(async move {
                let mut random = fastrand::Rng::with_seed(n as u64);
                let types =
                    [vec![kind("x")], vec![kind("y")], vec![kind("x"), kind("y")]][n % 3].clone();
                loop {
                    let want = Want {
                        types: &types,
                        lanes: LaneLimits::none(),
                        max: 1 + n % 4,
                        wait: LONG,
                    };
                    // Some calls are dropped while they wait.
                    let limit =
                        if n % 2 == 0 { LONG } else { Duration::from_micros(random.u64(0..300)) };
                    if let Ok(popped) = tokio::time::timeout(limit, broker.pop(want)).await {
                        hints(popped.unwrap())
                            .into_iter()
                            .for_each(|hint| taken.send(hint.id).unwrap());
                    }
                }
            })
        })
        .collect();
    let mut pushed = HashSet::new();
    for n in 0..20_000 {
        let hint = hint(if n % 3 == 0 { "x" } else { "y" });
        pushed.insert(hint.id);
        broker.push(&[hint]).await.unwrap();
        if n % 7 == 0 {
            tokio::task::yield_now().await;
        }
    }
    while !pushed.is_empty() {
        let id = tokio::time::timeout(Duration::from_secs(20), inbox.recv())
            .await
            .expect("a hint is stuck")
            .unwrap();
        assert!(pushed.remove(&id), "{id} was taken twice");
    }
    workers.iter().for_each(JoinHandle::abort);
}
