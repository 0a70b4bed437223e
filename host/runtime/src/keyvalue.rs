//! Values that a plugin keeps between attempts, behind `wasi:keyvalue`.

mod memory;

use async_trait::async_trait;
use sha2::{Digest as _, Sha256};
use taskforge_domain::{KeyValueGrant, TaskType, TenantId};

pub use memory::MemoryKeyValue;

/// The longest name of a bucket, in bytes.
pub const MAX_BUCKET: usize = 255;

/// The longest key, in bytes. None is empty.
pub const MAX_KEY: usize = 1024;

/// The largest value, in bytes, whatever the quota.
pub const MAX_VALUE: usize = 1 << 20;

/// Whose values they are: each tenant of a plugin has its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Space {
    /// The tenant whose task runs.
    pub tenant: TenantId,
    /// The plugin.
    pub plugin: TaskType,
    /// The bucket, as the guest named it.
    pub bucket: String,
    /// The most that it may keep, in all buckets together.
    pub quota: KeyValueGrant,
}

/// Why a value was not read or written. The text is for the guest and the task's log.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct KeyValueError(pub String);

/// Keeps values. Names, keys and values are within the bounds of this file. A call may be dropped
/// when its attempt is cancelled; its change is then made as a whole or not at all.
#[async_trait]
pub trait KeyValue: Send + Sync + 'static {
    /// Reads a value.
    ///
    /// # Errors
    /// When the values cannot be reached.
    async fn get(&self, space: &Space, key: &str) -> Result<Option<Vec<u8>>, KeyValueError>;

    /// Writes values, all or none.
    ///
    /// # Errors
    /// When that would be more than the quota, or the values cannot be reached.
    async fn set(&self, space: &Space, values: Vec<(String, Vec<u8>)>)
    -> Result<(), KeyValueError>;

    /// Deletes values; missing ones are no error.
    ///
    /// # Errors
    /// When the values cannot be reached.
    async fn delete(&self, space: &Space, keys: Vec<String>) -> Result<(), KeyValueError>;

    /// The keys of the bucket in byte order, those after `after`, at most `limit`.
    ///
    /// # Errors
    /// When the values cannot be reached.
    async fn keys(
        &self,
        space: &Space,
        after: Option<&str>,
        limit: u32,
    ) -> Result<Vec<String>, KeyValueError>;

    /// Adds to a number, 0 while there is none. Returns the sum. Numbers are kept as decimal text,
    /// so that a handler may read and write them as values.
    ///
    /// # Errors
    /// When the value that is there is no number, on overflow, beyond the quota, or when the values
    /// cannot be reached.
    async fn increment(&self, space: &Space, key: &str, delta: i64) -> Result<i64, KeyValueError>;

    /// Writes a value if the present one is the one that was seen. `false`: it is another.
    ///
    /// # Errors
    /// When that would be more than the quota, or the values cannot be reached.
    async fn swap(
        &self,
        space: &Space,
        key: &str,
        seen: Seen,
        value: Vec<u8>,
    ) -> Result<bool, KeyValueError>;
}

/// A value as it was seen: its SHA-256, or that there was none.
pub type Seen = Option<[u8; 32]>;

/// This value as it is seen.
#[must_use]
pub fn seen(value: Option<&[u8]>) -> Seen {
    value.map(|value| Sha256::digest(value).into())
}
