use std::time::Duration;

use super::{
    held::{BLOCKED, Waiting},
    state::Sums,
    *,
};

fn tenant(name: &str) -> TenantId {
    TenantId::new(name).unwrap()
}

fn task_type(name: &str) -> TaskType {
    TaskType::new(name).unwrap()
}

fn places_of(concurrency: usize) -> Arc<Places> {
    Places::new(concurrency, usize::MAX)
}

/// A place that is free now.
fn take(places: &Arc<Places>, name: &str) -> Option<Place> {
    let lane = (tenant("t"), task_type(name));
    match places.try_enter(&lane, false) {
        Ok(place) => Some(place),
        Err((ticket, _)) => {
            drop(Waiting { places, lane: &lane, ticket });
            None
        }
    }
}

fn take_slow(places: &Arc<Places>, name: &str, most: usize) -> Vec<Place> {
    let taken = std::iter::from_fn(|| take(places, name)).take(most);
    let mut taken: Vec<_> = taken.collect();
    for place in &mut taken {
        place.mark_slow();
    }
    taken
}

fn spawn(places: &Arc<Places>, name: &str) -> tokio::task::JoinHandle<Option<Place>> {
    let mut slot = hold(places, name);
    tokio::spawn(async move { slot.enter().await })
}

fn hold(places: &Arc<Places>, name: &str) -> Slot {
    places.hold(&tenant("t"), &task_type(name))
}

fn closed(names: &[&str]) -> Crowd {
    Crowd { closed: names.iter().map(|name| task_type(name)).collect(), ..Crowd::default() }
}

/// Lets a lane's average be this.
fn teach(places: &Arc<Places>, name: &str, time: Duration) {
    let place = take(places, name).unwrap();
    for _ in 0..5_000 {
        place.observe(time);
    }
}

#[test]
fn quick_attempts_let_a_worker_hold_more_and_slow_ones_do_not() {
    let places = places_of(100);
    assert_eq!(places.limit(), 100);
    let place = take(&places, "quick").unwrap();
    for _ in 0..5_000 {
        place.observe(Duration::from_micros(50));
    }
    assert_eq!(places.limit(), 800);
    for _ in 0..500 {
        place.observe(Duration::from_secs(1));
    }
    assert!((100..130).contains(&places.limit()), "{}", places.limit());
}

#[test]
fn what_slow_attempts_occupy_is_not_counted_on() {
    let places = places_of(40);
    teach(&places, "quick", Duration::from_micros(50));
    assert_eq!(places.limit(), 320);
    let some = take_slow(&places, "slow", 20);
    assert_eq!(places.limit(), 20 + 8 * 20);
    let all = take_slow(&places, "slow", 20);
    // The reserve of ten is for others.
    assert_eq!(places.limit(), 40 + 8 * 10);
    drop((some, all));
    assert_eq!(places.limit(), 320);
}

#[test]
fn a_lane_alone_has_all_the_usual_places_and_little_of_the_reserve() {
    let places = places_of(64);
    let slow = take_slow(&places, "slow", usize::MAX);
    assert_eq!(slow.len(), 64);
    let other = take_slow(&places, "other", usize::MAX);
    assert_eq!(other.len(), 4, "a quarter of the reserve of sixteen");
}

#[test]
fn the_last_places_of_the_reserve_are_for_lanes_that_are_quick() {
    let places = places_of(64);
    teach(&places, "quick", Duration::from_millis(2));
    let _usual = take_slow(&places, "slow", usize::MAX);
    let lanes = (0..8).map(|n| take_slow(&places, &format!("lane_{n}"), usize::MAX));
    let lanes: Vec<_> = lanes.collect();
    let taken: Vec<_> = lanes.iter().map(Vec::len).collect();
    assert_eq!(taken, [4, 4, 4, 0, 0, 0, 0, 0]);
    let quick: Vec<_> = std::iter::from_fn(|| take(&places, "quick")).collect();
    assert_eq!(quick.len(), 4);
}

#[test]
fn a_worker_of_one_place_has_no_reserve() {
    let places = places_of(1);
    let place = take_slow(&places, "slow", usize::MAX);
    assert_eq!(place.len(), 1);
    assert!(take(&places, "other").is_none());
    assert_eq!(places.limit(), 1);
}

