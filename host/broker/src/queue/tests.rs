use super::*;

/// The time, in milliseconds.
fn now() -> u64 {
    crate::local::millis_of(&taskforge_domain::Clock::default())
}

fn queue() -> Queue {
    Queue::new(AGEING_AFTER, LANE_CAPACITY)
}

fn kind(name: &str) -> TaskType {
    TaskType::new(name).unwrap()
}

fn hint(tenant: &str, task_type: &str, priority: u8) -> QueuedTask {
    QueuedTask {
        id: TaskId::generate(),
        lane: Lane {
            tenant: TenantId::new(tenant).unwrap(),
            task_type: kind(task_type),
            priority: Priority::new(priority).unwrap(),
        },
    }
}

fn push_all(queue: &mut Queue, hints: &[QueuedTask]) {
    for hint in hints {
        assert!(queue.push(hint));
    }
}

fn pop(queue: &mut Queue, types: &[TaskType], max: usize, now: u64) -> Vec<QueuedTask> {
    queue.pop(types, LaneLimits::none(), max, now)
}

fn tenants(hints: &[QueuedTask]) -> String {
    hints.iter().map(|hint| hint.lane.tenant.as_str()).collect()
}

#[test]
fn the_most_urgent_goes_first_and_the_oldest_of_those() {
    let (mut queue, now) = (queue(), now());
    let hints: Vec<_> = [3, 1, 5, 3, 5, 2, 4].map(|priority| hint("a", "t", priority)).into();
    push_all(&mut queue, &hints);
    let expected = [2, 4, 6, 0, 3, 5, 1].map(|n: usize| hints[n].clone());
    assert_eq!(pop(&mut queue, &[kind("t")], 100, now), expected);
    assert!(queue.is_empty());
}

#[test]
fn a_hint_is_queued_once_until_it_is_taken() {
    let (mut queue, now) = (queue(), now());
    let one = hint("a", "t", 3);
    assert!(queue.push(&one));
    assert!(!queue.push(&one));
    assert_eq!(pop(&mut queue, &[kind("t")], 10, now), std::slice::from_ref(&one));
    assert!(queue.push(&one));
}

#[test]
fn only_types_that_are_asked_for_are_taken() {
    let (mut queue, now) = (queue(), now());
    let hints = [hint("a", "x", 1), hint("a", "y", 5), hint("a", "z", 3), hint("a", "x", 3)];
    push_all(&mut queue, &hints);
    assert_eq!(pop(&mut queue, &[], 10, now), []);
    assert_eq!(pop(&mut queue, &[kind("none")], 10, now), []);
    let expected = [hints[2].clone(), hints[3].clone(), hints[0].clone()];
    assert_eq!(pop(&mut queue, &[kind("x"), kind("z")], 10, now), expected);
    assert_eq!(queue.len(), 1);
}

#[test]
fn the_order_within_a_priority_goes_across_types() {
    let (mut queue, now) = (queue(), now());
    let hints: Vec<_> = ["x", "y", "y", "x", "z", "x"].map(|name| hint("a", name, 3)).into();
    push_all(&mut queue, &hints);
    assert_eq!(pop(&mut queue, &[kind("z"), kind("y"), kind("x")], 10, now), hints);
}

#[test]
fn tenants_take_turns() {
    let (mut queue, now) = (queue(), now());
    for tenant in ["a", "a", "a", "a", "a", "a", "b", "b", "c"] {
        assert!(queue.push(&hint(tenant, "t", 3)));
    }
    assert_eq!(tenants(&pop(&mut queue, &[kind("t")], 100, now)), "abcabaaaa");
}

#[test]
fn a_tenant_takes_its_turn_once_however_many_types_it_uses() {
    let (mut queue, now) = (queue(), now());
    for task_type in ["x", "y", "z", "x", "y", "z"] {
        assert!(queue.push(&hint("a", task_type, 3)));
    }
    for _ in 0..3 {
        assert!(queue.push(&hint("b", "x", 3)));
    }
    let types = [kind("x"), kind("y"), kind("z")];
    assert_eq!(tenants(&pop(&mut queue, &types, 100, now)), "abababaaa");
}

