//! One process sweeps at a time, and whoever swept before it is told.

use std::collections::HashSet;

use super::*;
use crate::StoreError;

/// How long a leader of these rules leads. The world's own term ends at second 0, before each rule
/// begins.
const TTL: Duration = Duration::from_secs(5);

async fn lead(world: &World, who: WorkerId, now: i64) -> Option<Term> {
    world.store.lead(who, at(now), TTL).await.unwrap()
}

async fn vacant(world: &World) -> (WorkerId, WorkerId) {
    world.store.resign(world.term).await.unwrap();
    (WorkerId::generate(), WorkerId::generate())
}

pub async fn a_leader_prolongs_its_own_term(world: World) {
    let (one, other) = vacant(&world).await;
    let term = lead(&world, one, 0).await;
    assert!(term > Some(world.term), "a change of leader begins a new term");
    assert_eq!(lead(&world, one, 4).await, term);
    assert_eq!(lead(&world, other, 8).await, None, "it was prolonged at second 4");
    assert_eq!(lead(&world, one, 8).await, term);
    // Its time ran out, but nobody followed: nothing has happened that it does not know.
    assert_eq!(lead(&world, one, 60).await, term);
}

pub async fn a_second_leader_follows_only_after_the_ttl(world: World) {
    let (one, other) = vacant(&world).await;
    let first = lead(&world, one, 0).await.unwrap();
    for now in [0, 1, 4] {
        assert_eq!(lead(&world, other, now).await, None);
    }
    assert_eq!(lead(&world, other, 6).await, Some(Term(first.0 + 1)));
    assert_eq!(lead(&world, one, 7).await, None, "now the first has to wait");
}

pub async fn a_resigned_leader_is_followed_at_once(world: World) {
    let (one, other) = vacant(&world).await;
    let first = lead(&world, one, 0).await.unwrap();
    world.store.resign(first).await.unwrap();
    let gone = world.store.promote_due(first, at(1), 10).await;
    assert_eq!(gone, Err(StoreError::Deposed), "a term ends when its leader resigns");
    let second = lead(&world, other, 1).await.unwrap();
    assert_eq!(second, Term(first.0 + 1));
    // What is over cannot be resigned from again.
    world.store.resign(first).await.unwrap();
    world.store.resign(Term(second.0 + 1)).await.unwrap();
    assert_eq!(lead(&world, one, 2).await, None);
    assert_eq!(lead(&world, other, 2).await, Some(second));
}

pub async fn terms_never_repeat(world: World) {
    let (one, other) = vacant(&world).await;
    let mut seen = HashSet::from([world.term]);
    let mut last = world.term;
    for n in 0..6 {
        let who = if n % 2 == 0 { one } else { other };
        let term = lead(&world, who, n * 10).await.unwrap();
        assert_eq!(term, Term(last.0 + 1));
        assert!(seen.insert(term));
        last = term;
    }
    // Not even for one who leads again after itself.
    world.store.resign(last).await.unwrap();
    assert_eq!(lead(&world, other, 50).await, Some(Term(last.0 + 1)));
}

pub async fn of_many_who_want_to_lead_one_does(world: World) {
    vacant(&world).await;
    let world = Arc::new(world);
    let candidates: Vec<_> = (0..8)
        .map(|_| {
            let world = Arc::clone(&world);
            tokio::spawn(async move { lead(&world, WorkerId::generate(), 0).await })
        })
        .collect();
    let mut leaders = Vec::new();
    for candidate in candidates {
        leaders.extend(candidate.await.unwrap());
    }
    assert_eq!(leaders.len(), 1);
}

/// Each operation that names a term is tried under one that is over, when it would have something
/// to do.
pub async fn a_stale_term_writes_nothing(world: World) {
    let scheduled = world.task_in(TaskState::Scheduled).await;
    let running = world.task_in(TaskState::Running).await;
    let completed = world.task_in(TaskState::Completed).await;
    let stale = world.term;
    world.store.resign(stale).await.unwrap();
    let term = lead(&world, WorkerId::generate(), 0).await.unwrap();
    for old in [stale, Term(0), Term(term.0 + 1)] {
        let due = world.store.promote_due(old, at(1000), 10).await;
        assert_eq!(due, Err(StoreError::Deposed));
        let lapsed = world.store.lapsed(old, at(1000), 10).await;
        assert_eq!(lapsed, Err(StoreError::Deposed));
        let resolution = Resolution {
            id: running.id,
            run_lease: running.run_lease,
            next: Next::HandBack,
            detail: "a stale leader thinks so".into(),
        };
        let resolved = world.store.resolve_lapsed(Some(old), &[resolution], at(5)).await;
        assert_eq!(resolved, Err(StoreError::Deposed));
        let upkeep = world.store.upkeep(Some(old), at(1_000_000), Duration::ZERO).await;
        assert_eq!(upkeep, Err(StoreError::Deposed));
    }
    for task in [scheduled, running, completed] {
        assert_eq!(world.get(task.id).await, task);
    }
    let alive = world.store.heartbeat(world.worker, at(9)).await.unwrap();
    assert!(alive, "the stale leader's look marked no worker");
    // The same under the term that holds.
    assert_eq!(world.store.promote_due(term, at(1000), 10).await.unwrap().len(), 1);
    assert_eq!(world.store.lapsed(term, at(1000), 10).await.unwrap().len(), 1);
}