#[test]
fn there_are_no_more_places_than_instances() {
    let places = Places::new(2_000, 1_000);
    assert_eq!(take_slow(&places, "slow", usize::MAX).len(), 800);
    assert!(take(&places, "other").is_some());
}

#[test]
fn a_type_is_closed_while_only_slow_attempts_could_make_room() {
    let places = places_of(4);
    let mut busy: Vec<_> = std::iter::from_fn(|| take(&places, "busy")).collect();
    assert_eq!(busy.len(), 4);
    assert_eq!(places.crowd(), Crowd::default(), "they may be over in a moment");
    for place in &mut busy {
        place.mark_slow();
    }
    assert_eq!(places.crowd(), closed(&["busy"]));
    busy.pop();
    let one = Crowd { tight: vec![(task_type("busy"), 1)], ..Crowd::default() };
    assert_eq!(places.crowd(), one);
    let slot = hold(&places, "busy");
    assert_eq!(places.crowd(), closed(&["busy"]), "one is on its way to the place");
    drop(slot);
    assert_eq!(places.crowd(), one);
}

#[test]
fn of_a_slow_lane_as_many_are_claimed_as_will_find_places_in_time() {
    let places = places_of(32);
    // In 20 ms sixteen of 32 attempts end.
    teach(&places, "even", Duration::from_millis(40));
    let _running = take_slow(&places, "even", usize::MAX);
    let room = || places.crowd().tight[0].1;
    assert_eq!(room(), 16);
    let mut slots: Vec<_> = (0..8).map(|_| hold(&places, "even")).collect();
    assert_eq!(room(), 8);
    slots.push(hold(&places, "even"));
    assert_eq!(places.crowd(), closed(&["even"]), "until there is room for half as many again");
}

#[test]
fn many_slow_lanes_together_are_claimed_no_more_than_one() {
    let places = places_of(32);
    let lanes: Vec<_> = (0..16).map(|n| format!("lane_{n}")).collect();
    for name in &lanes {
        teach(&places, name, Duration::from_millis(40));
    }
    let _running: Vec<_> = (lanes.iter()).map(|name| take_slow(&places, name, 2)).collect();
    let crowd = places.crowd();
    assert_eq!(crowd.tight.len(), 16);
    assert_eq!(crowd.tight.iter().map(|(_, room)| room).sum::<usize>(), 16, "{crowd:?}");
}

#[test]
fn a_slow_lane_is_claimed_for_its_share_of_the_reserve() {
    let places = places_of(64);
    let _usual = take_slow(&places, "busy", usize::MAX);
    teach(&places, "slow", Duration::from_secs(2));
    let _one = take_slow(&places, "slow", 1);
    let crowd = places.crowd();
    assert_eq!(crowd.closed, [task_type("busy")]);
    assert_eq!(crowd.tight, [(task_type("slow"), 3)]);
}

#[tokio::test]
async fn a_lane_that_was_sent_away_is_claimed_no_further_than_there_are_places_for_it() {
    let places = places_of(64);
    let _usual = take_slow(&places, "busy", usize::MAX);
    let mut lanes: Vec<_> =
        (0..3).map(|n| take_slow(&places, &format!("lane_{n}"), usize::MAX)).collect();
    let late = spawn(&places, "late");
    assert!(late.await.unwrap().is_none());
    let late = task_type("late");
    assert!(places.crowd().closed.contains(&late));
    lanes[2].pop();
    assert_eq!(places.crowd().tight, [(late.clone(), 1)]);
    lanes.pop();
    assert_eq!(places.crowd().tight, [(late.clone(), 4)]);
    let slot = hold(&places, "late");
    assert_eq!(places.crowd().tight, [(late, 3)]);
    let _runs = take(&places, "late").unwrap();
    drop(slot);
    assert_eq!(places.crowd().tight, [], "it is like any other");
}

#[tokio::test]
async fn a_lane_that_was_sent_away_and_never_came_back_is_forgotten() {
    let places = places_of(64);
    let mut busy = take_slow(&places, "busy", usize::MAX);
    let _lanes: Vec<_> =
        (0..3).map(|n| take_slow(&places, &format!("lane_{n}"), usize::MAX)).collect();
    assert!(spawn(&places, "late").await.unwrap().is_none());
    let knows_late = || {
        let (crowd, late) = (places.crowd(), task_type("late"));
        crowd.closed.contains(&late) || crowd.tight.iter().any(|(name, _)| *name == late)
    };
    busy.truncate(52);
    assert!(knows_late(), "64 of 64 usual places are taken");
    busy.pop();
    assert!(!knows_late());
    busy.extend(take_slow(&places, "busy", 1));
    assert!(!knows_late());
}

