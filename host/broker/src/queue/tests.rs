use super::*;

const PATIENCE: Duration = Duration::from_secs(30);

fn kind(name: &str) -> TaskType {
    TaskType::new(name).unwrap()
}

fn hint(tenant: &str, task_type: &str, priority: u8) -> Hint {
    Hint {
        id: TaskId::generate(),
        tenant: TenantId::new(tenant).unwrap(),
        task_type: kind(task_type),
        priority: Priority::new(priority).unwrap(),
    }
}

fn push_all(queue: &mut Queue, hints: &[Hint], now: Instant) {
    for hint in hints {
        assert!(queue.push(hint, now));
    }
}

fn tenants(hints: &[Hint]) -> String {
    hints.iter().map(|hint| hint.tenant.as_str()).collect()
}

#[test]
fn the_most_urgent_goes_first_and_the_oldest_of_those() {
    let (mut queue, now) = (Queue::new(PATIENCE), Instant::now());
    let hints: Vec<_> = [3, 1, 5, 3, 5, 2, 4]
        .map(|priority| hint("a", "t", priority))
        .into();
    push_all(&mut queue, &hints, now);
    let expected = [2, 4, 6, 0, 3, 5, 1].map(|n: usize| hints[n].clone());
    assert_eq!(queue.pop(&[kind("t")], 100, now), expected);
    assert!(queue.is_empty());
}

#[test]
fn a_hint_is_queued_once_until_it_is_taken() {
    let (mut queue, now) = (Queue::new(PATIENCE), Instant::now());
    let one = hint("a", "t", 3);
    assert!(queue.push(&one, now));
    assert!(!queue.push(&one, now));
    assert!(!queue.push(
        &Hint {
            priority: Priority::MAX,
            ..one.clone()
        },
        now
    ));
    assert_eq!(queue.pop(&[kind("t")], 10, now), std::slice::from_ref(&one));
    assert!(queue.push(&one, now));
}

#[test]
fn only_types_that_are_asked_for_are_taken() {
    let (mut queue, now) = (Queue::new(PATIENCE), Instant::now());
    let hints = [
        hint("a", "x", 1),
        hint("a", "y", 5),
        hint("a", "z", 3),
        hint("a", "x", 3),
    ];
    push_all(&mut queue, &hints, now);
    assert_eq!(queue.pop(&[], 10, now), []);
    assert_eq!(queue.pop(&[kind("none")], 10, now), []);
    let expected = [hints[2].clone(), hints[3].clone(), hints[0].clone()];
    assert_eq!(queue.pop(&[kind("x"), kind("z")], 10, now), expected);
    assert_eq!(queue.len(), 1);
}

#[test]
fn the_order_within_a_priority_goes_across_types() {
    let (mut queue, now) = (Queue::new(PATIENCE), Instant::now());
    let hints: Vec<_> = ["x", "y", "y", "x", "z", "x"]
        .map(|name| hint("a", name, 3))
        .into();
    push_all(&mut queue, &hints, now);
    assert_eq!(queue.pop(&[kind("z"), kind("y"), kind("x")], 10, now), hints);
}

#[test]
fn tenants_take_turns() {
    let (mut queue, now) = (Queue::new(PATIENCE), Instant::now());
    for tenant in ["a", "a", "a", "a", "a", "a", "b", "b", "c"] {
        assert!(queue.push(&hint(tenant, "t", 3), now));
    }
    assert_eq!(tenants(&queue.pop(&[kind("t")], 100, now)), "abcabaaaa");
}

#[test]
fn a_tenant_takes_its_turn_once_however_many_types_it_uses() {
    let (mut queue, now) = (Queue::new(PATIENCE), Instant::now());
    for task_type in ["x", "y", "z", "x", "y", "z"] {
        assert!(queue.push(&hint("a", task_type, 3), now));
    }
    for _ in 0..3 {
        assert!(queue.push(&hint("b", "x", 3), now));
    }
    let types = [kind("x"), kind("y"), kind("z")];
    assert_eq!(tenants(&queue.pop(&types, 100, now)), "abababaaa");
}

#[test]
fn coming_and_going_gains_a_tenant_no_turns() {
    let (mut queue, now) = (Queue::new(PATIENCE), Instant::now());
    for _ in 0..100 {
        assert!(queue.push(&hint("a", "t", 3), now));
    }
    let mut order = String::new();
    for _ in 0..40 {
        // There for one hint, gone when it is taken, back at once.
        if order.is_empty() || order.ends_with('b') {
            assert!(queue.push(&hint("b", "t", 3), now));
        }
        order += &tenants(&queue.pop(&[kind("t")], 1, now));
    }
    assert_eq!(order.matches('a').count(), 20, "{order}");
}

