//! What only several processes at one database show.

use std::{collections::HashSet, sync::Arc};

use sqlx::Connection;
use taskforge_domain::{TaskState, TypePolicy, WorkerId};

use super::*;
use crate::{Commit, postgres::enqueue};

/// Drains the queue through one store by turns of ids and order, and says what it completed.
async fn drain(store: Arc<PostgresStore>, ids: Vec<TaskId>, policy: QueuePolicy) -> Vec<TaskId> {
    let worker = WorkerId::generate();
    let mut done = Vec::new();
    for some in ids.chunks(37) {
        let mut claimed = claim(&store, worker, ClaimBy::Ids(some)).await;
        claimed.extend(claim_order(&store, worker, 11, &policy).await);
        let ends = completions(&claimed, worker);
        let commits = store.complete(&ends).await.unwrap();
        assert!(commits.iter().all(|commit| *commit == Commit::Committed));
        done.extend(claimed.iter().map(|task| task.id));
    }
    done
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn batches_of_several_processes_interleave() {
    let database = TestDatabase::new().await;
    let stores = [database.store().await, database.store().await, database.store().await];
    let tasks = new_tasks(3_000);
    // Everybody enqueues everything, each in another order, and takes from another end.
    let mut running = Vec::new();
    for (n, store) in stores.iter().enumerate() {
        let (store, mut tasks) = (Arc::clone(store), tasks.clone());
        tasks.rotate_left(n * 1_000);
        if n == 1 {
            tasks.reverse();
        }
        running.push(tokio::spawn(async move {
            for some in tasks.chunks(100) {
                store.enqueue(some).await.unwrap();
            }
            drain(store, ids(&tasks), QueuePolicy::default()).await
        }));
    }
    let mut done = HashSet::new();
    for drain in running {
        for id in eventually(drain).await.unwrap() {
            assert!(done.insert(id), "{id} was claimed twice");
        }
    }
    assert_eq!(done, ids(&tasks).into_iter().collect());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn caps_hold_for_claims_of_several_processes() {
    let database = TestDatabase::new().await;
    let stores = [database.store().await, database.store().await];
    let tasks = new_tasks(400);
    stores[0].enqueue(&tasks).await.unwrap();
    let cap = TypePolicy { max_running: Some(10), ..TypePolicy::default() };
    stores[0].set_type_policy(&kind(), cap).await.unwrap();
    let mut running = Vec::new();
    for n in 0..8 {
        let (store, tasks) = (Arc::clone(&stores[n % 2]), ids(&tasks));
        running.push(tokio::spawn(async move {
            let worker = WorkerId::generate();
            let (mut done, mut round) = (0, n);
            while done < 30 {
                round += 1;
                let claimed = if round % 2 == 0 {
                    claim_order(&store, worker, 4, &QueuePolicy::default()).await
                } else {
                    let named = tasks.iter().skip(round * 7 % 400).step_by(11);
                    let named: Vec<_> = named.copied().collect();
                    claim(&store, worker, ClaimBy::Ids(&named)).await
                };
                let counts = store.counts().await.unwrap().by_type;
                let now = counts.iter().find(|(_, state, _)| *state == TaskState::Running);
                let now = now.map_or(0, |(.., count)| *count);
                assert!(now <= 10, "{now} run at once");
                store.complete(&completions(&claimed, worker)).await.unwrap();
                done += claimed.len();
            }
            done
        }));
    }
    for claimer in running {
        assert!(eventually(claimer).await.unwrap() >= 30);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_single_task_does_not_wait_for_the_many_of_somebody_else() {
    let database = TestDatabase::new().await;
    let store = database.store().await;
    let tasks = new_tasks(100);
    // Somebody is about to insert one of the many.
    let mut other = database.connection().await;
    let mut open = other.begin().await.unwrap();
    enqueue::run(&mut open, &[tasks[50].clone()]).await.unwrap();
    let many = {
        let (store, tasks) = (store.clone(), tasks.clone());
        tokio::spawn(async move { store.enqueue(&tasks).await })
    };
    let mut watch = database.connection().await;
    eventually(async {
        let waits = "select exists (select from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock')";
        while !sqlx::query_scalar::<_, bool>(waits).fetch_one(&mut watch).await.unwrap() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    eventually(store.enqueue(&new_tasks(1))).await.unwrap();
    assert!(!many.is_finished());
    open.rollback().await.unwrap();
    eventually(many).await.unwrap().unwrap();
    let worker = WorkerId::generate();
    assert_eq!(claim(&store, worker, ClaimBy::Ids(&ids(&tasks))).await.len(), 100);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_paused_is_not_claimed_under_an_older_policy() {
    let database = TestDatabase::new().await;
    let store = database.store().await;
    let worker = WorkerId::generate();
    let pause = async |paused| {
        let policy = TypePolicy { paused, ..TypePolicy::default() };
        store.set_type_policy(&kind(), policy).await.unwrap();
    };
    let older = QueuePolicy::default();
    pause(true).await;
    store.enqueue(&new_tasks(3)).await.unwrap();
    assert!(claim_order(&store, worker, 9, &older).await.is_empty());
    pause(false).await;
    assert_eq!(claim_order(&store, worker, 9, &older).await.len(), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_that_is_left_open_stops_nobody() {
    let database = TestDatabase::new().await;
    let store = database.store().await;
    let tasks = new_tasks(2_000);
    store.enqueue(&tasks).await.unwrap();
    // It holds the vacuum's horizon, and a lock on one of the tasks.
    let mut other = database.connection().await;
    let mut open = other.begin().await.unwrap();
    sqlx::query("select 1 from tasks where id = $1 for update")
        .bind(tasks[500].id.as_uuid())
        .execute(&mut *open)
        .await
        .unwrap();
    let worker = WorkerId::generate();
    let mut done = Vec::new();
    eventually(async {
        while done.len() < tasks.len() - 1 {
            let claimed = claim_order(&store, worker, 50, &QueuePolicy::default()).await;
            store.complete(&completions(&claimed, worker)).await.unwrap();
            done.extend(claimed.into_iter().map(|task| task.id));
        }
    })
    .await;
    open.rollback().await.unwrap();
    let last = eventually(async {
        loop {
            let claimed = claim_order(&store, worker, 50, &QueuePolicy::default()).await;
            if !claimed.is_empty() {
                break claimed;
            }
        }
    })
    .await;
    assert_eq!(last.iter().map(|task| task.id).collect::<Vec<_>>(), [tasks[500].id]);
}

/// A queue that is remembered to be empty up to a place is still searched before it.
#[tokio::test]
async fn what_returns_to_the_front_of_a_lane_is_found() {
    let database = TestDatabase::new().await;
    let store = database.store().await;
    let worker = WorkerId::generate();
    let hour_ago = Timestamp::now() - Duration::from_secs(3600);
    let mut tasks = new_tasks(100);
    for (n, task) in tasks.iter_mut().enumerate() {
        let millis = u128::try_from(hour_ago.as_millisecond()).unwrap() + n as u128;
        task.id = TaskId::from_uuid(uuid::Uuid::from_u128((millis << 80) | (7 << 76) | n as u128));
    }
    store.enqueue(&tasks).await.unwrap();
    let claimed = claim_order(&store, worker, 60, &QueuePolicy::default()).await;
    assert_eq!(claimed.iter().map(|task| task.id).collect::<Vec<_>>(), ids(&tasks)[..60]);
    let back = Completion { next: Next::HandBack, ..completion(&claimed[0], worker) };
    store.complete(&[back]).await.unwrap();
    let mut rest = HashSet::new();
    eventually(async {
        while rest.len() < 41 {
            let claimed = claim_order(&store, worker, 7, &QueuePolicy::default()).await;
            rest.extend(claimed.into_iter().map(|task| task.id));
        }
    })
    .await;
    assert!(rest.contains(&tasks[0].id));
}