#[tokio::test]
async fn a_tenant_that_was_sent_away_does_not_close_a_type_for_others() {
    let places = places_of(64);
    let other = (tenant("other"), task_type("both"));
    teach(&places, "both", Duration::from_millis(2));
    let _usual = take_slow(&places, "busy", usize::MAX);
    let _lanes: Vec<_> =
        (0..3).map(|n| take_slow(&places, &format!("lane_{n}"), usize::MAX)).collect();
    let mut late = places.hold(&other.0, &other.1);
    assert!(late.enter().await.is_none());
    assert!(places.crowd().closed.contains(&other.1));
    let _quick = take(&places, "both").unwrap();
    assert_eq!(places.crowd().tight, [(other.1, 1)]);
}

#[tokio::test]
async fn whoever_gets_in_line_behind_slow_attempts_makes_room_at_once() {
    let places = places_of(4);
    teach(&places, "slow", Duration::from_secs(2));
    let _running: Vec<_> = std::iter::from_fn(|| take(&places, "slow")).collect();
    let mut slots: Vec<_> =
        std::iter::from_fn(|| (places.free_now() > 0).then(|| hold(&places, "slow"))).collect();
    // What was freed before.
    places.freed().await;
    let free = {
        let places = places.clone();
        tokio::spawn(async move { places.free().await })
    };
    tokio::task::yield_now().await;
    assert!(!free.is_finished());
    let mut last = slots.pop().unwrap();
    let line = tokio::spawn(async move { last.enter().await });
    let freed = tokio::time::timeout(BLOCKED / 2, free);
    assert!(freed.await.expect("at once").unwrap() > 0);
    line.abort();
}

#[test]
fn one_long_attempt_of_a_quick_lane_is_forgotten_soon() {
    let places = places_of(32);
    teach(&places, "quick", Duration::from_millis(1));
    let _two = take_slow(&places, "quick", 2);
    let place = take(&places, "quick").unwrap();
    place.observe(Duration::from_secs(3_600));
    for _ in 0..24 {
        place.observe(Duration::from_millis(1));
    }
    let room = places.crowd().tight[0].1;
    assert!(room > 29, "so many are free, and the quick one ends soon");
}

#[tokio::test]
async fn what_begins_behind_slow_attempts_does_not_keep_others_from_being_claimed() {
    let places = places_of(32);
    teach(&places, "slow", Duration::from_secs(2));
    let mut slow = take_slow(&places, "slow", usize::MAX);
    let slots: Vec<_> = (0..32).map(|_| hold(&places, "slow")).collect();
    let free = places.free_now();
    assert!(free >= 8, "the reserve: {free}");
    // Most end, and others of the lane begin, which have not run for long enough to be slow.
    slow.truncate(2);
    let fresh: Vec<_> = std::iter::from_fn(|| take(&places, "slow")).collect();
    assert_eq!(fresh.len(), 30);
    let waiters: Vec<_> = (0..20).map(|_| spawn(&places, "slow")).collect();
    while places.lock().lanes.values().map(|lane| lane.waiting.len()).sum::<usize>() < waiters.len()
    {
        tokio::task::yield_now().await;
    }
    assert_eq!(places.free_now(), free);
    assert_eq!(places.crowd(), closed(&["slow"]));
    drop(slots);
}

#[test]
fn the_reserve_is_not_counted_on_once_slow_attempts_have_it() {
    let places = places_of(64);
    let _usual = take_slow(&places, "slow", usize::MAX);
    let lanes: Vec<_> =
        (0..4).map(|n| take_slow(&places, &format!("lane_{n}"), usize::MAX)).collect();
    assert_eq!(lanes.iter().map(Vec::len).sum::<usize>(), 12, "the rest is for quick ones");
    assert_eq!(places.limit(), 80);
}

