use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::FutureExt as _;

use super::*;

fn of(concurrency: usize) -> Arc<Admission> {
    Admission::new(concurrency, usize::MAX)
}

fn claim_of(admission: &Arc<Admission>, tenant: &str, name: &str) -> InFlight {
    let (tenant, name) = (TenantId::new(tenant).unwrap(), TaskType::new(name).unwrap());
    let lane = admission.lock().claimed(&tenant, &name);
    InFlight { admission: Arc::clone(admission), lane, stage: Stage::Claimed, granted: None }
}

fn claim(admission: &Arc<Admission>, name: &str) -> InFlight {
    claim_of(admission, "t", name)
}

/// A task that gets a permit now.
fn take(admission: &Arc<Admission>, name: &str) -> Option<InFlight> {
    let mut task = claim(admission, name);
    (task.start().now_or_never() == Some(true)).then_some(task)
}

fn take_slow(admission: &Arc<Admission>, name: &str, most: usize) -> Vec<InFlight> {
    let taken = std::iter::from_fn(|| take(admission, name)).take(most);
    let mut taken: Vec<_> = taken.collect();
    taken.iter_mut().for_each(InFlight::mark_slow);
    taken
}

fn spawn(admission: &Arc<Admission>, name: &str) -> tokio::task::JoinHandle<Option<InFlight>> {
    let mut task = claim(admission, name);
    tokio::spawn(async move { task.start().await.then_some(task) })
}

/// Lets a lane's average be this.
fn teach(admission: &Arc<Admission>, name: &str, time: Duration) {
    let task = claim(admission, name);
    for _ in 0..5_000 {
        admission.lock().observe(&task.lane, time);
    }
}

fn fetch(admission: &Arc<Admission>) -> Fetch {
    admission.lock().fetch()
}

fn room_of(admission: &Arc<Admission>, name: &str) -> usize {
    let (tenant, name) = (TenantId::new("t").unwrap(), TaskType::new(name).unwrap());
    let fetch = fetch(admission);
    fetch.lanes.of(&name, &tenant).min(fetch.max)
}

fn limit(admission: &Arc<Admission>) -> usize {
    admission.lock().limit()
}

#[tokio::test]
async fn quick_attempts_are_claimed_ahead_and_slow_ones_are_not() {
    let admission = of(100);
    assert_eq!(limit(&admission), 100);
    teach(&admission, "quick", Duration::from_micros(50));
    assert_eq!(limit(&admission), 800);
    let claimed: Vec<_> = (0..750).map(|_| claim(&admission, "quick")).collect();
    assert_eq!(room_of(&admission, "quick"), 50);
    drop(claimed);
    let lane = claim(&admission, "quick").lane.clone();
    for _ in 0..500 {
        admission.lock().observe(&lane, Duration::from_secs(1));
    }
    assert!((100..130).contains(&limit(&admission)), "{}", limit(&admission));
}

#[tokio::test]
async fn permits_that_slow_attempts_hold_are_not_counted_on() {
    let admission = of(40);
    teach(&admission, "quick", Duration::from_micros(50));
    assert_eq!(limit(&admission), 320);
    let some = take_slow(&admission, "slow", 20);
    assert_eq!(limit(&admission), 8 * 20);
    let all = take_slow(&admission, "slow", 20);
    // The overflow of ten is for others.
    assert_eq!(limit(&admission), 8 * 10);
    drop((some, all));
    assert_eq!(limit(&admission), 320);
}

#[tokio::test]
async fn a_lane_alone_has_all_the_usual_permits_and_little_of_the_overflow() {
    let admission = of(64);
    let slow = take_slow(&admission, "slow", usize::MAX);
    assert_eq!(slow.len(), 64);
    let other = take_slow(&admission, "other", usize::MAX);
    assert_eq!(other.len(), 4, "a quarter of the overflow of sixteen");
}

