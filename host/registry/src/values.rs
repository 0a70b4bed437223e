//! What plugins keep, in the store.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, Weak},
};

use async_trait::async_trait;
use taskforge_domain::{KeyValueGrant, TaskType, TenantId};
use taskforge_runtime::{KeyValue, KeyValueError, Seen, Space};
use taskforge_store::{Kept, KeyQuota, KeySpace, PluginStore, StoreError};
use tokio::sync::{Mutex as Turns, OwnedMutexGuard, Semaphore, SemaphorePermit};

/// Calls that ask the database at once, of all attempts in this process. They share its connections with the heartbeat and the claims, which
/// must not wait for guests.
const AT_ONCE: usize = 2;

type Writers = HashMap<(TenantId, TaskType), Weak<Turns<()>>>;

/// The values of plugins, as the sandbox reads and writes them: for each tenant and plugin apart, the same on every host.
pub struct StoredValues {
    store: Arc<dyn PluginStore>,
    calls: Semaphore,
    /// Whoever writes for one tenant and plugin waits for the others here and not on a row, where each would hold a connection.
    writers: Mutex<Writers>,
}

impl StoredValues {
    /// Values in this store.
    #[must_use]
    pub fn new(store: Arc<dyn PluginStore>) -> Self {
        Self {
            store,
            calls: Semaphore::new(AT_ONCE),
            writers: Mutex::default(),
        }
    }

    /// A turn at the database. `None` never comes: the semaphore is not closed.
    async fn turn(&self) -> Option<SemaphorePermit<'_>> {
        self.calls.acquire().await.ok()
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
        let _turn = self.turn().await;
        self.store.get_value(&keys(space), key).await.map_err(away)
    }

    async fn set(&self, space: &Space, values: Vec<(String, Vec<u8>)>) -> Result<(), KeyValueError> {
        let _write = self.write(space).await;
        let _turn = self.turn().await;
        let kept = self.store.set_values(&keys(space), &values, quota(space)).await;
        written(kept.map_err(away)?, space)
    }

    async fn delete(&self, space: &Space, deleted: Vec<String>) -> Result<(), KeyValueError> {
        let _write = self.write(space).await;
        let _turn = self.turn().await;
        self.store
            .delete_values(&keys(space), &deleted)
            .await
            .map_err(away)
    }

    async fn keys(
        &self,
        space: &Space,
        after: Option<&str>,
        limit: u32,
    ) -> Result<Vec<String>, KeyValueError> {
        let _turn = self.turn().await;
        let listed = self.store.list_keys(&keys(space), after, limit).await;
        listed.map_err(away)
    }

    async fn increment(&self, space: &Space, key: &str, delta: i64) -> Result<i64, KeyValueError> {
        let _write = self.write(space).await;
        let _turn = self.turn().await;
        let kept = self
            .store
            .increment_value(&keys(space), key, delta, quota(space))
            .await;
        written(kept.map_err(away)?, space)
    }

    async fn swap(
        &self,
        space: &Space,
        key: &str,
        seen: Seen,
        value: Vec<u8>,
    ) -> Result<bool, KeyValueError> {
        let _write = self.write(space).await;
        let _turn = self.turn().await;
        let kept = self
            .store
            .swap_value(&keys(space), key, seen, &value, quota(space))
            .await;
        match kept.map_err(away)? {
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
