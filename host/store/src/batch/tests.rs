use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use tokio::sync::{Semaphore, mpsc};

use super::*;

/// A writer that flushes when it is told to, and shows what it was given.
struct Gate {
    open: Arc<Semaphore>,
    seen: mpsc::UnboundedReceiver<Vec<u32>>,
}

impl Gate {
    /// Each item's answer is its double; a batch that holds a 13 is refused, and of a 99 the store
    /// is away.
    fn batcher(config: BatcherConfig) -> (Arc<Batcher<u32, u32>>, Self) {
        let open = Arc::new(Semaphore::new(0));
        let (tell, seen) = mpsc::unbounded_channel();
        let gate = Arc::clone(&open);
        let batcher = Batcher::new(config, move |items: Batch<u32>| {
            let (gate, tell) = (Arc::clone(&gate), tell.clone());
            async move {
                tell.send(items.to_vec()).unwrap();
                gate.acquire().await.unwrap().forget();
                if items.contains(&13) {
                    return Err(StoreError::Refused("thirteen".into()));
                }
                if items.contains(&99) {
                    return Err(StoreError::Unavailable("away".into()));
                }
                Ok(items.iter().map(|item| item * 2).collect())
            }
        });
        (Arc::new(batcher), Self { open, seen })
    }

    fn let_through(&self, flushes: usize) {
        self.open.add_permits(flushes);
    }

    async fn next(&mut self) -> Vec<u32> {
        tokio::time::timeout(Duration::from_secs(10), self.seen.recv()).await.unwrap().unwrap()
    }
}

fn submit(batcher: &Arc<Batcher<u32, u32>>, items: &[u32]) -> JoinHandle<StoreResult<Vec<u32>>> {
    let (batcher, items) = (Arc::clone(batcher), items.to_vec());
    tokio::spawn(async move { batcher.submit(items).await })
}