#[tokio::test]
async fn the_last_permits_of_the_overflow_are_for_quick_lanes() {
    let admission = of(64);
    teach(&admission, "quick", Duration::from_millis(2));
    let _usual = take_slow(&admission, "slow", usize::MAX);
    let lanes = (0..8).map(|n| take_slow(&admission, &format!("lane_{n}"), usize::MAX));
    let lanes: Vec<_> = lanes.collect();
    let taken: Vec<_> = lanes.iter().map(Vec::len).collect();
    assert_eq!(taken, [4, 4, 4, 0, 0, 0, 0, 0]);
    assert_eq!(room_of(&admission, "late"), 0, "nobody is claimed who could not begin");
    assert!(room_of(&admission, "quick") >= 4);
    let quick: Vec<_> = std::iter::from_fn(|| take(&admission, "quick")).collect();
    assert_eq!(quick.len(), 4);
}

#[tokio::test]
async fn a_worker_of_one_permit_has_no_overflow() {
    let admission = of(1);
    let permit = take_slow(&admission, "slow", usize::MAX);
    assert_eq!(permit.len(), 1);
    assert!(take(&admission, "other").is_none());
    assert_eq!(fetch(&admission).max, 0);
}

#[tokio::test]
async fn there_are_no_more_permits_than_instances() {
    let admission = Admission::new(2_000, 1_000);
    assert_eq!(take_slow(&admission, "slow", usize::MAX).len(), 800);
    assert!(take(&admission, "other").is_some());
}

#[tokio::test]
async fn a_lane_is_not_claimed_while_only_slow_attempts_could_make_room() {
    let admission = of(4);
    let mut busy: Vec<_> = std::iter::from_fn(|| take(&admission, "busy")).collect();
    assert_eq!(busy.len(), 4);
    assert!(!fetch(&admission).is_limited(), "they may be over in a moment");
    busy.iter_mut().for_each(InFlight::mark_slow);
    assert_eq!(room_of(&admission, "busy"), 0);
    assert!(room_of(&admission, "other") > 0);
    busy.pop();
    assert_eq!(room_of(&admission, "busy"), 1);
    let claimed = claim(&admission, "busy");
    assert_eq!(room_of(&admission, "busy"), 0, "one is on its way to the permit");
    drop(claimed);
    assert_eq!(room_of(&admission, "busy"), 1);
}

#[tokio::test]
async fn a_tenant_whose_slow_attempts_fill_a_worker_leaves_room_for_others_of_the_type() {
    let admission = of(8);
    let _busy = take_slow(&admission, "both", usize::MAX);
    assert_eq!(room_of(&admission, "both"), 0);
    let fetch = fetch(&admission);
    let (other, both) = (TenantId::new("other").unwrap(), TaskType::new("both").unwrap());
    assert!(fetch.max > 0 && fetch.lanes.of(&both, &other) > 0);
    assert!(claim_of(&admission, "other", "both").start().await);
}

#[tokio::test]
async fn of_a_slow_lane_as_many_are_claimed_as_will_get_permits_in_time() {
    let admission = of(32);
    // In 20 ms sixteen of 32 attempts end.
    teach(&admission, "even", Duration::from_millis(40));
    let _running = take_slow(&admission, "even", usize::MAX);
    assert_eq!(room_of(&admission, "even"), 16);
    let mut claimed: Vec<_> = (0..8).map(|_| claim(&admission, "even")).collect();
    assert_eq!(room_of(&admission, "even"), 8);
    claimed.push(claim(&admission, "even"));
    assert_eq!(room_of(&admission, "even"), 0, "until there is room for half as many again");
}

#[tokio::test]
async fn many_slow_lanes_together_are_claimed_no_more_than_one() {
    let admission = of(32);
    let lanes: Vec<_> = (0..16).map(|n| format!("lane_{n}")).collect();
    for name in &lanes {
        teach(&admission, name, Duration::from_millis(40));
    }
    let _running: Vec<_> = lanes.iter().map(|name| take_slow(&admission, name, 2)).collect();
    let rooms = lanes.iter().map(|name| room_of(&admission, name));
    assert_eq!(rooms.sum::<usize>(), 16);
}

#[tokio::test]
async fn a_slow_lane_is_claimed_for_its_share_of_the_overflow() {
    let admission = of(64);
    let _usual = take_slow(&admission, "busy", usize::MAX);
    teach(&admission, "slow", Duration::from_secs(2));
    let _one = take_slow(&admission, "slow", 1);
    assert_eq!((room_of(&admission, "busy"), room_of(&admission, "slow")), (0, 3));
}

