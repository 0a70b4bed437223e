use super::*;

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
    match places.try_enter(&lane) {
        Ok(place) => Some(place),
        Err((ticket, _)) => {
            drop(Waiting {
                places,
                lane: &lane,
                ticket,
            });
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
    let (places, name) = (places.clone(), task_type(name));
    tokio::spawn(async move { places.enter(&tenant("t"), &name).await })
}

#[test]
fn quick_attempts_let_a_worker_hold_more_and_slow_ones_do_not() {
    let places = places_of(100);
    assert_eq!(places.limit(), 100);
    let place = take(&places, "quick").unwrap();
    for _ in 0..5_000 {
        place.observe(Duration::from_micros(50), Effort::default());
    }
    assert_eq!(places.limit(), 800);
    for _ in 0..500 {
        place.observe(Duration::from_secs(1), Effort::default());
    }
    assert!((100..130).contains(&places.limit()), "{}", places.limit());
}

#[test]
fn what_slow_attempts_occupy_is_not_counted_on() {
    let places = places_of(40);
    let place = take(&places, "quick").unwrap();
    for _ in 0..5_000 {
        place.observe(Duration::from_micros(50), Effort::default());
    }
    drop(place);
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
    let lanes = (0..4).map(|n| take_slow(&places, &format!("lane_{n}"), usize::MAX));
    let lanes: Vec<_> = lanes.collect();
    assert_eq!(lanes.iter().map(Vec::len).collect::<Vec<_>>(), [4, 4, 4, 0]);
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
    for place in &mut busy {
        assert!(places.closed().is_empty(), "others may be over in a moment");
        place.mark_slow();
    }
    assert_eq!(places.closed(), [task_type("busy")]);
    busy.pop();
    assert!(places.closed().is_empty());
}

#[test]
fn the_reserve_is_not_counted_on_once_slow_attempts_have_it() {
    let places = places_of(64);
    let _usual = take_slow(&places, "slow", usize::MAX);
    let lanes: Vec<_> = (0..4)
        .map(|n| take_slow(&places, &format!("lane_{n}"), usize::MAX))
        .collect();
    assert_eq!(lanes.iter().map(Vec::len).sum::<usize>(), 16);
    assert_eq!(places.limit(), 80);
}

#[tokio::test]
async fn two_lanes_of_slow_attempts_do_not_hold_what_a_third_could_use() {
    let places = places_of(64);
    let place = take(&places, "quick").unwrap();
    for _ in 0..5_000 {
        place.observe(Duration::from_micros(50), Effort::default());
    }
    drop(place);
    let (_first, _second) = (
        take_slow(&places, "first", usize::MAX),
        take_slow(&places, "second", usize::MAX),
    );
    let slots: Vec<_> = (0..512).map(|_| places.hold()).collect();
    let waiters: Vec<_> = (0..222)
        .flat_map(|_| [spawn(&places, "first"), spawn(&places, "second")])
        .collect();
    let waiting = || {
        places
            .lock()
            .lanes
            .values()
            .map(|lane| lane.waiting.len())
            .sum::<usize>()
    };
    while waiting() < waiters.len() {
        tokio::task::yield_now().await;
    }
    assert!(places.free_now() > 0, "their excess counts for nothing");
    let mut closed = places.closed();
    closed.sort();
    assert_eq!(closed, [task_type("first"), task_type("second")]);
    for waiter in waiters {
        assert!(waiter.await.unwrap().is_none(), "it goes back");
    }
    drop(slots);
    assert!(take(&places, "third").is_some());
}

#[test]
fn what_waits_for_its_code_is_no_reason_to_claim_nothing() {
    let places = places_of(4);
    let slots: Vec<_> = (0..4).map(|_| places.hold()).collect();
    assert_eq!(places.free_now(), 0);
    let (tenant, name) = (tenant("t"), task_type("cold"));
    let aside: Vec<_> = slots.iter().map(|_| places.set_aside(&tenant, &name)).collect();
    assert_eq!(
        (places.free_now(), places.closed().as_slice()),
        (4, vec![name.clone(); 1].as_slice())
    );
    drop(aside);
    assert!(places.closed().is_empty());
    assert!(places.lock().lanes.is_empty());
}

#[test]
fn a_lane_whose_places_in_the_reserve_are_quick_is_not_closed() {
    let places = places_of(32);
    let _many = take_slow(&places, "many", 32);
    let mut few: Vec<_> = std::iter::from_fn(|| take(&places, "few")).collect();
    few[0].mark_slow();
    assert_eq!(places.closed(), [task_type("many")]);
}

#[tokio::test]
async fn a_task_that_waits_behind_slow_ones_of_its_lane_is_sent_away() {
    let places = places_of(8);
    let slow = take_slow(&places, "slow", 8);
    let (limit, waiter) = (places.limit(), spawn(&places, "slow"));
    tokio::task::yield_now().await;
    assert_eq!(places.limit(), limit + 1, "it is held for nothing");
    assert!(waiter.await.unwrap().is_none());
    assert_eq!(places.limit(), limit);
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
    assert_eq!((state.running, state.lanes.len(), state.turns.len()), (0, 0, 0));
}

#[test]
fn a_lane_that_computes_for_long_begins_in_the_background() {
    let places = places_of(4);
    let (long, short) = (take(&places, "long").unwrap(), take(&places, "short").unwrap());
    assert_eq!(long.threads(), Threads::Foreground, "nothing is known yet");
    let effort = |computed, longest| Effort {
        computed: Duration::from_micros(computed),
        longest: Duration::from_micros(longest),
    };
    for _ in 0..20 {
        long.observe(Duration::from_secs(1), effort(1_000_000, 100));
        short.observe(Duration::from_secs(1), effort(50, 50));
    }
    assert_eq!(
        (long.threads(), short.threads()),
        (Threads::Background, Threads::Foreground)
    );
    for _ in 0..20 {
        long.observe(Duration::from_secs(1), effort(1_000_000, 30_000));
    }
    assert_eq!(long.threads(), Threads::Confined, "it does not give way");
    for _ in 0..200 {
        long.observe(Duration::from_secs(1), Effort::default());
    }
    assert_eq!(long.threads(), Threads::Foreground);
}
