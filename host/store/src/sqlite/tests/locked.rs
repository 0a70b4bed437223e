//! Somebody else holds the database's lock.

use std::time::Instant;

use taskforge_domain::{Next, Outcome};

use super::*;
use crate::{ClaimBy, Commit, complete_or_fail};

/// Another program with the file, in the middle of a change.
async fn holding_the_lock(folder: &TempDir) -> SqliteConnection {
    let path = folder.path().join("data/taskforge.db");
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(path);
    let mut other = SqliteConnection::connect_with(&options).await.unwrap();
    sqlx::query("begin immediate").execute(&mut other).await.unwrap();
    other
}

fn record(worker: WorkerId, lease: Duration) -> WorkerRecord {
    WorkerRecord { id: worker, host: "here".into(), pid: 1, started_at: Timestamp::now(), lease }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_writes_meanwhile_is_answered_in_time_and_the_rest_goes_on_after_it() {
    let (folder, store) = fresh().await;
    let worker = WorkerId::generate();
    let now = store.clock().now();
    store.register_worker(&record(worker, Duration::from_secs(4)), now).await.unwrap();
    let term = store.lead(worker, now, Duration::from_secs(60)).await.unwrap().unwrap();
    let task = new_task();
    store.enqueue(std::slice::from_ref(&task)).await.unwrap();
    let request = ClaimRequest { worker, by: ClaimBy::Ids(&[task.id]), now };
    let claimed = store.claim(request).await.unwrap().tasks.remove(0);

    let mut other = holding_the_lock(&folder).await;
    let began = Instant::now();
    // The heartbeat has a thread and a connection of its own, as in a worker: it waits for none of
    // the writes, each of which may wait for the lock for seconds.
    let mut leases = store.lease_connection().await.unwrap();
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    let beating = std::thread::spawn({
        let store = Arc::clone(&store);
        let handle = tokio::runtime::Handle::current();
        move || {
            let every = Duration::from_millis(250);
            while stopped.recv_timeout(every) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
                let beat = handle.block_on(leases.heartbeat(worker, store.clock().now()));
                assert!(beat.unwrap(), "the worker is still known");
            }
        }
    });
    // Longer than the lease, with all that goes on in a process meanwhile.
    while began.elapsed() < Duration::from_secs(6) {
        let mut writes = tokio::task::JoinSet::new();
        for n in 0..12 {
            let store = Arc::clone(&store);
            writes.spawn(async move {
                let asked = Instant::now();
                let now = store.clock().now();
                let answer = match n % 3 {
                    0 => store.enqueue(&[new_task()]).await,
                    1 => store.promote_due(term, now, 10).await.map(drop),
                    _ => store.lapsed(term, now, 10).await.map(drop),
                };
                (answer, asked.elapsed())
            });
        }
        while let Some(write) = writes.join_next().await {
            let (answer, took) = write.unwrap();
            assert!(matches!(answer, Err(StoreError::Unavailable(_))), "{answer:?}");
            assert!(took < Duration::from_secs(9), "{took:?}");
        }
    }
    sqlx::query("rollback").execute(&mut other).await.unwrap();
    // Nothing has lapsed: the worker was never silent.
    assert_eq!(store.lapsed(term, store.clock().now(), 10).await.unwrap(), []);
    drop(stop);
    tokio::task::spawn_blocking(|| beating.join().unwrap()).await.unwrap();
    let attempt = taskforge_domain::Attempt {
        task: claimed.id,
        run_lease: claimed.run_lease,
        number: claimed.attempt,
        worker,
        plugin_version: "1.0.0".into(),
        plugin_digest: taskforge_domain::Digest::from_bytes([0; 32]),
        started_at: claimed.started_at,
        finished_at: store.clock().now(),
        outcome: Outcome::Completed(claimed.input.clone()),
        usage: taskforge_domain::Usage::default(),
        logs: Vec::new(),
    };
    let completion = Completion { attempt, next: Next::Complete };
    let ended = complete_or_fail(&*store, &completion).await.unwrap();
    assert_eq!(ended.commit, Commit::Committed);
    store.enqueue(&[new_task()]).await.unwrap();
    store.ping().await.unwrap();
}

/// A row that the database refuses, beside others in one transaction.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_that_is_refused_fails_none_beside_it() {
    let (folder, store) = fresh().await;
    let path = folder.path().join("data/taskforge.db");
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(path);
    let mut other = SqliteConnection::connect_with(&options).await.unwrap();
    sqlx::query(
        "create trigger too_much before insert on task_inputs when new.input like '%unholdable%'
         begin select raise(abort, 'string or blob too big'); end",
    )
    .execute(&mut other)
    .await
    .unwrap();
    let mut enqueues = Vec::new();
    for n in 0..60 {
        let mut task = new_task();
        if n % 7 == 3 {
            task.input = taskforge_domain::Json::from(serde_json::json!("unholdable"));
        }
        let store = Arc::clone(&store);
        enqueues.push(tokio::spawn(async move {
            let answer = store.enqueue(std::slice::from_ref(&task)).await;
            (task.id, answer)
        }));
    }
    for (n, enqueue) in enqueues.into_iter().enumerate() {
        let (id, answer) = enqueue.await.unwrap();
        let is_bad = n % 7 == 3;
        assert_eq!(matches!(answer, Err(StoreError::Refused(_))), is_bad, "{answer:?}");
        let task = store.task(&TenantId::default(), id).await.unwrap();
        assert_eq!(task.is_none(), is_bad);
    }
}
