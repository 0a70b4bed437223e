//! What time does: tasks fall due, workers fall silent.

use super::*;
use crate::QueuedTask;
use taskforge_domain::{EventKind, Priority, TaskError, retry};

async fn scheduled(world: &World, second: i64) -> TaskId {
    world.add(NewTask { run_at: Some(at(second)), ..new_task() }).await
}

async fn promote(world: &World, now: Timestamp, limit: u32) -> Vec<TaskId> {
    world.promote(now, limit).await.into_iter().map(|task| task.id).collect()
}

async fn lapsed_ids(world: &World, now: i64) -> Vec<TaskId> {
    world
        .store
        .lapsed(world.term, at(now), 100)
        .await
        .unwrap()
        .into_iter()
        .map(|task| task.id)
        .collect()
}

async fn heartbeat(world: &World, worker: WorkerId, now: i64) -> bool {
    world.store.heartbeat(worker, at(now)).await.unwrap()
}

pub async fn a_task_is_due_at_its_time_and_not_before(world: World) {
    let new = NewTask {
        run_at: Some(at(60)),
        priority: Priority::MAX,
        task_type: kind("later"),
        ..new_task()
    };
    let id = world.add(new.clone()).await;
    let just_before = at(60).checked_sub(jiff::SignedDuration::from_micros(1)).unwrap();
    assert!(promote(&world, just_before, 10).await.is_empty());
    assert_eq!(world.get(id).await.state, TaskState::Scheduled);
    let due = QueuedTask {
        id,
        lane: Lane { tenant: new.tenant, task_type: new.task_type, priority: new.priority },
    };
    assert_eq!(world.promote(at(60), 10).await, [due]);
    let task = world.get(id).await;
    assert_eq!((task.state, task.run_at), (TaskState::Pending, at(60)));
    assert!(promote(&world, at(60), 10).await.is_empty());
}

pub async fn due_tasks_come_in_the_order_of_their_times(world: World) {
    let mut ids = Vec::new();
    for second in [30, 10, 40, 20] {
        ids.push(scheduled(&world, second).await);
    }
    assert_eq!(promote(&world, at(35), 2).await, [ids[1], ids[3]]);
    assert_eq!(promote(&world, at(35), 2).await, [ids[0]]);
    assert_eq!(promote(&world, at(100), 2).await, [ids[2]]);
}

pub async fn the_next_due_time_is_known(world: World) {
    assert_eq!(world.store.next_due().await.unwrap(), None);
    scheduled(&world, 30).await;
    let sooner = scheduled(&world, 20).await;
    assert_eq!(world.store.next_due().await.unwrap(), Some(at(20)));
    world.cancel(sooner).await;
    assert_eq!(world.store.next_due().await.unwrap(), Some(at(30)));
    promote(&world, at(30), 10).await;
    assert_eq!(world.store.next_due().await.unwrap(), None);
}

pub async fn a_heartbeat_renews_the_lease(world: World) {
    let claimed = world.running().await;
    assert!(heartbeat(&world, world.worker, 10).await, "as old as it may be");
    assert!(lapsed_ids(&world, 20).await.is_empty(), "as old as it may be");
    assert!(heartbeat(&world, world.worker, 20).await);
    // A clock that goes back does not shorten the lease.
    assert!(heartbeat(&world, world.worker, 15).await);
    assert!(lapsed_ids(&world, 30).await.is_empty());
    assert!(world.store.lost_leases(&[(claimed.id, claimed.run_lease)]).await.unwrap().is_empty());
    // Announcing it again is no heartbeat.
    world.register(world.worker, 31).await;
    assert_eq!(lapsed_ids(&world, 31).await, [claimed.id]);
}

pub async fn a_worker_that_the_sweeper_found_silent_stays_lapsed(world: World) {
    assert!(lapsed_ids(&world, 11).await.is_empty(), "it held nothing");
    assert!(!heartbeat(&world, world.worker, 11).await);
    assert!(!heartbeat(&world, world.worker, 5).await, "not even by another clock");
    world.register(world.worker, 11).await;
    assert!(!heartbeat(&world, world.worker, 11).await);
    assert!(!heartbeat(&world, WorkerId::generate(), 11).await, "nobody knows it");
}

pub async fn a_heartbeat_that_comes_too_late_is_refused_for_good(world: World) {
    let claimed = world.running().await;
    assert!(!heartbeat(&world, world.worker, 11).await);
    assert!(!heartbeat(&world, world.worker, 9).await);
    assert_eq!(lapsed_ids(&world, 9).await, [claimed.id]);
}