#[tokio::test]
async fn two_lanes_of_slow_attempts_do_not_hold_what_a_third_could_use() {
    let places = places_of(64);
    teach(&places, "quick", Duration::from_micros(50));
    let (_first, _second) =
        (take_slow(&places, "first", usize::MAX), take_slow(&places, "second", usize::MAX));
    let slots: Vec<_> = (0..64).map(|_| hold(&places, "first")).collect();
    let waiters: Vec<_> =
        (0..222).flat_map(|_| [spawn(&places, "first"), spawn(&places, "second")]).collect();
    let waiting = || places.lock().lanes.values().map(|lane| lane.waiting.len()).sum::<usize>();
    while waiting() < waiters.len() {
        tokio::task::yield_now().await;
    }
    assert!(places.free_now() > 0, "their excess counts for nothing");
    let mut crowd = places.crowd();
    crowd.closed.sort();
    assert_eq!(crowd, closed(&["first", "second"]));
    for waiter in waiters {
        assert!(waiter.await.unwrap().is_none(), "it goes back");
    }
    drop(slots);
    assert!(take(&places, "third").is_some());
}

#[test]
fn what_waits_for_its_code_is_no_reason_to_claim_nothing() {
    let places = places_of(4);
    let slots: Vec<_> = (0..4).map(|_| hold(&places, "cold")).collect();
    assert_eq!(places.free_now(), 0);
    let aside: Vec<_> = slots.iter().map(Slot::set_aside).collect();
    assert_eq!((places.free_now(), places.crowd()), (4, closed(&["cold"])));
    drop(aside);
    assert_eq!(places.crowd(), Crowd::default());
    drop(slots);
    assert!(places.lock().lanes.is_empty());
}

#[test]
fn a_lane_whose_places_in_the_reserve_are_quick_is_not_closed() {
    let places = places_of(32);
    let _many = take_slow(&places, "many", 32);
    let mut few: Vec<_> = std::iter::from_fn(|| take(&places, "few")).collect();
    assert_eq!(few.len(), 2);
    few[0].mark_slow();
    assert_eq!(places.crowd(), closed(&["many"]));
}

#[tokio::test]
async fn a_task_that_waits_behind_slow_ones_of_its_lane_is_sent_away() {
    let places = places_of(8);
    let slow = take_slow(&places, "slow", 8);
    let (free, waiter) = (places.free_now(), spawn(&places, "slow"));
    tokio::task::yield_now().await;
    assert_eq!(places.free_now(), free, "it is held for nothing");
    assert!(waiter.await.unwrap().is_none());
    assert_eq!(places.free_now(), free);
    drop(slow);
    assert!(take(&places, "slow").is_some());
}

#[tokio::test]
async fn a_task_that_waits_behind_quick_ones_waits_for_its_turn() {
    let places = places_of(1);
    let quick = take(&places, "quick").unwrap();
    let waiter = spawn(&places, "quick");
    tokio::time::sleep(5 * BLOCKED).await;
    assert!(!waiter.is_finished());
    drop(quick);
    assert!(waiter.await.unwrap().is_some());
}

#[tokio::test]
async fn lanes_take_turns() {
    let places = places_of(1);
    let first = take(&places, "a").unwrap();
    let (order, mut came) = tokio::sync::mpsc::unbounded_channel();
    for name in ["a", "a", "a", "b", "b"] {
        let (waiter, order) = (spawn(&places, name), order.clone());
        tokio::task::yield_now().await;
        tokio::spawn(async move {
            let place = waiter.await.unwrap();
            order.send(name).unwrap();
            drop(place);
        });
    }
    tokio::task::yield_now().await;
    drop((first, order));
    let mut names = Vec::new();
    while let Some(name) = came.recv().await {
        names.push(name);
    }
    assert_eq!(names, ["a", "b", "a", "b", "a"]);
}

#[tokio::test]
async fn who_stops_waiting_leaves_nothing_behind() {
    let places = places_of(1);
    let first = take(&places, "a").unwrap();
    for name in ["a", "b"] {
        let waiter = spawn(&places, name);
        tokio::task::yield_now().await;
        waiter.abort();
        assert!(waiter.await.is_err());
    }
    drop(first);
    let state = places.lock();
    assert_eq!(state.sums, Sums::default());
    assert_eq!((state.held, state.lanes.len(), state.turns.len()), (0, 0, 0));
}
