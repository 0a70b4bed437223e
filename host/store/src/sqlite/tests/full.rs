//! A disk that is full for a while.

use taskforge_testing::disk::SmallDisk;

use super::*;
use crate::StoreError;

/// A task that takes more than one page.
fn large_task() -> NewTask {
    let input = serde_json::Value::from("x".repeat(64 << 10));
    NewTask { input: taskforge_domain::Json::from(input), ..new_task() }
}

async fn is_there(store: &SqliteStore, task: &NewTask) -> bool {
    store.task(&task.tenant, task.id).await.unwrap().is_some()
}

#[tokio::test]
async fn a_database_that_may_not_grow_for_a_moment_costs_one_answer() {
    let (_folder, store) = fresh().await;
    let first = new_task();
    store.enqueue(std::slice::from_ref(&first)).await.unwrap();
    // What the connection says when the disk is full: it holds for this connection, and not for one
    // that replaces it.
    let mut place = store.shared.writer.turn().await.unwrap();
    let mut writer = place.take().await.unwrap();
    sqlx::query("pragma max_page_count = 1").execute(&mut writer).await.unwrap();
    place.give_back(writer, &Ok(())).await;
    drop(place);
    let refused = large_task();
    let answer = store.enqueue(std::slice::from_ref(&refused)).await;
    assert!(matches!(answer, Err(StoreError::Unavailable(_))), "{answer:?}");
    let (second, now) = (large_task(), Timestamp::UNIX_EPOCH);
    store.enqueue(std::slice::from_ref(&second)).await.unwrap();
    store.cancel(&first.tenant, first.id, now).await.unwrap();
    store.ping().await.unwrap();
    assert!(is_there(&store, &first).await && is_there(&store, &second).await);
    assert!(!is_there(&store, &refused).await);
}

#[tokio::test]
async fn after_a_full_disk_everything_goes_on_and_readiness_says_which_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let Some(disk) = SmallDisk::mount(folder.path(), 4) else {
        return;
    };
    let store = SqliteStore::open(&folder.path().join("taskforge.db")).await.unwrap();
    let first = new_task();
    store.enqueue(std::slice::from_ref(&first)).await.unwrap();
    store.ping().await.unwrap();
    disk.fill();
    let mut accepted = vec![first];
    for _ in 0..50 {
        let task = large_task();
        match store.enqueue(std::slice::from_ref(&task)).await {
            Ok(()) => accepted.push(task),
            Err(StoreError::Unavailable(_)) => {}
            Err(error) => panic!("{error}"),
        }
    }
    assert!(accepted.len() < 50, "the disk was never full");
    let ready = store.ping().await;
    assert!(matches!(ready, Err(StoreError::Unavailable(_))), "{ready:?}");
    disk.empty();
    let last = large_task();
    store.enqueue(std::slice::from_ref(&last)).await.unwrap();
    store.ping().await.unwrap();
    accepted.push(last);
    for task in &accepted {
        assert!(is_there(&store, task).await, "{}", task.id);
    }
    store.close().await.unwrap();
}