pub async fn a_lease_connection_renews_as_a_heartbeat_does(world: World) {
    let claimed = world.running().await;
    let mut connection = world.store.lease_connection().await.unwrap();
    // However rarely the sweeper looks.
    for second in [10, 20, 15, 30] {
        let renewed = connection.heartbeat(world.worker, at(second)).await;
        assert_eq!(renewed, Ok(true), "{second}");
    }
    assert!(lapsed_ids(&world, 40).await.is_empty(), "as old as it may be");
    assert_eq!(connection.heartbeat(world.worker, at(41)).await, Ok(false));
    assert_eq!(connection.heartbeat(world.worker, at(39)).await, Ok(false));
    assert_eq!(lapsed_ids(&world, 39).await, [claimed.id], "it was refused for good");
    let (found, unknown) = (WorkerId::generate(), WorkerId::generate());
    world.register(found, 40).await;
    assert_eq!(connection.heartbeat(found, at(41)).await, Ok(true));
    lapsed_ids(&world, 52).await;
    assert_eq!(connection.heartbeat(found, at(42)).await, Ok(false));
    assert_eq!(connection.heartbeat(unknown, at(42)).await, Ok(false));
    connection.close().await;
}

pub async fn tasks_of_silent_workers_are_found(world: World) {
    let (silent, alive) = (world.worker, WorkerId::generate());
    world.register(alive, 5).await;
    let ids = world.add_many(4).await;
    let mine = world.claim_as(silent, &ids[..2], 1).await;
    world.claim_as(alive, &ids[2..], 1).await;
    world.running().await;
    let found = world.store.lapsed(world.term, at(11), 2).await.unwrap();
    assert_eq!(found.len(), 2, "no more than asked for");
    let found = world.store.lapsed(world.term, at(11), 100).await.unwrap();
    assert_eq!(found.len(), 3);
    for task in &mine {
        let lapsed = found.iter().find(|lapsed| lapsed.id == task.id).unwrap();
        assert_eq!(
            (lapsed.run_lease, lapsed.attempt, lapsed.retry, lapsed.worker),
            (task.run_lease, 1, task.retry, silent)
        );
    }
    assert!(found.iter().all(|lapsed| !ids[2..].contains(&lapsed.id)));
}

pub async fn tasks_of_a_worker_that_left_are_found_at_once(world: World) {
    let claimed = world.running().await;
    world.store.remove_worker(world.worker).await.unwrap();
    assert_eq!(lapsed_ids(&world, 1).await, [claimed.id]);
    assert!(!heartbeat(&world, world.worker, 1).await);
    world.store.remove_worker(world.worker).await.unwrap();
}

pub async fn a_lapse_is_counted_apart_from_attempts(world: World) {
    let claimed = world.running().await;
    assert!(world.resolve(claimed.id, claimed.run_lease, Next::RetryAt(at(60))).await);
    let history = world.history(claimed.id).await;
    let error =
        TaskError { kind: FailureKind::LeaseLapsed, message: "its worker fell silent".into() };
    assert_eq!(
        (
            history.task.state,
            (history.task.attempt, history.task.lapses),
            history.task.run_at,
            history.task.error,
            history.task.worker
        ),
        (TaskState::Scheduled, (0, 1), at(60), Some(error), None)
    );
    let events: Vec<_> =
        history.events.iter().map(|event| (event.kind, event.run_lease, event.at)).collect();
    assert_eq!(events, [(EventKind::Lapsed, claimed.run_lease, at(5))]);
    assert_eq!(history.events[0].detail, "its worker fell silent");
    promote(&world, at(60), 10).await;
    assert_eq!(world.claim(claimed.id).await.attempt, 1);
}

pub async fn a_lapse_can_end_in_a_dead_letter(world: World) {
    let claimed = world.running().await;
    assert!(world.resolve(claimed.id, claimed.run_lease, Next::DeadLetter).await);
    let task = world.get(claimed.id).await;
    assert_eq!((task.state, task.finished_at), (TaskState::Failed, Some(at(5))));
    assert_eq!((task.attempt, task.lapses), (0, 1));
    assert_eq!(task.error.unwrap().kind, FailureKind::LeaseLapsed);
}

pub async fn a_killer_ends_at_its_third_lapse_and_its_neighbours_lose_no_attempt(world: World) {
    let no_retries = || {
        let mut task = new_task();
        task.retry.max_retries = 0;
        task
    };
    let (killer, neighbour) = (world.add(no_retries()).await, world.add(no_retries()).await);
    let mut held = vec![killer, neighbour];
    for lapses in 1..=3 {
        // The neighbour is there the first two times.
        held.truncate(if lapses < 3 { 2 } else { 1 });
        let worker = WorkerId::generate();
        world.register(worker, 0).await;
        let claimed = world.claim_as(worker, &held, 1).await;
        assert!(claimed.iter().all(|task| task.attempt == 1), "{lapses}");
        let lapsed = world.store.lapsed(world.term, at(20), 10).await.unwrap();
        assert_eq!(lapsed.len(), held.len());
        for task in lapsed {
            assert_eq!((task.attempt, task.lapses), (1, lapses - 1));
            let next = retry::after_lapse(task.lapses + 1, &task.retry, at(20), 0.5);
            assert!(world.resolve(task.id, task.run_lease, next).await);
        }
        promote(&world, at(100), 10).await;
    }
    let task = world.get(killer).await;
    assert_eq!((task.state, task.attempt, task.lapses), (TaskState::Failed, 0, 3));
    // An attempt that fails sets nothing back; an operator does.
    world.register(world.worker, 0).await;
    let last = world.claim_as(WorkerId::generate(), &[neighbour], 30).await;
    assert_eq!((last[0].attempt, world.get(neighbour).await.lapses), (1, 2));
    world.end(&last[0], Next::DeadLetter).await;
    assert_eq!(world.get(neighbour).await.lapses, 2);
    for id in [killer, neighbour] {
        assert!(matches!(world.retry(id).await, RetryOutcome::Requeued(_)));
        let task = world.get(id).await;
        assert_eq!((task.state, task.attempt, task.lapses), (TaskState::Pending, 0, 0));
    }
}

