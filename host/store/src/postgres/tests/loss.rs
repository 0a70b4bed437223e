//! Connections that are lost, and answers that do not come.

use std::sync::atomic::{AtomicBool, Ordering};

use taskforge_domain::TaskState;

use super::*;
use crate::{PostgresConfig, StoreError, StoreResult};

const TERMINATE: &str = "select count(pg_terminate_backend(pid)) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()";

/// Repeats what may be repeated until the database has answered, as every caller does.
async fn insist<T, F: Future<Output = StoreResult<T>>>(mut work: impl FnMut() -> F) -> T {
    eventually(async {
        loop {
            match work().await {
                Ok(answer) => break answer,
                Err(StoreError::Unavailable(_)) => {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                Err(error) => panic!("{error}"),
            }
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_every_connection_is_cut_nothing_is_lost_or_doubled() {
    let database = TestDatabase::new().await;
    let store = database.store().await;
    let over = Arc::new(AtomicBool::new(false));
    let cutter = {
        let (over, mut connection) = (Arc::clone(&over), database.connection().await);
        tokio::spawn(async move {
            let mut cut = 0;
            while !over.load(Ordering::Relaxed) {
                cut += sqlx::query_scalar::<_, i64>(TERMINATE)
                    .fetch_one(&mut connection)
                    .await
                    .unwrap();
                tokio::time::sleep(Duration::from_millis(30)).await;
            }
            cut
        })
    };
    let clients: Vec<_> = (0..4)
        .map(|_| {
            let store = Arc::clone(&store);
            tokio::spawn(async move {
                let worker = WorkerId::generate();
                let mut acknowledged = Vec::new();
                for _ in 0..25 {
                    let tasks = new_tasks(20);
                    insist(|| store.enqueue(&tasks)).await;
                    let (ids, now) = (ids(&tasks), Timestamp::now());
                    insist(|| async {
                        let by = ClaimBy::Ids(&ids);
                        store.claim(ClaimRequest { worker, by, now }).await.map(drop)
                    })
                    .await;
                    // Some claims were committed although nobody heard the answer.
                    let held = insist(|| store.claimed_by(worker)).await;
                    let claimed: Vec<_> = held
                        .iter()
                        .map(|held| {
                            let task = tasks.iter().find(|task| task.id == held.id).unwrap();
                            ClaimedTask {
                                id: held.id,
                                tenant: task.tenant.clone(),
                                task_type: task.task_type.clone(),
                                priority: task.priority,
                                input: task.input.clone(),
                                attempt: held.attempt,
                                run_lease: held.run_lease,
                                retry: held.retry,
                                started_at: now,
                            }
                        })
                        .collect();
                    assert_eq!(claimed.len(), tasks.len());
                    let ends = completions(&claimed, worker);
                    let commits = insist(|| store.complete(&ends)).await;
                    assert!(commits.iter().all(|commit| *commit == crate::Commit::Committed));
                    acknowledged.extend(ids);
                }
                acknowledged
            })
        })
        .collect();
    let mut acknowledged = Vec::new();
    for client in clients {
        acknowledged.extend(client.await.unwrap());
    }
    over.store(true, Ordering::Relaxed);
    assert!(cutter.await.unwrap() > 0, "no connection was ever cut");
    let tenant = TenantId::default();
    for id in acknowledged {
        let history = insist(|| store.history(&tenant, id)).await.unwrap();
        assert_eq!((history.task.state, history.attempts.len()), (TaskState::Completed, 1), "{id}");
    }
}

#[tokio::test]
async fn a_statement_that_takes_too_long_is_unavailable() {
    let database = TestDatabase::new().await;
    let config = PostgresConfig {
        statement_timeout: Duration::from_millis(100),
        ..PostgresConfig::new(&database.url)
    };
    let store = PostgresStore::connect(&config).await.unwrap();
    let task = new_task();
    store.enqueue(std::slice::from_ref(&task)).await.unwrap();
    let mut other = database.connection().await;
    sqlx::raw_sql("begin; lock table tasks in access exclusive mode")
        .execute(&mut other)
        .await
        .unwrap();
    for answer in
        [store.enqueue(&[new_task()]).await, store.task(&task.tenant, task.id).await.map(drop)]
    {
        assert!(matches!(answer, Err(StoreError::Unavailable(_))), "{answer:?}");
    }
    sqlx::raw_sql("rollback").execute(&mut other).await.unwrap();
    insist(|| store.enqueue(std::slice::from_ref(&task))).await;
}

#[tokio::test]
async fn a_closed_store_says_so() {
    let database = TestDatabase::new().await;
    let store = database.store().await;
    store.close().await;
    let task = new_task();
    assert_eq!(store.enqueue(std::slice::from_ref(&task)).await, Err(StoreError::Closed));
    assert_eq!(store.task(&task.tenant, task.id).await, Err(StoreError::Closed));
    assert_eq!(store.ping().await, Err(StoreError::Closed));
}