/// Lets spawned submitters run up to their wait: on the single test thread each of them runs before
/// this task goes on.
async fn settle() {
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_lone_caller_is_flushed_at_once() {
    let (batcher, mut gate) = Gate::batcher(BatcherConfig::default());
    gate.let_through(1);
    assert_eq!(batcher.submit(vec![1, 2]).await, Ok(vec![2, 4]));
    assert_eq!(gate.next().await, [1, 2]);
}

#[tokio::test]
async fn callers_that_come_during_a_flush_share_the_next() {
    let (batcher, mut gate) = Gate::batcher(BatcherConfig::default());
    let first = submit(&batcher, &[1]);
    assert_eq!(gate.next().await, [1]);
    let second = submit(&batcher, &[2, 3]);
    let third = submit(&batcher, &[4]);
    settle().await;
    gate.let_through(2);
    assert_eq!(gate.next().await, [2, 3, 4]);
    assert_eq!(first.await.unwrap(), Ok(vec![2]));
    assert_eq!(second.await.unwrap(), Ok(vec![4, 6]));
    assert_eq!(third.await.unwrap(), Ok(vec![8]));
}

#[tokio::test]
async fn a_batch_keeps_to_its_limit_and_a_larger_group_goes_alone() {
    let config = BatcherConfig { max_items: 3, ..BatcherConfig::default() };
    let (batcher, mut gate) = Gate::batcher(config);
    submit(&batcher, &[1]);
    assert_eq!(gate.next().await, [1]);
    submit(&batcher, &[2, 3]);
    submit(&batcher, &[4, 5]);
    submit(&batcher, &[6, 7, 8, 9]);
    submit(&batcher, &[10]);
    settle().await;
    gate.let_through(5);
    assert_eq!(gate.next().await, [2, 3]);
    assert_eq!(gate.next().await, [4, 5]);
    assert_eq!(gate.next().await, [6, 7, 8, 9]);
    assert_eq!(gate.next().await, [10]);
}

#[tokio::test]
async fn an_error_reaches_every_caller_of_its_flush_and_no_other() {
    let (batcher, mut gate) = Gate::batcher(BatcherConfig::default());
    let before = submit(&batcher, &[1]);
    gate.next().await;
    let with = submit(&batcher, &[2]);
    let bad = submit(&batcher, &[99]);
    settle().await;
    gate.let_through(2);
    let away = Err(StoreError::Unavailable("away".into()));
    assert_eq!(before.await.unwrap(), Ok(vec![2]));
    assert_eq!(with.await.unwrap(), away);
    assert_eq!(bad.await.unwrap(), away);
    gate.let_through(1);
    assert_eq!(batcher.submit(vec![5]).await, Ok(vec![10]));
}

#[tokio::test]
async fn what_is_refused_fails_alone_and_its_neighbours_keep_their_order() {
    let (batcher, mut gate) = Gate::batcher(BatcherConfig::default());
    let before = submit(&batcher, &[1]);
    gate.next().await;
    let groups: [&[u32]; 5] = [&[2, 3], &[4], &[13, 5], &[6], &[13]];
    let callers: Vec<_> = groups.iter().map(|group| submit(&batcher, group)).collect();
    settle().await;
    gate.let_through(20);
    before.await.unwrap().unwrap();
    for (group, caller) in groups.iter().zip(callers) {
        let expected = if group.contains(&13) {
            Err(StoreError::Refused("thirteen".into()))
        } else {
            Ok(group.iter().map(|item| item * 2).collect())
        };
        assert_eq!(caller.await.unwrap(), expected, "{group:?}");
    }
    let mut flushes = Vec::new();
    let last = submit(&batcher, &[7]);
    for _ in 0..8 {
        flushes.push(gate.next().await);
    }
    let expected: [&[u32]; 8] = [
        &[2, 3, 4, 13, 5, 6, 13],
        &[2, 3, 4],
        &[13, 5, 6, 13],
        &[13, 5],
        &[6, 13],
        &[6],
        &[13],
        &[7],
    ];
    assert_eq!(flushes, expected);
    assert_eq!(last.await.unwrap(), Ok(vec![14]));
}

#[tokio::test]
async fn items_of_their_own_have_answers_of_their_own() {
    let (batcher, gate) = Gate::batcher(BatcherConfig::default());
    gate.let_through(20);
    let answers = batcher.submit_each(vec![1, 13, 3]).await;
    assert_eq!(answers, [Ok(2), Err(StoreError::Refused("thirteen".into())), Ok(6)]);
}

#[tokio::test]
async fn a_full_queue_pushes_back() {
    let config = BatcherConfig { queue: 2, ..BatcherConfig::default() };
    let (batcher, mut gate) = Gate::batcher(config);
    let held = submit(&batcher, &[1, 2]);
    assert_eq!(gate.next().await, [1, 2]);
    let waiting = submit(&batcher, &[3]);
    settle().await;
    assert_eq!(batcher.places.available_permits(), 0);
    assert!(!waiting.is_finished() && gate.seen.is_empty());
    gate.let_through(2);
    assert_eq!(held.await.unwrap(), Ok(vec![2, 4]));
    assert_eq!(waiting.await.unwrap(), Ok(vec![6]));
    // Larger than the queue: it waits for the whole queue, and is still one group.
    gate.let_through(1);
    assert_eq!(batcher.submit(vec![5, 6, 7]).await, Ok(vec![10, 12, 14]));
}

#[tokio::test]
async fn a_caller_that_goes_away_takes_nothing_with_it() {
    let config = BatcherConfig { queue: 2, ..BatcherConfig::default() };
    let (batcher, mut gate) = Gate::batcher(config);
    let queued = submit(&batcher, &[1]);
    assert_eq!(gate.next().await, [1]);
    let other = submit(&batcher, &[2]);
    let unqueued = submit(&batcher, &[3]);
    settle().await;
    queued.abort();
    unqueued.abort();
    settle().await;
    gate.let_through(2);
    assert_eq!(gate.next().await, [2]);
    assert_eq!(other.await.unwrap(), Ok(vec![4]));
    batcher.close().await;
    assert!(gate.seen.is_empty(), "a group that never had a place was flushed");
}

#[tokio::test]
async fn closing_flushes_what_is_queued_and_refuses_the_rest() {
    let (batcher, mut gate) = Gate::batcher(BatcherConfig::default());
    let first = submit(&batcher, &[1]);
    gate.next().await;
    let queued = submit(&batcher, &[2]);
    settle().await;
    gate.let_through(2);
    assert!(!batcher.is_closed());
    batcher.close().await;
    assert!(batcher.is_closed());
    assert_eq!(first.await.unwrap(), Ok(vec![2]));
    assert_eq!(queued.await.unwrap(), Ok(vec![4]));
    assert_eq!(batcher.submit(vec![3]).await, Err(StoreError::Closed));
    batcher.close().await;
}

#[tokio::test]
async fn dropping_the_handle_flushes_what_is_queued() {
    let (batcher, mut gate) = Gate::batcher(BatcherConfig::default());
    let caller = submit(&batcher, &[1]);
    gate.next().await;
    caller.abort();
    settle().await;
    let last = submit(&batcher, &[2]);
    settle().await;
    last.abort();
    settle().await;
    assert_eq!(Arc::strong_count(&batcher), 1);
    drop(batcher);
    gate.let_through(2);
    assert_eq!(gate.next().await, [2]);
}

#[tokio::test]
async fn a_linger_lets_late_callers_join() {
    let config = BatcherConfig { linger: Duration::from_millis(300), ..BatcherConfig::default() };
    let (batcher, mut gate) = Gate::batcher(config);
    gate.let_through(10);
    submit(&batcher, &[1]);
    tokio::time::sleep(Duration::from_millis(1)).await;
    submit(&batcher, &[2]);
    assert_eq!(gate.next().await, [1, 2]);
}

#[test]
fn a_busy_writer_waits_for_company_no_longer_than_a_flush_takes() {
    let config =
        BatcherConfig { busy_linger: Duration::from_millis(200), ..BatcherConfig::default() };
    let last = |items, took: u64, ago: u64| Flush {
        items,
        took: Duration::from_millis(took),
        ended: Instant::now().checked_sub(Duration::from_millis(ago)),
    };
    let lingers = |flush: Flush| flush.linger(&config).as_millis();
    assert_eq!(lingers(last(32, 40, 0)), 40);
    assert_eq!(lingers(last(500, 1_000, 0)), 200);
    assert_eq!(lingers(last(31, 40, 0)), 0, "few");
    assert_eq!(lingers(last(500, 40, 300)), 0, "long ago");
    assert_eq!(lingers(Flush::default()), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_crowd_gets_every_answer_from_few_flushes() {
    let flushes = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&flushes);
    let batcher = Arc::new(Batcher::new(BatcherConfig::default(), move |items: Batch<u32>| {
        counter.fetch_add(1, Ordering::Relaxed);
        async move {
            tokio::time::sleep(Duration::from_millis(1)).await;
            Ok(items.iter().map(|item| item * 2).collect::<Vec<_>>())
        }
    }));
    let callers: Vec<_> = (0..2000).map(|n| submit(&batcher, &[n, n + 1])).collect();
    for (n, caller) in (0..).zip(callers) {
        assert_eq!(caller.await.unwrap(), Ok(vec![2 * n, 2 * n + 2]));
    }
    assert!(flushes.load(Ordering::Relaxed) < 100, "{flushes:?} flushes of 4000 items");
}
