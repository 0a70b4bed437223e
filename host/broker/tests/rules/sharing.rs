//! Weights, pauses and caps.

use taskforge_domain::{QueuePolicy, TenantId};

use crate::{
    bench::{Dyn, count_of, soon, tenant_policy, type_policy, waiting},
    hints::{hints, pop, take, taken, tell},
};

both_keep! {
    tenants_take_turns_by_weight(1000);
    a_paused_type_waits_until_it_is_resumed(100);
    a_cap_holds_until_room_is_given_back(100);
    what_has_a_cap_stays_until_it_was_counted_twice(100);
    of_what_has_a_cap_the_store_is_not_asked_for_more(2);
    what_runs_is_put_right(100);
}

async fn tenants_take_turns_by_weight(broker: Dyn) {
    let tenants = [
        (TenantId::new("a").unwrap(), tenant_policy(3, None)),
        (TenantId::new("b").unwrap(), tenant_policy(1, None)),
    ];
    let policy = QueuePolicy {
        tenants: tenants.into(),
        ..QueuePolicy::default()
    };
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
    broker.set_policy(&type_policy("t", true, None)).await.unwrap();
    let pushed = hints("a", "t", 3, 2);
    broker.push(&pushed).await.unwrap();
    let popped = pop(&*broker, &["t"], 10).await;
    assert!(popped.hints.is_empty() && !popped.look_in_store);
    let worker = waiting(&broker, &["t"], 10);
    broker.set_policy(&QueuePolicy::default()).await.unwrap();
    assert_eq!(soon(worker).await, pushed);
}

async fn a_cap_holds_until_room_is_given_back(broker: Dyn) {
    let mut policy = type_policy("t", false, Some(3));
    policy
        .tenants
        .insert(TenantId::new("b").unwrap(), tenant_policy(1, Some(1)));
    tell(&*broker, &policy, &[]).await;
    broker.push(&hints("a", "t", 3, 10)).await.unwrap();
    let first = pop(&*broker, &["t"], 10).await;
    assert!(first.hints.len() == 3 && first.hints.iter().all(|taken| taken.counted));
    assert_eq!(take(&*broker, &["t"], 10).await, []);

    broker.push(&hints("b", "u", 3, 4)).await.unwrap();
    broker.push(&hints("a", "u", 3, 4)).await.unwrap();
    let other = pop(&*broker, &["u"], 10).await.hints;
    assert_eq!(other.len(), 5, "one of the capped tenant, and all of the other");
    assert_eq!(other.iter().filter(|taken| taken.counted).count(), 1);

    let (t, u) = (waiting(&broker, &["t"], 10), waiting(&broker, &["u"], 10));
    let first = taken(first);
    // Twice the same gives no more room than once.
    broker.release(&first[..1]).await.unwrap();
    broker.release(&first[..1]).await.unwrap();
    assert_eq!(soon(t).await.len(), 1);
    let other: Vec<_> = other
        .into_iter()
        .filter(|taken| taken.counted)
        .map(|taken| taken.hint)
        .collect();
    broker.release(&other).await.unwrap();
    let next = soon(u).await;
    assert_eq!(count_of("b", &next), 1);
    assert_eq!(take(&*broker, &["t", "u"], 10).await, []);
}

async fn what_has_a_cap_stays_until_it_was_counted_twice(broker: Dyn) {
    let capped = |cap| type_policy("t", false, Some(cap));
    let three = capped(3);
    broker.set_policy(&three).await.unwrap();
    let (pushed, free) = (hints("a", "t", 3, 10), hints("a", "u", 3, 2));
    broker.push(&[&pushed[..], &free[..1]].concat()).await.unwrap();
    assert_eq!(
        take(&*broker, &["t", "u"], 10).await,
        free[..1],
        "the others are served"
    );
    let (t, u) = (waiting(&broker, &["t"], 10), waiting(&broker, &["t", "u"], 10));
    broker.push(&free[1..]).await.unwrap();
    assert_eq!(soon(u).await, free[1..]);

    let running = hints("a", "t", 3, 2);
    // A list that was made before there was the cap says nothing of it.
    assert!(!broker.set_running(&QueuePolicy::default(), &[]).await.unwrap());
    assert!(!broker.set_running(&three, &running).await.unwrap());
    let popped = pop(&*broker, &["t"], 10).await;
    assert_eq!(
        (popped.hints.len(), popped.look_in_store, popped.keeps_caps),
        (0, false, true)
    );
    assert!(broker.set_running(&three, &running).await.unwrap());
    assert_eq!(soon(t).await, pushed[..1], "who waited is called");
    // It goes on counting under another cap, and when the same is said again.
    broker.set_policy(&capped(4)).await.unwrap();
    broker.set_policy(&capped(4)).await.unwrap();
    assert_eq!(take(&*broker, &["t"], 10).await, pushed[1..2]);
    // Also while another is new.
    let mut both = capped(5);
    both.tenants
        .insert(TenantId::new("b").unwrap(), tenant_policy(1, Some(1)));
    broker.set_policy(&both).await.unwrap();
    broker.push(&hints("b", "u", 3, 1)).await.unwrap();
    assert_eq!(take(&*broker, &["t", "u"], 10).await, pushed[2..3]);
    // A cap that comes back is counted anew.
    broker.set_policy(&QueuePolicy::default()).await.unwrap();
    assert_eq!(take(&*broker, &["t"], 1).await, pushed[3..4]);
    broker.set_policy(&capped(9)).await.unwrap();
    assert_eq!(take(&*broker, &["t"], 10).await, []);
}

async fn of_what_has_a_cap_the_store_is_not_asked_for_more(broker: Dyn) {
    let mut policy = type_policy("t", false, Some(3));
    policy
        .tenants
        .insert(TenantId::new("b").unwrap(), tenant_policy(1, Some(3)));
    tell(&*broker, &policy, &[]).await;
    // Lanes that overflow and run dry.
    for (tenant, task_type) in [("a", "t"), ("b", "u"), ("a", "u")] {
        broker.push(&hints(tenant, task_type, 3, 3)).await.unwrap();
        assert_eq!(take(&*broker, &[task_type], 2).await.len(), 2);
        let popped = pop(&*broker, &[task_type], 2).await;
        let is_free = (tenant, task_type) == ("a", "u");
        assert_eq!(
            (popped.hints.len(), popped.look_in_store, popped.keeps_caps),
            (0, is_free, true)
        );
    }
    assert_eq!(
        broker.short_lanes().await.unwrap().len(),
        3,
        "the sweeper fills them all"
    );
}

async fn what_runs_is_put_right(broker: Dyn) {
    let policy = type_policy("t", false, Some(2));
    let (running, waits) = (hints("a", "t", 3, 2), hints("a", "t", 3, 2));
    tell(&*broker, &policy, &running).await;
    broker.push(&waits).await.unwrap();
    assert_eq!(take(&*broker, &["t"], 10).await, []);
    broker.set_running(&policy, &running[..1]).await.unwrap();
    let popped = take(&*broker, &["t"], 10).await;
    assert_eq!(popped, waits[..1]);
    // The store does not know of that claim yet, and it counts all the same.
    broker.set_running(&policy, &running[..1]).await.unwrap();
    assert_eq!(take(&*broker, &["t"], 10).await, []);
    broker.release(&popped).await.unwrap();
    assert_eq!(take(&*broker, &["t"], 10).await, waits[1..]);
}
