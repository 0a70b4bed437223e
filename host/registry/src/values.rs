//! What plugins keep, in the store.

use std::sync::Arc;

use async_trait::async_trait;
use taskforge_domain::KeyValueGrant;
use taskforge_runtime::{KeyValue, KeyValueError, Space};
use taskforge_store::{Kept, KeyQuota, KeySpace, PluginStore, StoreError};

/// The values of plugins, as the sandbox reads and writes them: for each tenant and plugin apart, the same on every host.
#[derive(Clone)]
pub struct StoredValues(Arc<dyn PluginStore>);

impl StoredValues {
    /// Values in this store.
    #[must_use]
    pub fn new(store: Arc<dyn PluginStore>) -> Self {
        Self(store)
    }
}

#[async_trait]
impl KeyValue for StoredValues {
    async fn get(&self, space: &Space, key: &str) -> Result<Option<Vec<u8>>, KeyValueError> {
        self.0.get_value(&keys(space), key).await.map_err(away)
    }

    async fn set(&self, space: &Space, values: Vec<(String, Vec<u8>)>) -> Result<(), KeyValueError> {
        let kept = self.0.set_values(&keys(space), &values, quota(space)).await;
        written(kept.map_err(away)?, space)
    }

    async fn delete(&self, space: &Space, deleted: Vec<String>) -> Result<(), KeyValueError> {
        self.0.delete_values(&keys(space), &deleted).await.map_err(away)
    }

    async fn keys(
        &self,
        space: &Space,
        after: Option<&str>,
        limit: u32,
    ) -> Result<Vec<String>, KeyValueError> {
        let listed = self.0.list_keys(&keys(space), after, limit).await;
        listed.map_err(away)
    }

    async fn increment(&self, space: &Space, key: &str, delta: i64) -> Result<i64, KeyValueError> {
        let kept = self
            .0
            .increment_value(&keys(space), key, delta, quota(space))
            .await;
        written(kept.map_err(away)?, space)
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
