//! Values of plugins, as attempts reach them that may end at any moment.

use std::{future::poll_fn, pin::pin, sync::Arc, task::Poll};

use taskforge_domain::{KeyValueGrant, TaskType, TenantId};
use taskforge_registry::StoredValues;
use taskforge_runtime::{KeyValue as _, Space};
use taskforge_store::SqliteStore;
use taskforge_testing::wait_until;

fn space() -> Space {
    Space {
        tenant: TenantId::default(),
        plugin: TaskType::new("keeper").unwrap(),
        bucket: "b".into(),
        quota: KeyValueGrant { allowed: true, ..KeyValueGrant::default() },
    }
}

/// Polls once and drops what has not ended then, as a deadline does.
async fn once<T>(call: impl Future<Output = T>) {
    let mut call = pin!(call);
    poll_fn(|context| {
        assert!(call.as_mut().poll(context).is_pending(), "it cannot have ended yet");
        Poll::Ready(())
    })
    .await;
}

#[tokio::test]
async fn a_call_that_was_begun_is_carried_out_although_its_attempt_has_ended() {
    let folder = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(&folder.path().join("tasks.db")).await.unwrap();
    let values = StoredValues::new(Arc::clone(&store) as _);
    once(values.set(&space(), vec![("k".into(), b"v".to_vec())])).await;
    wait_until("the value is there", async || {
        values.get(&space(), "k").await.unwrap().as_deref() == Some(&b"v"[..])
    })
    .await;
    for sum in 1..=20 {
        // The second waits until the first, for which nobody waits, has ended.
        once(values.increment(&space(), "n", 1)).await;
        assert_eq!(values.increment(&space(), "n", 0).await.unwrap(), sum);
    }
}

#[tokio::test]
async fn a_call_that_still_waits_for_its_turn_was_never_begun() {
    let folder = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(&folder.path().join("tasks.db")).await.unwrap();
    let values = StoredValues::new(Arc::clone(&store) as _);
    once(values.increment(&space(), "n", 1)).await;
    // Its turn is not over: nothing has run since.
    once(values.increment(&space(), "n", 10)).await;
    assert_eq!(values.increment(&space(), "n", 0).await.unwrap(), 1);
}
