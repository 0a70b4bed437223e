//! A waiting pop is woken, a dropped pop takes nothing, and signals arrive.

use std::{collections::HashSet, time::Duration};

use taskforge_broker::{Signal, Want};
use taskforge_domain::{LaneLimits, QueuePolicy, TaskId};

use crate::{
    fixture::{Dyn, soon, waiting},
    hints::{LONG, hints, kinds, take},
};

both_keep! {
    a_waiting_worker_gets_what_is_pushed(100);
    a_dropped_pop_takes_nothing(100);
    what_is_dropped_loses_no_hint_and_disturbs_nobody(10_000);
    signals_reach_every_subscriber(100);
}

async fn a_waiting_worker_gets_what_is_pushed(broker: Dyn) {
    let (x, y) = (waiting(&broker, &["x"], 8), waiting(&broker, &["y", "z"], 8));
    let pushed = hints("a", "y", 3, 2);
    broker.push(&pushed).await.unwrap();
    assert_eq!(soon(y).await, pushed);
    assert!(!x.is_finished());
    let pushed = hints("a", "x", 3, 1);
    broker.push(&pushed).await.unwrap();
    assert_eq!(soon(x).await, pushed);
}

async fn a_dropped_pop_takes_nothing(broker: Dyn) {
    let pushed = hints("a", "t", 3, 64);
    broker.push(&pushed).await.unwrap();
    for n in 0..200 {
        let want = Want { types: &kinds(&["t"]), lanes: LaneLimits::none(), max: 64, wait: LONG };
        let limit = Duration::from_micros(n * 5);
        if let Ok(popped) = tokio::time::timeout(limit, broker.pop(want)).await {
            let popped = popped.unwrap();
            broker.push(&popped.hints).await.unwrap();
        }
    }
    let begin = std::time::Instant::now();
    let mut got = Vec::new();
    while got.len() < 64 {
        assert!(begin.elapsed() < Duration::from_secs(20), "{} are lost", 64 - got.len());
        got.extend(take(&*broker, &["t"], 64).await);
        tokio::task::yield_now().await;
    }
    got.sort_by_key(|hint| hint.id);
    assert_eq!(got, pushed);
}

/// Every operation, by many callers at once, dropped at any moment.
async fn what_is_dropped_loses_no_hint_and_disturbs_nobody(broker: Dyn) {
    let types = kinds(&["t"]);
    let caller = |number: u64| {
        let (broker, types) = (&broker, &types);
        async move {
            let (mut pushed, mut got) = (Vec::<TaskId>::new(), Vec::<TaskId>::new());
            for round in 0..60_u64 {
                let limit = Duration::from_micros((number * 131 + round * 71) % 1_500);
                // What ended before its time was up must have succeeded.
                macro_rules! drops {
                    ($operation:expr) => {
                        tokio::time::timeout(limit, $operation).await.ok().map(Result::unwrap)
                    };
                }
                let hint = hints("a", "t", 3, 1);
                if drops!(broker.push(&hint)).is_some() {
                    pushed.push(hint[0].id);
                }
                let want = Want { types, lanes: LaneLimits::none(), max: 2, wait: Duration::ZERO };
                if let Some(popped) = drops!(broker.pop(want)) {
                    got.extend(popped.hints.into_iter().map(|hint| hint.id));
                }
                drops!(broker.publish(&[Signal::Policy]));
                drops!(broker.depth());
                drops!(broker.short_lanes());
                drops!(broker.set_policy(&QueuePolicy::default()));
            }
            (pushed, got)
        }
    };
    let callers = futures_util::future::join_all((0..12).map(caller)).await;
    let (pushed, got): (Vec<Vec<TaskId>>, Vec<Vec<TaskId>>) = callers.into_iter().unzip();
    let mut got: HashSet<TaskId> = got.into_iter().flatten().collect();
    let begin = std::time::Instant::now();
    let is_missing = |got: &HashSet<TaskId>| pushed.iter().flatten().any(|id| !got.contains(id));
    assert!(pushed.iter().any(|pushed| !pushed.is_empty()), "every push was dropped");
    while is_missing(&got) {
        assert!(begin.elapsed() < Duration::from_secs(20), "hints are lost");
        got.extend(take(&*broker, &["t"], 64).await.into_iter().map(|hint| hint.id));
        tokio::task::yield_now().await;
    }
}

async fn signals_reach_every_subscriber(broker: Dyn) {
    let (mut one, mut two) = (broker.subscribe(), broker.subscribe());
    let sent: Vec<_> = (0..500).map(|_| Signal::Finished(TaskId::generate())).collect();
    let singles = sent.iter().map(|signal| broker.publish(std::slice::from_ref(signal)));
    futures_util::future::try_join_all(singles).await.unwrap();
    let last = [Signal::Cancel(TaskId::generate()), Signal::Policy];
    broker.publish(&last).await.unwrap();
    for subscriber in [&mut one, &mut two] {
        let mut got = Vec::new();
        for _ in 0..sent.len() + last.len() {
            let next = tokio::time::timeout(Duration::from_secs(20), subscriber.recv()).await;
            got.push(next.expect("a signal is missing").unwrap());
        }
        assert_eq!(got.split_off(sent.len()), last);
        assert!(sent.iter().all(|signal| got.contains(signal)));
    }
}