#[tokio::test]
async fn one_long_attempt_of_a_quick_lane_is_forgotten_soon() {
    let admission = of(32);
    teach(&admission, "quick", Duration::from_millis(1));
    let _two = take_slow(&admission, "quick", 2);
    let task = take(&admission, "quick").unwrap();
    admission.lock().observe(&task.lane, Duration::from_secs(3_600));
    for _ in 0..24 {
        admission.lock().observe(&task.lane, Duration::from_millis(1));
    }
    assert!(room_of(&admission, "quick") > 29, "so many are free, and the quick one ends soon");
}

#[tokio::test]
async fn tasks_that_wait_behind_slow_attempts_keep_no_others_from_being_claimed() {
    let admission = of(64);
    let _usual = take_slow(&admission, "first", usize::MAX);
    let _share = take_slow(&admission, "second", usize::MAX);
    let room = room_of(&admission, "third");
    assert!(room > 0);
    let waiters: Vec<_> =
        (0..222).flat_map(|_| [spawn(&admission, "first"), spawn(&admission, "second")]).collect();
    tokio::task::yield_now().await;
    assert_eq!(room_of(&admission, "third"), room);
    assert_eq!((room_of(&admission, "first"), room_of(&admission, "second")), (0, 0));
    for waiter in waiters {
        assert!(waiter.await.unwrap().is_none(), "it goes back");
    }
    assert!(take(&admission, "third").is_some());
}

#[tokio::test]
async fn tasks_that_wait_for_their_code_keep_no_others_from_being_claimed() {
    let admission = of(4);
    let mut claimed: Vec<_> = (0..4).map(|_| claim(&admission, "cold")).collect();
    assert_eq!(fetch(&admission).max, 0);
    claimed.iter_mut().for_each(InFlight::wait_for_code);
    let fetch_now = fetch(&admission);
    assert_eq!(fetch_now.max, 4);
    assert_eq!(fetch_now.not_ready, HashSet::from([TaskType::new("cold").unwrap()]));
    for task in &mut claimed {
        assert!(task.start().await);
    }
    assert_eq!(fetch(&admission).not_ready, HashSet::new());
    drop(claimed);
    assert_eq!(admission.lock().in_flight(), 0);
}

#[tokio::test]
async fn a_lane_whose_permits_in_the_overflow_are_quick_is_claimed() {
    let admission = of(32);
    let _many = take_slow(&admission, "many", 32);
    let mut few: Vec<_> = std::iter::from_fn(|| take(&admission, "few")).collect();
    assert_eq!(few.len(), 2);
    few[0].mark_slow();
    assert_eq!(room_of(&admission, "many"), 0);
    assert!(room_of(&admission, "few") > 0);
}

#[tokio::test]
async fn a_task_that_waits_behind_slow_ones_of_its_lane_is_sent_away() {
    let admission = of(8);
    let slow = take_slow(&admission, "slow", 8);
    let (room, waiter) = (fetch(&admission).max, spawn(&admission, "slow"));
    tokio::task::yield_now().await;
    assert_eq!(fetch(&admission).max, room);
    assert!(waiter.await.unwrap().is_none());
    assert_eq!(fetch(&admission).max, room);
    drop(slow);
    assert!(take(&admission, "slow").is_some());
}

#[tokio::test]
async fn a_task_that_waits_behind_quick_ones_waits_for_its_turn() {
    let admission = of(1);
    let quick = take(&admission, "quick").unwrap();
    let waiter = spawn(&admission, "quick");
    tokio::time::sleep(5 * BLOCKED).await;
    assert!(!waiter.is_finished());
    drop(quick);
    assert!(waiter.await.unwrap().is_some());
}

