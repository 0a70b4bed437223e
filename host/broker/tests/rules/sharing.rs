//! Weights, pauses, and lanes that are put aside because a cap is reached.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use taskforge_broker::{
    Want,
    queue::{ASIDE, ASIDE_STEP},
};
use taskforge_domain::{Clock, LaneLimits, QueuePolicy, TenantId};

use crate::{
    fixture::{Dyn, count_of, local, paused, redis, soon, waiting, weight},
    hints::{LONG, hint, hints, kind, overdue, pop, pop_within, take},
};

both_keep! {
    tenants_take_turns_by_weight(1000);
    a_paused_type_waits_until_it_is_resumed(100);
    of_a_lane_no_more_is_given_than_a_worker_can_use(100);
    a_waiting_pop_gets_a_lane_that_comes_back(100);
    a_lane_that_is_aside_may_be_short(4);
}

async fn tenants_take_turns_by_weight(broker: Dyn) {
    let tenants =
        [(TenantId::new("a").unwrap(), weight(3)), (TenantId::new("b").unwrap(), weight(1))];
    let policy = QueuePolicy { tenants: tenants.into(), ..QueuePolicy::default() };
    broker.set_policy(&policy).await.unwrap();
    for task_type in ["x", "y"] {
        broker.push(&hints("a", task_type, 3, 400)).await.unwrap();
    }
    broker.push(&hints("b", "x", 3, 400)).await.unwrap();
    for max in [4, 100, 296] {
        let got = take(&*broker, &["x", "y"], max).await;
        let (a, b) = (count_of("a", &got), count_of("b", &got));
        assert!(a.abs_diff(3 * b) <= 3, "{a} to {b}");
    }
}

async fn a_paused_type_waits_until_it_is_resumed(broker: Dyn) {
    broker.set_policy(&paused("t")).await.unwrap();
    let pushed = hints("a", "t", 3, 2);
    broker.push(&pushed).await.unwrap();
    let popped = pop(&*broker, &["t"], 10).await;
    assert!(popped.hints.is_empty() && !popped.look_in_store);
    let worker = waiting(&broker, &["t"], 10);
    broker.set_policy(&QueuePolicy::default()).await.unwrap();
    assert_eq!(soon(worker).await, pushed);
}

async fn of_a_lane_no_more_is_given_than_a_worker_can_use(broker: Dyn) {
    let (of_a, of_b) = (hints("a", "t", 5, 6), hints("b", "t", 3, 6));
    broker.push(&[of_a.clone(), of_b.clone()].concat()).await.unwrap();
    let (a, b) = (TenantId::new("a").unwrap(), TenantId::new("b").unwrap());
    let mut lanes = LaneLimits::default();
    lanes.name(&kind("t"), &a, 2);
    let got = pop_within(&*broker, &["t"], &lanes, 4).await.hints;
    assert_eq!(got, [&of_a[..2], &of_b[..2]].concat());
    lanes.only_named();
    lanes.name(&kind("t"), &a, 0);
    assert_eq!(pop_within(&*broker, &["t"], &lanes, 4).await.hints, []);
    lanes.name(&kind("t"), &b, 1);
    assert_eq!(pop_within(&*broker, &["t"], &lanes, 4).await.hints, of_b[2..3]);

    // A hint of a lane wakes a pop that can use it, and no other.
    let want = |most: usize| {
        let (broker, mut lanes) = (broker.clone(), LaneLimits::default());
        lanes.name(&kind("t"), &a, most);
        lanes.name(&kind("t"), &b, 0);
        tokio::spawn(async move {
            let want = Want { types: &[kind("t")], lanes: &lanes, max: 10, wait: LONG };
            broker.pop(want).await.unwrap().hints
        })
    };
    assert_eq!(take(&*broker, &["t"], 100).await.len(), 7);
    let nobody = want(0);
    let somebody = want(10);
    tokio::time::sleep(Duration::from_millis(100)).await;
    let late = hints("a", "t", 3, 1);
    broker.push(&late).await.unwrap();
    assert_eq!(soon(somebody).await, late);
    assert!(!nobody.is_finished());
    nobody.abort();
}

/// No message says when a permit is free, so a waiting pop looks again by itself.
async fn a_waiting_pop_gets_a_lane_that_comes_back(broker: Dyn) {
    let pushed = hints("a", "t", 3, 3);
    broker.push(&pushed).await.unwrap();
    let popped = take(&*broker, &["t"], 10).await;
    broker.set_aside(&popped).await.unwrap();
    let back = soon(waiting(&broker, &["t"], 10)).await;
    assert!(!back.is_empty() && pushed.starts_with(&back), "{back:?}");
}

