//! What plugins keep, in the store.
//!
//! # Cancellation
//! A guest's deadline may drop a call at any moment. While it waits for its turn it has not begun,
//! and never will. From then on a task of its own carries it out, which holds its turns until it
//! has ended: the guest's deadline ends the wait and not the operation, so no guest can make the
//! store give up a connection, and those under way are as many as before.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, Weak},
};

use async_trait::async_trait;
use taskforge_domain::{KeyValueGrant, TaskType, TenantId};
use taskforge_runtime::{FairSemaphore, KeyValue, KeyValueError, Seen, Space};
use taskforge_store::{Kept, KeyQuota, KeySpace, PluginStore, StoreResult};
use tokio::sync::{Mutex as Turns, OwnedMutexGuard};

/// Calls that ask the database at once, of all attempts in this process: two of one tenant, and one
/// that is left to the next. They share its pool with cancels, the sweep and the registry, which
/// must not wait for guests.
const AT_ONCE: usize = 3;

/// Calls of one tenant that may wait. An attempt makes one at a time, so this is more than a worker
/// has attempts.
const WAITING: usize = 10_000;

type Writers = HashMap<(TenantId, TaskType), Weak<Turns<()>>>;

/// The values of plugins, as the sandbox reads and writes them: for each tenant and plugin apart,
/// the same on every host.
///
/// A call that has begun ends, also if the attempt that made it is called off: it keeps its permit
/// until the database is done with it. Tenants take turns.
pub struct StoredValues {
    store: Arc<dyn PluginStore>,
    calls: FairSemaphore,
    /// Whoever writes for one tenant and plugin waits for the others here and not on a row, where
    /// each would hold a connection.
    writers: Mutex<Writers>,
}

impl StoredValues {
    /// Values in this store.
    #[must_use]
    pub fn new(store: Arc<dyn PluginStore>) -> Self {
        Self { store, calls: FairSemaphore::new(AT_ONCE, WAITING), writers: Mutex::default() }
    }

    /// Makes a call when it is the tenant's turn. It is dropped whole or runs to its end.
    async fn call<T, F>(
        &self,
        space: &Space,
        write: Option<OwnedMutexGuard<()>>,
        call: impl FnOnce(Arc<dyn PluginStore>, KeySpace) -> F,
    ) -> Result<T, KeyValueError>
    where
        T: Send + 'static,
        F: Future<Output = StoreResult<T>> + Send + 'static,
    {
        let permit = self.calls.acquire(&space.tenant).await;
        let permit = permit.map_err(|refused| KeyValueError(refused.to_string()))?;
        let call = call(Arc::clone(&self.store), keys(space));
        let called = tokio::spawn(async move {
            let _held = (write, permit);
            call.await
        });
        match called.await {
            Ok(done) => done.map_err(|error| away(&error)),
            Err(error) => Err(away(&error)),
        }
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
        let key = key.to_owned();
        let get =
            |store: Arc<dyn PluginStore>, keys| async move { store.get_value(&keys, &key).await };
        self.call(space, None, get).await
    }

    async fn set(
        &self,
        space: &Space,
        values: Vec<(String, Vec<u8>)>,
    ) -> Result<(), KeyValueError> {
        let (write, quota) = (self.write(space).await, quota(space));
        let set = |store: Arc<dyn PluginStore>, keys| async move {
            store.set_values(&keys, &values, quota).await
        };
        written(self.call(space, Some(write), set).await?, space)
    }

    async fn delete(&self, space: &Space, deleted: Vec<String>) -> Result<(), KeyValueError> {
        let write = self.write(space).await;
        let delete = |store: Arc<dyn PluginStore>, keys| async move {
            store.delete_values(&keys, &deleted).await
        };
        self.call(space, Some(write), delete).await
    }

    async fn keys(
        &self,
        space: &Space,
        after: Option<&str>,
        limit: u32,
    ) -> Result<Vec<String>, KeyValueError> {
        let after = after.map(str::to_owned);
        let list = |store: Arc<dyn PluginStore>, keys| async move {
            store.list_keys(&keys, after.as_deref(), limit).await
        };
        self.call(space, None, list).await
    }

    async fn increment(&self, space: &Space, key: &str, delta: i64) -> Result<i64, KeyValueError> {
        let (write, quota, key) = (self.write(space).await, quota(space), key.to_owned());
        let increment = |store: Arc<dyn PluginStore>, keys| async move {
            store.increment_value(&keys, &key, delta, quota).await
        };
        written(self.call(space, Some(write), increment).await?, space)
    }

    async fn swap(
        &self,
        space: &Space,
        key: &str,
        seen: Seen,
        value: Vec<u8>,
    ) -> Result<bool, KeyValueError> {
        let (write, quota, key) = (self.write(space).await, quota(space), key.to_owned());
        let swap = |store: Arc<dyn PluginStore>, keys| async move {
            store.swap_value(&keys, &key, seen, &value, quota).await
        };
        match self.call(space, Some(write), swap).await? {
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
        Kept::Mismatch => {
            Err(KeyValueError("the value is no number that this can be added to".to_owned()))
        }
    }
}

/// The guest is told that it failed; why is for the operator.
fn away(error: &dyn std::error::Error) -> KeyValueError {
    tracing::warn!(%error, "values of a plugin could not be reached");
    KeyValueError("the values cannot be reached now".to_owned())
}