#[test]
fn a_million_hints_of_one_tenant_delay_another_by_one() {
    let (mut queue, now) = (Queue::new(PATIENCE), Instant::now());
    for _ in 0..100_000 {
        assert!(queue.push(&hint("a", "t", 5), now));
    }
    assert_eq!(queue.pop(&[kind("t")], 50_000, now).len(), 50_000);
    assert!(queue.push(&hint("b", "t", 5), now));
    assert!(tenants(&queue.pop(&[kind("t")], 2, now)).contains('b'));
}

#[test]
fn under_endless_urgent_hints_an_old_one_goes_within_its_bound() {
    let (mut queue, start) = (Queue::new(PATIENCE), Instant::now());
    let old: Vec<_> = (0..5).map(|_| hint("a", "t", 1)).collect();
    push_all(&mut queue, &old, start);
    let types = [kind("t")];
    let mut pop = |now| {
        for _ in 0..2 {
            assert!(queue.push(&hint("a", "t", 5), now));
        }
        queue.pop(&types, 1, now).remove(0)
    };
    let before = start + PATIENCE - Duration::from_millis(1);
    assert!(
        (0..100).all(|_| pop(before).priority == Priority::MAX),
        "priority holds while patience lasts"
    );
    let after = start + PATIENCE;
    for (older, expected) in old.iter().enumerate() {
        let taken = (0..AGED_SHARE)
            .map(|_| pop(after))
            .filter(|hint| hint.priority == Priority::MIN);
        assert_eq!(
            taken.collect::<Vec<_>>(),
            std::slice::from_ref(expected),
            "after {older} older ones"
        );
    }
}

#[test]
fn a_mountain_of_old_hints_leaves_the_urgent_their_share() {
    let (mut queue, start) = (Queue::new(PATIENCE), Instant::now());
    for _ in 0..1000 {
        assert!(queue.push(&hint("a", "t", 1), start));
    }
    let later = start + 2 * PATIENCE;
    for _ in 0..300 {
        assert!(queue.push(&hint("b", "t", 5), later));
    }
    let taken = queue.pop(&[kind("t")], 400, later);
    assert_eq!(
        taken.iter().filter(|hint| hint.priority == Priority::MAX).count(),
        300
    );
}

#[test]
fn workers_of_other_types_do_not_use_up_the_share_of_the_overdue() {
    let (mut queue, start) = (Queue::new(PATIENCE), Instant::now());
    let old = hint("a", "x", 1);
    assert!(queue.push(&old, start));
    let now = start + PATIENCE;
    let mut pops = 0;
    loop {
        // The other worker's pops fall on every number that the share would fall on, were they counted together.
        for _ in 0..AGED_SHARE - 1 {
            assert!(queue.push(&hint("a", "y", 5), now));
            assert_eq!(queue.pop(&[kind("y")], 1, now).len(), 1);
        }
        assert!(queue.push(&hint("a", "x", 5), now));
        pops += 1;
        if queue.pop(&[kind("x")], 1, now) == std::slice::from_ref(&old) {
            break;
        }
        assert!(pops < AGED_SHARE, "overdue, and passed over {pops} times");
    }
}

/// Random pushes and pops beside a plain list of what is queued: nothing is lost, doubled, of a wrong type or out of its tenant's
/// order.
#[test]
fn whatever_happens_nothing_is_lost_or_doubled() {
    for seed in 0..200 {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut queue = Queue::new(PATIENCE);
        let mut model: Vec<Hint> = Vec::new();
        let mut now = Instant::now();
        for _ in 0..300 {
            now += Duration::from_secs(random.u64(0..5));
            if random.bool() {
                let again = random.u8(0..10) == 0 && !model.is_empty();
                if again {
                    assert!(!queue.push(&model[random.usize(0..model.len())], now));
                    continue;
                }
                let new = hint(
                    ["a", "b", "c"][random.usize(0..3)],
                    ["x", "y", "z"][random.usize(0..3)],
                    random.u8(1..=5),
                );
                assert!(queue.push(&new, now));
                model.push(new);
            } else {
                let types: Vec<_> = ["x", "y", "z"]
                    .into_iter()
                    .filter(|_| random.bool())
                    .map(kind)
                    .collect();
                let max = random.usize(0..6);
                let matching = model
                    .iter()
                    .filter(|hint| types.contains(&hint.task_type))
                    .count();
                let taken = queue.pop(&types, max, now);
                assert_eq!(taken.len(), max.min(matching), "seed {seed}");
                for hint in taken {
                    // First in, first out among those of its tenant and priority that were asked for.
                    let first = model.iter().position(|other| {
                        other.tenant == hint.tenant
                            && other.priority == hint.priority
                            && types.contains(&other.task_type)
                    });
                    assert_eq!(model.remove(first.unwrap()), hint, "seed {seed}");
                }
            }
            assert_eq!(queue.len(), model.len());
        }
        let rest = queue.pop(&["x", "y", "z"].map(kind), usize::MAX, now);
        assert_eq!(rest.len(), model.len());
        assert!(
            queue
                .levels
                .iter()
                .all(|level| level.lanes.is_empty() && level.tenants.is_empty()),
            "seed {seed}"
        );
    }
}