#[test]
fn coming_and_going_gains_a_tenant_no_turns() {
    let (mut queue, now) = (queue(), now());
    for _ in 0..100 {
        assert!(queue.push(&hint("a", "t", 3)));
    }
    let mut order = String::new();
    for _ in 0..40 {
        // There for one hint, gone when it is taken, back at once.
        if order.is_empty() || order.ends_with('b') {
            assert!(queue.push(&hint("b", "t", 3)));
        }
        order += &tenants(&pop(&mut queue, &[kind("t")], 1, now));
    }
    assert_eq!(order.matches('a').count(), 20, "{order}");
}

#[test]
fn a_full_lane_of_one_tenant_delays_another_by_one() {
    let (mut queue, now) = (queue(), now());
    for _ in 0..LANE_CAPACITY {
        assert!(queue.push(&hint("a", "t", 5)));
    }
    assert_eq!(pop(&mut queue, &[kind("t")], 5_000, now).len(), 5_000);
    assert!(queue.push(&hint("b", "t", 5)));
    assert!(tenants(&pop(&mut queue, &[kind("t")], 2, now)).contains('b'));
}

#[test]
fn under_endless_urgent_hints_an_old_one_goes_within_its_bound() {
    let (mut queue, start) = (queue(), now());
    let old: Vec<_> = (0..5).map(|_| hint("a", "t", 1)).collect();
    push_all(&mut queue, &old);
    let types = [kind("t")];
    let mut pop = |now| {
        for _ in 0..2 {
            assert!(queue.push(&hint("a", "t", 5)));
        }
        pop(&mut queue, &types, 1, now).remove(0)
    };
    let before = start + millis(AGEING_AFTER) - 1000;
    assert!(
        (0..100).all(|_| pop(before).lane.priority == Priority::MAX),
        "priority holds until the hints are overdue"
    );
    let after = start + 2 * millis(AGEING_AFTER);
    for (older, expected) in old.iter().enumerate() {
        let taken =
            (0..AGED_SHARE).map(|_| pop(after)).filter(|hint| hint.lane.priority == Priority::MIN);
        assert_eq!(
            taken.collect::<Vec<_>>(),
            std::slice::from_ref(expected),
            "after {older} older ones"
        );
    }
}

#[test]
fn a_mountain_of_old_hints_leaves_the_urgent_their_share() {
    let (mut queue, start) = (queue(), now());
    for _ in 0..1000 {
        assert!(queue.push(&hint("a", "t", 1)));
    }
    let later = start + 2 * millis(AGEING_AFTER);
    for _ in 0..300 {
        assert!(queue.push(&hint("b", "t", 5)));
    }
    let taken = pop(&mut queue, &[kind("t")], 400, later);
    assert_eq!(taken.iter().filter(|hint| hint.lane.priority == Priority::MAX).count(), 300);
}

#[test]
fn workers_of_other_types_do_not_use_up_the_share_of_the_overdue() {
    let (mut queue, start) = (queue(), now());
    let old = hint("a", "x", 1);
    assert!(queue.push(&old));
    let now = start + 2 * millis(AGEING_AFTER);
    let mut pops = 0;
    loop {
        // The other worker's pops fall on every number that the share would fall on, were they
        // counted together.
        for _ in 0..AGED_SHARE - 1 {
            assert!(queue.push(&hint("a", "y", 5)));
            assert_eq!(pop(&mut queue, &[kind("y")], 1, now).len(), 1);
        }
        assert!(queue.push(&hint("a", "x", 5)));
        pops += 1;
        if pop(&mut queue, &[kind("x")], 1, now) == std::slice::from_ref(&old) {
            break;
        }
        assert!(pops < AGED_SHARE, "overdue, and passed over {pops} times");
    }
}