async fn a_lane_that_is_aside_may_be_short(broker: Dyn) {
    // It overflows and runs dry.
    let pushed = hints("a", "t", 3, 5);
    broker.push(&pushed).await.unwrap();
    let popped = take(&*broker, &["t"], 4).await;
    broker.set_aside(&popped[3..]).await.unwrap();
    let short = broker.short_lanes().await.unwrap();
    assert_eq!((short.len(), short[0].room), (1, 3));
    broker.refill(&pushed[0].lane, short[0].after, &[pushed[4].id], true).await.unwrap();
    assert_eq!(broker.depth().await.unwrap(), 2);
}

/// Both brokers, on one stopped clock.
async fn on_both(promise: impl AsyncFn(&Dyn, &dyn Fn(Duration))) {
    let clock = Clock::stopped(Timestamp::now());
    let pass = |time: Duration| clock.shift(SignedDuration::try_from(time).unwrap());
    promise(&local(100, &clock).await.broker, &pass).await;
    let fixture = redis(100, &clock).await;
    promise(&fixture.broker, &pass).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lane_that_is_put_aside_gives_nothing_then_a_little_then_all() {
    on_both(async |broker, pass| {
        let pushed = hints("a", "t", 3, 90);
        broker.push(&pushed).await.unwrap();
        let (others, another_type) = (hints("b", "t", 3, 2), hints("a", "u", 3, 2));
        broker.push(&[&others[..], &another_type].concat()).await.unwrap();
        let popped = take(&**broker, &["t"], 20).await;
        let ours: Vec<_> = popped.into_iter().filter(|hint| pushed.contains(hint)).collect();
        broker.set_aside(&ours).await.unwrap();
        broker.push(&others).await.unwrap();
        let rest = take(&**broker, &["t", "u"], 10).await;
        assert_eq!(rest.len(), 4, "neither its neighbours nor its tenant's other types are aside");
        assert_eq!(broker.depth().await.unwrap(), 90);
        pass(ASIDE.checked_sub(Duration::from_millis(1)).unwrap());
        assert_eq!(take(&**broker, &["t"], 10).await, []);
        pass(Duration::from_millis(1));
        // In their old order, and the offer doubles with time, whether it is used or not.
        let mut seen = 0;
        for steps in 0..4 {
            let got = take(&**broker, &["t"], 100).await;
            assert_eq!(got, pushed[seen..seen + (1 << steps)]);
            seen += got.len();
            pass(ASIDE_STEP);
        }
        pass(ASIDE_STEP * 20);
        assert_eq!(take(&**broker, &["t"], 100).await, pushed[seen..]);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lane_in_every_priority_is_put_aside() {
    on_both(async |broker, pass| {
        let pushed = [hint("a", "t", 5), hint("a", "t", 1), overdue(hint("a", "t", 3))];
        broker.push(&pushed).await.unwrap();
        let first = take(&**broker, &["t"], 1).await;
        assert_eq!(first, pushed[..1]);
        broker.set_aside(&first).await.unwrap();
        // The overdue has its turns too, and would be next.
        for _ in 0..5 {
            assert_eq!(take(&**broker, &["t"], 1).await, []);
        }
        let free = overdue(hint("b", "t", 2));
        broker.push(std::slice::from_ref(&free)).await.unwrap();
        assert_eq!(take(&**broker, &["t"], 4).await, [free]);
        pass(ASIDE + ASIDE_STEP * 20);
        assert_eq!(take(&**broker, &["t"], 4).await.len(), 3);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_whose_lane_was_aside_has_saved_up_no_turns() {
    on_both(async |broker, pass| {
        for _ in 0..45 {
            let both = [hint("a", "t", 3), hint("b", "t", 3)];
            broker.push(&both).await.unwrap();
        }
        let first = take(&**broker, &["t"], 2).await;
        let ours: Vec<_> =
            first.into_iter().filter(|hint| hint.lane.tenant.as_str() == "a").collect();
        broker.set_aside(&ours).await.unwrap();
        assert_eq!(count_of("b", &take(&**broker, &["t"], 30).await), 30);
        pass(ASIDE + ASIDE_STEP * 20 - ASIDE_STEP * 12);
        let next = take(&**broker, &["t"], 12).await;
        assert!(count_of("a", &next) <= 7, "{next:?}");
    })
    .await;
}