pub async fn a_lapse_can_be_handed_back(world: World) {
    let claimed = world.running().await;
    assert!(world.resolve(claimed.id, claimed.run_lease, Next::HandBack).await);
    let history = world.history(claimed.id).await;
    assert_eq!(
        (history.task.state, history.task.attempt, history.task.error),
        (TaskState::Pending, 0, None)
    );
    assert_eq!(history.task.lapses, 0, "it is none");
    assert_eq!(
        history.events.iter().map(|event| event.kind).collect::<Vec<_>>(),
        [EventKind::HandedBack]
    );
}

pub async fn a_verdict_on_another_lease_changes_nothing(world: World) {
    let first = world.running().await;
    world.end(&first, Next::HandBack).await;
    let second = world.claim(first.id).await;
    let before = world.history(first.id).await;
    for next in [Next::RetryAt(at(9)), Next::DeadLetter, Next::HandBack] {
        assert!(!world.resolve(first.id, first.run_lease, next).await);
        assert!(!world.resolve(TaskId::generate(), second.run_lease, next).await);
    }
    assert_eq!(world.history(first.id).await, before);
    world.end(&second, Next::Complete).await;
    assert!(!world.resolve(second.id, second.run_lease, Next::DeadLetter).await);
}

pub async fn a_verdict_that_is_none_is_refused(world: World) {
    let claimed = world.running().await;
    for next in [Next::Complete, Next::Cancelled] {
        let resolution = Resolution {
            id: claimed.id,
            run_lease: claimed.run_lease,
            next,
            detail: String::new(),
        };
        world.store.resolve_lapsed(None, &[resolution], at(5)).await.unwrap_err();
    }
    assert_eq!(world.get(claimed.id).await.state, TaskState::Running);
}

pub async fn lost_leases_are_told(world: World) {
    let mut held = Vec::new();
    for _ in 0..4 {
        let task = world.running().await;
        held.push((task.id, task.run_lease));
    }
    world.cancel(held[0].0).await;
    world.resolve(held[1].0, held[1].1, Next::HandBack).await;
    world.claim(held[1].0).await;
    held.push((TaskId::generate(), RunLease(1)));
    let mut lost = world.store.lost_leases(&held).await.unwrap();
    lost.sort();
    let mut expected = [held[0].0, held[1].0, held[4].0];
    expected.sort();
    assert_eq!(lost, expected);
}

/// In milliseconds, and whatever the others have.
pub async fn a_workers_own_lease_decides_its_lapse(world: World) {
    let (hasty, patient) = (WorkerId::generate(), WorkerId::generate());
    world.register_for(hasty, 0, Duration::from_millis(1500)).await;
    world.register_for(patient, 0, Duration::from_secs(60)).await;
    let ids = world.add_many(2).await;
    world.claim_as(hasty, &ids[..1], 1).await;
    world.claim_as(patient, &ids[1..], 1).await;
    let moment = at(1) + Duration::from_millis(500);
    assert!(world.store.heartbeat(hasty, moment).await.unwrap());
    assert!(lapsed_ids(&world, 3).await.is_empty(), "as old as it may be");
    assert_eq!(lapsed_ids(&world, 4).await, ids[..1]);
    assert!(!heartbeat(&world, hasty, 4).await);
    assert!(heartbeat(&world, patient, 60).await);
    assert_eq!(lapsed_ids(&world, 120).await, ids[..1]);
    assert!(!heartbeat(&world, patient, 121).await);
    assert_eq!(lapsed_ids(&world, 121).await.len(), 2);
}

pub async fn a_store_that_works_says_so(world: World) {
    world.store.ping().await.unwrap();
}

pub async fn the_stores_clock_goes_on(world: World) {
    let before = world.store.clock().now();
    assert!(world.store.clock().now() >= before);
    // Of one machine or of one fleet, they tell the same day.
    let apart = before.duration_since(Timestamp::now()).abs();
    assert!(apart < jiff::SignedDuration::from_hours(24), "{apart}");
}
