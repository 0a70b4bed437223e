//! The order of hints.

use taskforge_broker::queue::AGED_SHARE;

use crate::{
    fixture::Dyn,
    hints::{hint, hints, overdue, take},
};

both_keep! {
    the_most_urgent_goes_first_and_the_oldest_of_those(100);
    the_order_is_that_of_creation_not_of_arrival(100);
    a_hint_is_queued_once_until_it_is_taken(100);
    only_types_that_are_asked_for_are_taken(100);
    an_overdue_hint_goes_within_its_bound(100);
}

async fn the_most_urgent_goes_first_and_the_oldest_of_those(broker: Dyn) {
    let pushed: Vec<_> = [3, 1, 5, 3, 5, 2, 4].map(|priority| hint("a", "t", priority)).into();
    broker.push(&pushed).await.unwrap();
    let expected = [2, 4, 6, 0, 3, 5, 1].map(|n: usize| pushed[n].clone());
    assert_eq!(take(&*broker, &["t"], 100).await, expected);
    assert_eq!(broker.depth().await.unwrap(), 0);
}

async fn the_order_is_that_of_creation_not_of_arrival(broker: Dyn) {
    let created: Vec<_> = ["x", "y", "x", "y", "y", "x"].map(|name| hint("a", name, 3)).into();
    for n in [3, 0, 5, 1, 4, 2] {
        broker.push(&created[n..=n]).await.unwrap();
    }
    assert_eq!(take(&*broker, &["x", "y"], 100).await, created);
}

async fn a_hint_is_queued_once_until_it_is_taken(broker: Dyn) {
    let one = [hint("a", "t", 3)];
    broker.push(&one).await.unwrap();
    broker.push(&one).await.unwrap();
    assert_eq!(take(&*broker, &["t"], 10).await, one);
    broker.push(&one).await.unwrap();
    assert_eq!(take(&*broker, &["t"], 10).await, one);
}

async fn only_types_that_are_asked_for_are_taken(broker: Dyn) {
    let pushed = [hint("a", "x", 1), hint("a", "y", 5), hint("a", "z", 3), hint("a", "x", 3)];
    broker.push(&pushed).await.unwrap();
    assert_eq!(take(&*broker, &["none"], 10).await, []);
    assert_eq!(take(&*broker, &[], 10).await, []);
    let expected = [pushed[2].clone(), pushed[3].clone(), pushed[0].clone()];
    assert_eq!(take(&*broker, &["x", "z"], 10).await, expected);
    assert_eq!(broker.depth().await.unwrap(), 1);
}

async fn an_overdue_hint_goes_within_its_bound(broker: Dyn) {
    let old: Vec<_> = (0..3).map(|_| overdue(hint("a", "t", 1))).collect();
    broker.push(&old).await.unwrap();
    let mut got = Vec::new();
    for n in 0..AGED_SHARE * 3 {
        broker.push(&hints("a", "t", 5, 2)).await.unwrap();
        got.extend(take(&*broker, &["t"], 1).await);
        let passed = got.iter().filter(|hint| hint.lane.priority.get() == 1).count();
        assert_eq!(passed, ((n + 1) / AGED_SHARE) as usize, "after {} pops", n + 1);
    }
    assert_eq!(take(&*broker, &["t"], 100).await.len(), 12 + 3);
}