/// Random pushes and pops beside a plain list of what is queued: nothing is lost, doubled, of a
/// wrong type or out of its tenant's order.
#[test]
fn whatever_happens_nothing_is_lost_or_doubled() {
    for seed in 0..200 {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut queue = queue();
        let mut model: Vec<QueuedTask> = Vec::new();
        let mut now = now();
        for _ in 0..300 {
            now += random.u64(0..5_000);
            if random.bool() {
                let again = random.u8(0..10) == 0 && !model.is_empty();
                if again {
                    assert!(!queue.push(&model[random.usize(0..model.len())]));
                    continue;
                }
                let new = hint(
                    ["a", "b", "c"][random.usize(0..3)],
                    ["x", "y", "z"][random.usize(0..3)],
                    random.u8(1..=5),
                );
                assert!(queue.push(&new));
                model.push(new);
            } else {
                let types: Vec<_> =
                    ["x", "y", "z"].into_iter().filter(|_| random.bool()).map(kind).collect();
                let max = random.usize(0..6);
                let matching =
                    model.iter().filter(|hint| types.contains(&hint.lane.task_type)).count();
                let taken = pop(&mut queue, &types, max, now);
                assert_eq!(taken.len(), max.min(matching), "seed {seed}");
                for hint in taken {
                    // First in, first out among those of its tenant and priority that were asked
                    // for.
                    let first = model.iter().position(|other| {
                        other.lane.tenant == hint.lane.tenant
                            && other.lane.priority == hint.lane.priority
                            && types.contains(&other.lane.task_type)
                    });
                    assert_eq!(model.remove(first.unwrap()), hint, "seed {seed}");
                }
            }
            assert_eq!(queue.len(), model.len());
        }
        let rest = pop(&mut queue, &["x", "y", "z"].map(kind), usize::MAX, now);
        assert_eq!(rest.len(), model.len());
        assert!(queue.levels.iter().all(Level::is_clean), "seed {seed}");
    }
}

/// A million hints in one lane: those that fit are kept, in order, and the lane knows that it is
/// short.
#[test]
fn a_million_hints_in_a_lane_take_the_room_of_a_full_one() {
    let mut queue = queue();
    queue.mark_complete();
    let first = hint("a", "t", 3);
    let base = first.id.as_uuid().as_u128();
    for n in 0..1_000_000 {
        let id = TaskId::from_uuid(uuid::Uuid::from_u128(base + n));
        queue.push(&QueuedTask { id, ..first.clone() });
    }
    assert_eq!(queue.len(), LANE_CAPACITY);
    assert_eq!(queue.short.len(), 1);
    let taken = pop(&mut queue, &[kind("t")], usize::MAX, now());
    let expected = (0..LANE_CAPACITY as u128).map(|n| base + n);
    assert!(taken.iter().map(|hint| hint.id.as_uuid().as_u128()).eq(expected));
    assert!(queue.look_in_store(&[kind("t")]));
}

#[test]
fn what_is_aside_is_forgotten_in_time() {
    let (mut queue, start) = (queue(), now());
    let hints: Vec<_> = (0..3).map(|_| hint("a", "t", 3)).collect();
    push_all(&mut queue, &hints);
    let types = [kind("t")];
    let popped = pop(&mut queue, &types, 2, start);
    queue.set_aside(&popped, start);
    assert_eq!(queue.back_in(&types, start), Some(millis(ASIDE)));
    assert_eq!(queue.back_in(&[kind("u")], start), None);
    let nothing = queue.offers(start);
    assert!(!queue.has(&types, &nothing));
    let back = start + millis(ASIDE);
    assert_eq!(queue.back_in(&types, back), None);
    assert_eq!(pop(&mut queue, &types, 3, back), hints[..1]);
    let all = back + millis(ASIDE_STEP) * u64::from(ASIDE_STEPS);
    let everything = queue.offers(all);
    assert!(queue.has(&types, &everything) && !everything.concern(&types[0]));
    assert_eq!(pop(&mut queue, &types, 3, all), hints[1..]);
}
