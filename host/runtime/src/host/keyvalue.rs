//! Values that outlive an attempt: `wasi:keyvalue`, in front of the trait
//! [`KeyValue`](crate::KeyValue).
//!
//! Bounds everything that a guest names or passes, and what a call returns, so that the crates
//! behind see no absurd sizes.

mod draft2;

use std::{collections::VecDeque, sync::Arc};

use taskforge_domain::{FailureKind, LogLevel};
use wasmtime::component::{HasSelf, Linker, Resource};

use super::{HostState, handles::HANDLE};
use crate::{
    contract::keyvalue::{
        atomics, batch,
        store::{self, Error, KeyResponse},
    },
    keyvalue::{KeyValue, KeyValueError, MAX_BUCKET, MAX_KEY, MAX_VALUE, Seen, Space},
};

pub use draft2::Cas;

/// Keys on a page of `list-keys`.
const PAGE: u32 = 1000;

/// Keys of one batch.
const BATCH: usize = 1000;

/// Bytes of values that one batch returns.
const BATCH_BYTES: usize = 4 << 20;

/// What a text or a list of bytes costs besides its bytes.
const ENTRY: usize = 32;

/// What a batch found.
type Batch = Vec<(String, Option<Vec<u8>>)>;

/// Cursors that are remembered; the oldest is forgotten first.
const CURSORS: usize = 16;

/// A bucket that a guest has opened. Public because the generated bindings export it again; nothing
/// leaves this crate.
#[derive(Clone)]
pub struct Bucket {
    space: Space,
    values: Arc<dyn KeyValue>,
}

/// Where the next pages begin. A cursor of the interface is a number, while a position among keys
/// that come and go is a key. So a number stands for the last key of a page, for as long as the
/// attempt lives.
#[derive(Default)]
pub(super) struct Cursors {
    given: u64,
    places: VecDeque<String>,
}

impl Cursors {
    fn give(&mut self, last: String) -> u64 {
        if self.places.len() == CURSORS {
            self.places.pop_front();
        }
        self.places.push_back(last);
        self.given += 1;
        self.given
    }

    fn key(&self, cursor: u64) -> Option<&str> {
        let age = usize::try_from(self.given.checked_sub(cursor)?).ok()?;
        let index = self.places.len().checked_sub(age + 1)?;
        self.places.get(index).map(String::as_str)
    }
}

/// What a call returns: a trap outside, the interface's own error inside.
type Answer<T> = wasmtime::Result<Result<T, Error>>;

impl From<KeyValueError> for Error {
    fn from(KeyValueError(text): KeyValueError) -> Self {
        Self::Other(text)
    }
}

fn bounded(what: &str, length: usize, limit: usize) -> Result<(), Error> {
    if length > limit {
        return Err(Error::Other(format!("{what} has {length} bytes and the limit is {limit}")));
    }
    Ok(())
}

fn key_fits(key: &str) -> Result<(), Error> {
    if key.is_empty() {
        return Err(Error::Other("the key is empty".to_owned()));
    }
    bounded("the key", key.len(), MAX_KEY)
}

fn keys_fit<'a>(count: usize, keys: impl IntoIterator<Item = &'a String>) -> Result<(), Error> {
    if count > BATCH {
        return Err(Error::Other(format!("the batch has {count} keys and the limit is {BATCH}")));
    }
    keys.into_iter().try_for_each(|key| key_fits(key))
}

impl HostState {
    fn open_bucket(&self, name: String) -> Result<Bucket, Error> {
        let quota = self.attempt.plugin.grants.keyvalue;
        if !quota.allowed {
            let text =
                "a key-value store was refused: grant it with `keyvalue = true` under [grants]";
            self.log.lock().refuse(FailureKind::CapabilityDenied, text.to_owned());
            return Err(Error::AccessDenied);
        }
        bounded("the bucket's name", name.len(), MAX_BUCKET)?;
        let Some(values) = &self.attempt.key_value else {
            let text = "this host has no key-value store";
            self.log.lock().note(LogLevel::Error, text);
            return Err(Error::NoSuchStore);
        };
        let space = Space {
            tenant: self.attempt.tenant.clone(),
            plugin: self.attempt.plugin.name.clone(),
            bucket: name,
            quota,
        };
        Ok(Bucket { space, values: Arc::clone(values) })
    }
}

