//! Values that live as long as the process.

use std::{
    collections::BTreeMap,
    ops::Bound,
    sync::{Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use taskforge_domain::{TaskType, TenantId};

use super::{KeyValue, KeyValueError, Seen, Space, seen};

/// Keeps values in memory: for `plugin run`, and for tests.
#[derive(Debug, Default)]
pub struct MemoryKeyValue {
    shelves: Mutex<BTreeMap<(TenantId, TaskType), Shelf>>,
}

/// The values of one plugin for one tenant, which share a quota: by bucket and key.
type Shelf = BTreeMap<(String, String), Vec<u8>>;

impl MemoryKeyValue {
    /// Without any value.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn shelves(&self) -> MutexGuard<'_, BTreeMap<(TenantId, TaskType), Shelf>> {
        // Nothing panics under the lock; if something did, every value would still be whole.
        self.shelves.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn on_shelf<T>(&self, space: &Space, act: impl FnOnce(&mut Shelf) -> T) -> T {
        let owner = (space.tenant.clone(), space.plugin.clone());
        act(self.shelves().entry(owner).or_default())
    }
}

fn place(space: &Space, key: &str) -> (String, String) {
    (space.bucket.clone(), key.to_owned())
}

/// Puts values on a shelf if they fit beside what stays.
fn put(
    shelf: &mut Shelf,
    space: &Space,
    values: Vec<(String, Vec<u8>)>,
) -> Result<(), KeyValueError> {
    let new: Shelf = values.into_iter().map(|(key, value)| (place(space, &key), value)).collect();
    let staying = || shelf.iter().filter(|(place, _)| !new.contains_key(*place));
    let size = |((_, key), value): (&(String, String), &Vec<u8>)| (key.len() + value.len()) as u64;
    let keys = (staying().count() + new.len()) as u64;
    let bytes: u64 = staying().chain(&new).map(size).sum();
    let quota = &space.quota;
    if keys > quota.keys {
        return Err(KeyValueError(format!(
            "that would be {keys} keys and the quota is {}",
            quota.keys
        )));
    }
    if bytes > quota.bytes {
        return Err(KeyValueError(format!(
            "that would be {bytes} bytes of keys and values and the quota is {}",
            quota.bytes
        )));
    }
    shelf.extend(new);
    Ok(())
}

fn number(value: &[u8]) -> Result<i64, KeyValueError> {
    std::str::from_utf8(value)
        .ok()
        .and_then(|text| text.parse().ok())
        .ok_or_else(|| KeyValueError("the value that is there is no number".to_owned()))
}

#[async_trait]
impl KeyValue for MemoryKeyValue {
    async fn get(&self, space: &Space, key: &str) -> Result<Option<Vec<u8>>, KeyValueError> {
        Ok(self.on_shelf(space, |shelf| shelf.get(&place(space, key)).cloned()))
    }

    async fn set(
        &self,
        space: &Space,
        values: Vec<(String, Vec<u8>)>,
    ) -> Result<(), KeyValueError> {
        self.on_shelf(space, |shelf| put(shelf, space, values))
    }

    async fn delete(&self, space: &Space, keys: Vec<String>) -> Result<(), KeyValueError> {
        self.on_shelf(space, |shelf| {
            for key in keys {
                shelf.remove(&place(space, &key));
            }
        });
        Ok(())
    }

    async fn keys(
        &self,
        space: &Space,
        after: Option<&str>,
        limit: u32,
    ) -> Result<Vec<String>, KeyValueError> {
        // No key is empty, so every one comes after the empty text.
        let start = place(space, after.unwrap_or_default());
        Ok(self.on_shelf(space, |shelf| {
            shelf
                .range((Bound::Excluded(start), Bound::Unbounded))
                .take_while(|((bucket, _), _)| *bucket == space.bucket)
                .take(limit as usize)
                .map(|((_, key), _)| key.clone())
                .collect()
        }))
    }

    async fn increment(&self, space: &Space, key: &str, delta: i64) -> Result<i64, KeyValueError> {
        self.on_shelf(space, |shelf| {
            let before = shelf.get(&place(space, key)).map_or(Ok(0), |value| number(value))?;
            let sum = before.checked_add(delta).ok_or_else(|| {
                KeyValueError("the sum is more than a number can hold".to_owned())
            })?;
            put(shelf, space, vec![(key.to_owned(), sum.to_string().into_bytes())])?;
            Ok(sum)
        })
    }

    async fn swap(
        &self,
        space: &Space,
        key: &str,
        expected: Seen,
        value: Vec<u8>,
    ) -> Result<bool, KeyValueError> {
        self.on_shelf(space, |shelf| {
            if seen(shelf.get(&place(space, key)).map(Vec::as_slice)) != expected {
                return Ok(false);
            }
            put(shelf, space, vec![(key.to_owned(), value)])?;
            Ok(true)
        })
    }
}

#[cfg(test)]
mod tests {
    use taskforge_domain::KeyValueGrant;

    use super::*;

    fn space(tenant: &str, bucket: &str) -> Space {
        Space {
            tenant: TenantId::new(tenant).unwrap(),
            plugin: TaskType::new("notes").unwrap(),
            bucket: bucket.to_owned(),
            quota: KeyValueGrant { allowed: true, bytes: 20, keys: 3 },
        }
    }

    fn pair(key: &str, value: &str) -> (String, Vec<u8>) {
        (key.to_owned(), value.as_bytes().to_vec())
    }

    #[tokio::test]
    async fn tenants_and_buckets_are_kept_apart() {
        let kept = MemoryKeyValue::new();
        let (mine, other, yours) = (space("me", "a"), space("me", "b"), space("you", "a"));
        kept.set(&mine, vec![pair("k", "v")]).await.unwrap();
        assert_eq!(kept.get(&mine, "k").await.unwrap().unwrap(), b"v");
        for elsewhere in [&other, &yours] {
            assert_eq!(kept.get(elsewhere, "k").await.unwrap(), None);
            assert!(kept.keys(elsewhere, None, 10).await.unwrap().is_empty());
        }
    }

    #[tokio::test]
    async fn a_quota_counts_every_bucket_and_refuses_a_write_as_a_whole() {
        let kept = MemoryKeyValue::new();
        let (a, b) = (space("me", "a"), space("me", "b"));
        kept.set(&a, vec![pair("one", "1234567")]).await.unwrap();
        let error = kept.set(&b, vec![pair("x", "1"), pair("y", "1234567890")]).await.unwrap_err();
        assert!(error.0.contains("quota is 20"), "{error}");
        assert_eq!(kept.get(&b, "x").await.unwrap(), None);
        // What is written over does not count twice.
        kept.set(&a, vec![pair("one", "12345678901234567")]).await.unwrap();
        kept.set(&a, vec![pair("one", "")]).await.unwrap();
        kept.set(&b, vec![pair("x", ""), pair("y", "")]).await.unwrap();
        let error = kept.set(&b, vec![pair("z", "")]).await.unwrap_err();
        assert!(error.0.contains("4 keys"), "{error}");
        kept.delete(&b, vec!["x".to_owned(), "no such".to_owned()]).await.unwrap();
        kept.set(&b, vec![pair("z", "")]).await.unwrap();
    }

    #[tokio::test]
    async fn keys_come_in_pages() {
        let kept = MemoryKeyValue::new();
        let space = space("me", "a");
        kept.set(&space, vec![pair("c", ""), pair("a", ""), pair("b", "")]).await.unwrap();
        assert_eq!(kept.keys(&space, None, 2).await.unwrap(), ["a", "b"]);
        assert_eq!(kept.keys(&space, Some("b"), 2).await.unwrap(), ["c"]);
    }

    #[tokio::test]
    async fn a_value_is_swapped_if_it_is_the_one_that_was_seen() {
        let kept = MemoryKeyValue::new();
        let space = space("me", "a");
        let swap = async |expected: Option<&str>, value: &str| {
            let expected = seen(expected.map(str::as_bytes));
            kept.swap(&space, "k", expected, value.as_bytes().to_vec()).await
        };
        assert!(!swap(Some(""), "1").await.unwrap(), "no value is not an empty one");
        assert!(swap(None, "1").await.unwrap());
        assert!(!swap(None, "2").await.unwrap());
        assert!(swap(Some("1"), "2").await.unwrap());
        assert!(swap(Some("2"), &"v".repeat(20)).await.is_err(), "beyond the quota");
        assert_eq!(kept.get(&space, "k").await.unwrap().unwrap(), b"2");
    }

    #[tokio::test]
    async fn a_number_is_text_and_never_wraps() {
        let kept = MemoryKeyValue::new();
        let space = space("me", "a");
        assert_eq!(kept.increment(&space, "n", 2).await.unwrap(), 2);
        assert_eq!(kept.increment(&space, "n", -5).await.unwrap(), -3);
        assert_eq!(kept.get(&space, "n").await.unwrap().unwrap(), b"-3");
        assert!(kept.increment(&space, "n", i64::MIN).await.is_err());
        kept.set(&space, vec![pair("n", "many")]).await.unwrap();
        assert!(kept.increment(&space, "n", 1).await.is_err());
    }
}
