//! What plugins keep, in the store.
//!
//! # Cancellation
//! A guest's deadline may drop a call at any moment. While it waits for its turn it has not begun, and never will. From
//! then on a task of its own carries it out, which holds its turns until it has ended: the guest's deadline ends the wait
//! and not the operation, so no guest can make the store give up a connection, and those under way are as many as before.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, Weak},
};

use async_trait::async_trait;
use taskforge_domain::{KeyValueGrant, TaskType, TenantId};
use taskforge_runtime::{KeyValue, KeyValueError, Seen, Space};
use taskforge_store::{Kept, KeyQuota, KeySpace, PluginStore, StoreError, StoreResult};
use tokio::sync::{Mutex as Turns, OwnedMutexGuard, Semaphore};

/// Calls that ask the database at once, of all attempts in this process. They share its connections with the heartbeat and the claims, which
/// must not wait for guests.
const AT_ONCE: usize = 2;

type Writers = HashMap<(TenantId, TaskType), Weak<Turns<()>>>;

/// The values of plugins, as the sandbox reads and writes them: for each tenant and plugin apart, the same on every host.
pub struct StoredValues {
    store: Arc<dyn PluginStore>,
    calls: Arc<Semaphore>,
    /// Whoever writes for one tenant and plugin waits for the others here and not on a row, where each would hold a connection.
    writers: Mutex<Writers>,
}

impl StoredValues {
    /// Values in this store.
    #[must_use]
    pub fn new(store: Arc<dyn PluginStore>) -> Self {
        Self {
            store,
            calls: Arc::new(Semaphore::new(AT_ONCE)),
            writers: Mutex::default(),
        }
    }

    /// Waits for a turn at the database and then carries a call out, whether or not anybody still waits for its answer.
    /// `write`: the turn of a call that writes, which it keeps until it has ended.
    async fn call<T, F>(
        &self,
        write: Option<OwnedMutexGuard<()>>,
        ask: impl FnOnce(Arc<dyn PluginStore>) -> F,
    ) -> Result<T, KeyValueError>
    where
        T: Send + 'static,
        F: Future<Output = StoreResult<T>> + Send + 'static,
    {
        // Cancellation point: dropped here, the call has not begun. The semaphore is never closed.
        let turn = Arc::clone(&self.calls).acquire_owned().await;
        let asked = ask(Arc::clone(&self.store));
        let call = tokio::spawn(async move {
            let answer = asked.await;
            drop((write, turn));
            answer
        });
        call.await.unwrap_or(Err(StoreError::Closed)).map_err(away)
    }

    /// A turn among those who write the same values.
    async fn write(&self, space: &Space) -> OwnedMutexGuard<()> {
        let turns = {
            let mut writers = self.writers.lock().unwrap_or_else(PoisonError::into_inner);
            writers.retain(|_, turns| turns.strong_count() > 0);
            let key = (space.tenant.clone(), space.plugin.clone());
            let turns = writers.get(&key).and_then(Weak::upgrade);
            let turns = turns.unwrap_or_default();
            writers.insert(key, Arc::downgrade(&turns));
            turns
        };
        turns.lock_owned().await
    }
}

#[async_trait]
impl KeyValue for StoredValues {
    async fn get(&self, space: &Space, key: &str) -> Result<Option<Vec<u8>>, KeyValueError> {
        let (keys, key) = (keys(space), key.to_owned());
        self.call(None, |store| async move { store.get_value(&keys, &key).await })
            .await
    }

    async fn set(&self, space: &Space, values: Vec<(String, Vec<u8>)>) -> Result<(), KeyValueError> {
        let write = self.write(space).await;
        let (keys, quota) = (keys(space), quota(space));
        let set = self.call(Some(write), move |store| async move {
            store.set_values(&keys, &values, quota).await
        });
        written(set.await?, space)
    }

    async fn delete(&self, space: &Space, deleted: Vec<String>) -> Result<(), KeyValueError> {
        let write = self.write(space).await;
        let keys = keys(space);
        self.call(Some(write), move |store| async move {
            store.delete_values(&keys, &deleted).await
        })
        .await
    }

    async fn keys(
        &self,
        space: &Space,
        after: Option<&str>,
        limit: u32,
    ) -> Result<Vec<String>, KeyValueError> {
        let (keys, after) = (keys(space), after.map(str::to_owned));
        self.call(None, move |store| async move {
            store.list_keys(&keys, after.as_deref(), limit).await
        })
        .await
    }

    async fn increment(&self, space: &Space, key: &str, delta: i64) -> Result<i64, KeyValueError> {
        let write = self.write(space).await;
        let (keys, key, quota) = (keys(space), key.to_owned(), quota(space));
        let sum = self.call(Some(write), move |store| async move {
            store.increment_value(&keys, &key, delta, quota).await
        });
        written(sum.await?, space)
    }

    async fn swap(
        &self,
        space: &Space,
        key: &str,
        seen: Seen,
        value: Vec<u8>,
    ) -> Result<bool, KeyValueError> {
        let write = self.write(space).await;
        let (keys, key, quota) = (keys(space), key.to_owned(), quota(space));
        let swapped = self.call(Some(write), move |store| async move {
            store.swap_value(&keys, &key, seen, &value, quota).await
        });
        match swapped.await? {
            Kept::Mismatch => Ok(false),
            kept => written(kept, space).map(|()| true),
        }
    }
}

fn keys(space: &Space) -> KeySpace {
    KeySpace {
        tenant: space.tenant.clone(),
        plugin: space.plugin.clone(),
        bucket: space.bucket.clone(),
    }
}

const fn quota(space: &Space) -> KeyQuota {
    let KeyValueGrant { bytes, keys, .. } = space.quota;
    KeyQuota { bytes, keys }
}

fn written<T>(kept: Kept<T>, space: &Space) -> Result<T, KeyValueError> {
    match kept {
        Kept::Written(value) => Ok(value),
        Kept::OverQuota => Err(KeyValueError(format!(
            "the quota is used up: {} bytes and {} keys for a tenant",
            space.quota.bytes, space.quota.keys
        ))),
        Kept::Mismatch => Err(KeyValueError(
            "the value is no number that this can be added to".to_owned(),
        )),
    }
}

/// The guest hears that it failed; why is for the operator.
#[expect(clippy::needless_pass_by_value, reason = "as `map_err` hands it over")]
fn away(error: StoreError) -> KeyValueError {
    tracing::warn!(%error, "values of a plugin could not be reached");
    KeyValueError("the values cannot be reached now".to_owned())
}