#[tokio::test]
async fn lanes_take_turns() {
    let admission = of(1);
    let first = take(&admission, "a").unwrap();
    let (order, mut came) = tokio::sync::mpsc::unbounded_channel();
    for name in ["a", "a", "a", "b", "b"] {
        let (waiter, order) = (spawn(&admission, name), order.clone());
        tokio::task::yield_now().await;
        tokio::spawn(async move {
            let permit = waiter.await.unwrap();
            order.send(name).unwrap();
            drop(permit);
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
    let admission = of(1);
    let first = take(&admission, "a").unwrap();
    for name in ["a", "b"] {
        let waiter = spawn(&admission, name);
        tokio::task::yield_now().await;
        waiter.abort();
        assert!(waiter.await.is_err());
    }
    drop(first);
    assert!(admission.lock().is_empty());
}

#[tokio::test]
async fn a_fetch_waits_for_room_and_hears_of_it() {
    let admission = of(4);
    let mut running: Vec<_> = std::iter::from_fn(|| take(&admission, "t")).collect();
    assert_eq!(running.len(), 4);
    let waiting = {
        let admission = Arc::clone(&admission);
        tokio::spawn(async move { admission.fetch(false).await.max })
    };
    tokio::time::sleep(BLOCKED).await;
    assert!(!waiting.is_finished());
    running.pop();
    assert_eq!(waiting.await.unwrap(), 1);
    let slow = {
        let admission = Arc::clone(&admission);
        tokio::spawn(async move { admission.fetch(false).await })
    };
    running.push(claim(&admission, "t"));
    tokio::task::yield_now().await;
    running[0].mark_slow();
    assert!(slow.await.unwrap().max > 0, "the overflow is for others");
}

/// Permits are neither lost nor given twice, whoever comes, waits, stops waiting or goes, on
/// several threads.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn whatever_happens_no_permit_is_lost_or_given_twice() {
    let admission = of(3);
    let running = Arc::new(AtomicUsize::new(0));
    let tasks: Vec<_> = (0..4_000)
        .map(|n| {
            let (admission, running) = (Arc::clone(&admission), Arc::clone(&running));
            tokio::spawn(async move {
                let mut task = claim(&admission, ["a", "b", "c"][n % 3]);
                if n % 7 == 0 {
                    task.wait_for_code();
                }
                let limit = Duration::from_micros(fastrand::u64(0..400));
                let started = tokio::time::timeout(limit, task.start()).await;
                if started == Ok(true) {
                    assert!(running.fetch_add(1, Ordering::SeqCst) < 3);
                    tokio::time::sleep(Duration::from_micros(fastrand::u64(0..100))).await;
                    running.fetch_sub(1, Ordering::SeqCst);
                    task.end(Some(Duration::from_micros(50)));
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    assert!(admission.lock().is_empty());
}

#[tokio::test]
async fn quick_lanes_do_not_spend_the_room_of_slow_ones() {
    let admission = of(2);
    teach(&admission, "slow", Duration::from_millis(60));
    let _slow = take_slow(&admission, "slow", 2);
    let fetch = fetch(&admission);
    assert_eq!((fetch.max, fetch.lanes.takes_others()), (1, false), "one ends in time");
    let admission = of(256);
    teach(&admission, "slow", Duration::from_secs(2));
    let _one = take_slow(&admission, "slow", 1);
    // 255, and as many more as attempts of 80 ms let begin within 20 ms.
    assert_eq!(admission.lock().fetch().max, 255 + 63, "permits are counted once");
}

#[tokio::test]
async fn a_slow_lane_whose_attempts_are_not_committed_is_not_claimed() {
    let admission = of(8);
    teach(&admission, "slow", Duration::from_secs(2));
    let mut running = take_slow(&admission, "slow", usize::MAX);
    running.iter_mut().for_each(|task| task.end(None));
    assert_eq!(room_of(&admission, "slow"), 0);
    drop(running);
    assert!(room_of(&admission, "slow") >= 8);
}

#[tokio::test]
async fn an_attempt_that_was_stopped_before_it_began_says_nothing_about_its_lane() {
    let admission = of(4);
    teach(&admission, "slow", Duration::from_secs(2));
    for _ in 0..100 {
        claim(&admission, "slow").end(Some(Duration::ZERO));
    }
    let _running = take_slow(&admission, "slow", usize::MAX);
    assert_eq!(room_of(&admission, "slow"), 0);
}

#[tokio::test]
async fn lanes_that_are_not_known_get_all_the_overflow_beside_quick_ones() {
    let admission = of(64);
    let _usual: Vec<_> = (0..4)
        .flat_map(|n| (0..16).map(move |_| n))
        .map(|n| take(&admission, &format!("lane_{n}")).unwrap())
        .collect();
    let others = (4..8).map(|n| take_slow(&admission, &format!("lane_{n}"), usize::MAX).len());
    assert_eq!(others.sum::<usize>(), 16);
}