impl HostState {
    fn hold_bucket(&mut self, bucket: Bucket) -> wasmtime::Result<Resource<Bucket>> {
        self.making("the bucket", HANDLE + MAX_BUCKET as u64, |state| {
            Ok(state.table.push(bucket)?)
        })
    }

    fn drop_bucket(&mut self, bucket: Resource<Bucket>) -> wasmtime::Result<()> {
        let handle = bucket.rep();
        self.table.delete(bucket)?;
        self.handles.release(handle);
        Ok(())
    }

    /// Charges for a value on its way to the guest, after it was read, which its bound allows.
    fn carry_value<E>(&mut self, value: &Result<Option<Vec<u8>>, E>) -> wasmtime::Result<()> {
        let length = value.as_ref().ok().and_then(Option::as_ref).map_or(0, Vec::len);
        Ok(self.carry("the value", length)?)
    }

    fn carry_keys(&mut self, keys: &[String]) -> wasmtime::Result<()> {
        Ok(self.carry("the page of keys", keys.iter().map(|key| key.len() + ENTRY).sum())?)
    }

    fn carry_batch<E>(&mut self, found: &Result<Batch, E>) -> wasmtime::Result<()> {
        let found = found.as_ref().map_or(&[][..], Vec::as_slice);
        let sizes = found
            .iter()
            .map(|(key, value)| key.len() + value.as_ref().map_or(0, Vec::len) + 2 * ENTRY);
        Ok(self.carry("what the batch found", sizes.sum())?)
    }

    /// What a batch may return, in bytes.
    fn batch_room(&self) -> usize {
        usize::try_from(self.budget.room()).map_or(BATCH_BYTES, |room| room.min(BATCH_BYTES))
    }
}

impl store::Host for HostState {
    async fn open(&mut self, name: String) -> Answer<Resource<Bucket>> {
        match self.open_bucket(name) {
            Ok(bucket) => Ok(Ok(self.hold_bucket(bucket)?)),
            Err(error) => Ok(Err(error)),
        }
    }
}

impl store::HostBucket for HostState {
    async fn get(&mut self, bucket: Resource<Bucket>, key: String) -> Answer<Option<Vec<u8>>> {
        let bucket = self.table.get(&bucket)?;
        let value = bucket.get(&key).await;
        self.carry_value(&value)?;
        Ok(value)
    }

    async fn set(&mut self, bucket: Resource<Bucket>, key: String, value: Vec<u8>) -> Answer<()> {
        let bucket = self.table.get(&bucket)?;
        Ok(bucket.set(vec![(key, value)]).await)
    }

    async fn delete(&mut self, bucket: Resource<Bucket>, key: String) -> Answer<()> {
        let bucket = self.table.get(&bucket)?;
        Ok(bucket.delete(vec![key]).await)
    }

    async fn exists(&mut self, bucket: Resource<Bucket>, key: String) -> Answer<bool> {
        let bucket = self.table.get(&bucket)?;
        Ok(bucket.get(&key).await.map(|value| value.is_some()))
    }

    async fn list_keys(
        &mut self,
        bucket: Resource<Bucket>,
        cursor: Option<u64>,
    ) -> Answer<KeyResponse> {
        let bucket = self.table.get(&bucket)?;
        let after = match cursor.map(|cursor| self.cursors.key(cursor)) {
            Some(None) => {
                return Ok(Err(Error::Other("this cursor is not known, or no longer".to_owned())));
            }
            Some(key) => key,
            None => None,
        };
        let page = bucket.page(after).await;
        self.carry_keys(page.as_ref().map_or(&[], |(keys, _)| keys))?;
        Ok(page.map(|(keys, last)| KeyResponse {
            keys,
            cursor: last.map(|last| self.cursors.give(last)),
        }))
    }

    async fn drop(&mut self, bucket: Resource<Bucket>) -> wasmtime::Result<()> {
        self.drop_bucket(bucket)
    }
}

impl Bucket {
    async fn get(&self, key: &str) -> Result<Option<Vec<u8>>, Error> {
        key_fits(key)?;
        Ok(self.values.get(&self.space, key).await?)
    }

    async fn set(&self, values: Vec<(String, Vec<u8>)>) -> Result<(), Error> {
        keys_fit(values.len(), values.iter().map(|(key, _)| key))?;
        for (_, value) in &values {
            bounded("the value", value.len(), MAX_VALUE)?;
        }
        Ok(self.values.set(&self.space, values).await?)
    }

    async fn delete(&self, keys: Vec<String>) -> Result<(), Error> {
        keys_fit(keys.len(), &keys)?;
        Ok(self.values.delete(&self.space, keys).await?)
    }

    /// A page of keys, and its last key if there may be more.
    async fn page(&self, after: Option<&str>) -> Result<(Vec<String>, Option<String>), Error> {
        let keys = self.values.keys(&self.space, after, PAGE).await?;
        let last = keys.last().filter(|_| keys.len() >= PAGE as usize).cloned();
        Ok((keys, last))
    }

    /// Of at most so many bytes.
    async fn get_many(&self, keys: Vec<String>, most: usize) -> Result<Batch, Error> {
        keys_fit(keys.len(), &keys)?;
        let mut found = Vec::with_capacity(keys.len());
        let mut bytes = 0;
        for key in keys {
            let value = self.values.get(&self.space, &key).await?;
            bytes += value.as_ref().map_or(0, Vec::len);
            bounded("what the batch found", bytes, most)?;
            found.push((key, value));
        }
        Ok(found)
    }

    async fn add(&self, key: &str, delta: i64) -> Result<i64, Error> {
        key_fits(key)?;
        Ok(self.values.increment(&self.space, key, delta).await?)
    }

    /// `false`: the value is no longer the one that was seen.
    async fn swap(&self, key: &str, seen: Seen, value: Vec<u8>) -> Result<bool, Error> {
        bounded("the value", value.len(), MAX_VALUE)?;
        Ok(self.values.swap(&self.space, key, seen, value).await?)
    }

    /// The first draft knows no sign, but another program may have written a negative number.
    async fn increment(&self, key: &str, delta: u64) -> Result<u64, Error> {
        let delta = i64::try_from(delta)
            .map_err(|_| Error::Other(format!("{delta} is more than can be added at once")))?;
        let sum = self.add(key, delta).await?;
        u64::try_from(sum).map_err(|_| Error::Other(format!("the sum is {sum}, less than 0")))
    }
}

impl atomics::Host for HostState {
    async fn increment(
        &mut self,
        bucket: Resource<Bucket>,
        key: String,
        delta: u64,
    ) -> Answer<u64> {
        let bucket = self.table.get(&bucket)?;
        Ok(bucket.increment(&key, delta).await)
    }
}

impl batch::Host for HostState {
    async fn get_many(
        &mut self,
        bucket: Resource<Bucket>,
        keys: Vec<String>,
    ) -> Answer<Vec<Option<(String, Vec<u8>)>>> {
        let most = self.batch_room();
        let bucket = self.table.get(&bucket)?;
        let found = bucket.get_many(keys, most).await;
        self.carry_batch(&found)?;
        Ok(found.map(|found| {
            let found = found.into_iter();
            found.map(|(key, value)| Some((key, value?))).collect()
        }))
    }

    async fn set_many(
        &mut self,
        bucket: Resource<Bucket>,
        values: Vec<(String, Vec<u8>)>,
    ) -> Answer<()> {
        let bucket = self.table.get(&bucket)?;
        Ok(bucket.set(values).await)
    }

    async fn delete_many(&mut self, bucket: Resource<Bucket>, keys: Vec<String>) -> Answer<()> {
        let bucket = self.table.get(&bucket)?;
        Ok(bucket.delete(keys).await)
    }
}

pub(super) fn link(linker: &mut Linker<HostState>) -> wasmtime::Result<()> {
    store::add_to_linker::<_, HasSelf<HostState>>(linker, HostState::counted)?;
    atomics::add_to_linker::<_, HasSelf<HostState>>(linker, HostState::counted)?;
    batch::add_to_linker::<_, HasSelf<HostState>>(linker, HostState::counted)?;
    draft2::link(linker)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_is_good_for_a_while_and_only_where_it_was_given() {
        let mut cursors = Cursors::default();
        assert_eq!((cursors.key(0), cursors.key(1)), (None, None));
        let first = cursors.give("a".to_owned());
        let second = cursors.give("b".to_owned());
        assert_eq!(cursors.key(first), Some("a"));
        assert_eq!(cursors.key(second), Some("b"));
        assert_eq!(cursors.key(second + 1), None);
        for _ in 0..CURSORS - 1 {
            cursors.give("z".to_owned());
        }
        assert_eq!(cursors.key(first), None);
        assert_eq!(cursors.key(second), Some("b"));
        assert_eq!(cursors.key(u64::MAX), None);
    }
}
