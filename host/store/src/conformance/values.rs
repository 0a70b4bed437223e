//! What plugins keep.

use sha2::{Digest as _, Sha256};

use super::*;
use crate::{BUCKET_BYTES, KEY_BYTES, Kept, KeyQuota, KeySpace, PluginStore, StoreError};

const AMPLE: KeyQuota = KeyQuota { bytes: 1 << 30, keys: 1 << 20 };

const fn quota(bytes: u64, keys: u64) -> KeyQuota {
    KeyQuota { bytes, keys }
}

fn space(tenant: &str, plugin: &str, bucket: &str) -> KeySpace {
    KeySpace { tenant: TenantId::new(tenant).unwrap(), plugin: kind(plugin), bucket: bucket.into() }
}

/// The key space of rules that need no other.
fn one() -> KeySpace {
    space("acme", "x", "")
}

impl World {
    async fn set(&self, space: &KeySpace, values: &[(&str, &[u8])], quota: KeyQuota) -> Kept<()> {
        let values: Vec<_> =
            values.iter().map(|(key, value)| ((*key).to_owned(), value.to_vec())).collect();
        self.plugins.set_values(space, &values, quota).await.unwrap()
    }

    async fn value(&self, space: &KeySpace, key: &str) -> Option<Vec<u8>> {
        self.plugins.get_value(space, key).await.unwrap()
    }

    async fn delete(&self, space: &KeySpace, keys: &[&str]) {
        let keys: Vec<_> = keys.iter().map(|key| (*key).to_owned()).collect();
        self.plugins.delete_values(space, &keys).await.unwrap();
    }

    async fn keys(&self, space: &KeySpace, after: Option<&str>, limit: u32) -> Vec<String> {
        self.plugins.list_keys(space, after, limit).await.unwrap()
    }

    async fn increment(
        &self,
        space: &KeySpace,
        key: &str,
        delta: i64,
        quota: KeyQuota,
    ) -> Kept<i64> {
        let sum = self.plugins.increment_value(space, key, delta, quota);
        sum.await.unwrap()
    }
}

/// Keys that text columns, languages' orders or JSON would trip over, in byte order.
const STRANGE: [&str; 12] =
    ["", "\u{0}", "\u{0}a", "\n", " ", "\"\\'", "%_", "A", "a", "a\u{0}", "é", "\u{1f980}"];

pub async fn a_value_reads_back_whatever_its_bytes(world: World) {
    let all: Vec<u8> = (0..=255).collect();
    for bucket in STRANGE {
        let space = space("acme", "x", bucket);
        let values: Vec<_> = STRANGE
            .iter()
            .map(|key| ((*key).to_owned(), [key.as_bytes(), &all].concat()))
            .collect();
        let set = world.plugins.set_values(&space, &values, AMPLE).await;
        assert_eq!(set.unwrap(), Kept::Written(()));
        for (key, value) in values {
            assert_eq!(world.value(&space, &key).await, Some(value), "{bucket:?} {key:?}");
        }
        assert_eq!(world.keys(&space, None, 100).await, STRANGE);
    }
    assert_eq!(world.set(&one(), &[("empty", b"")], AMPLE).await, Kept::Written(()));
    assert_eq!(world.value(&one(), "empty").await, Some(Vec::new()));
    assert_eq!(world.value(&one(), "none").await, None);
    let large = vec![0xa5; (3 << 20) + 1];
    world.set(&one(), &[("large", &large), ("small", b"1")], AMPLE).await;
    assert!(world.value(&one(), "large").await == Some(large));
}

pub async fn of_a_key_that_is_named_twice_the_last_value_counts(world: World) {
    let twice = [("a", &b"long value"[..]), ("b", b"1"), ("a", b"2")];
    assert_eq!(world.set(&one(), &twice, quota(4, 2)).await, Kept::Written(()));
    assert_eq!(world.value(&one(), "a").await, Some(b"2".to_vec()));
    assert_eq!(world.set(&one(), &[], quota(0, 0)).await, Kept::Written(()));
}

pub async fn tenants_plugins_and_buckets_are_apart(world: World) {
    let spaces = [
        space("acme", "x", "b"),
        space("other", "x", "b"),
        space("acme", "y", "b"),
        space("acme", "x", "c"),
    ];
    for (n, space) in (0_u8..).zip(&spaces) {
        world.set(space, &[("key", &[n])], AMPLE).await;
    }
    for (n, space) in (0_u8..).zip(&spaces) {
        assert_eq!(world.value(space, "key").await, Some(vec![n]));
    }
    world.delete(&spaces[0], &["key"]).await;
    assert!(world.keys(&spaces[0], None, 10).await.is_empty());
    for space in &spaces[1..] {
        assert_eq!(world.keys(space, None, 10).await, ["key"]);
    }
}

pub async fn a_quota_of_bytes_counts_keys_and_values_of_all_buckets(world: World) {
    let (a, b) = (space("acme", "x", "a"), space("acme", "x", "b"));
    let ten = quota(10, 100);
    assert_eq!(world.set(&a, &[("k", b"1234")], ten).await, Kept::Written(()));
    assert_eq!(world.set(&b, &[("k", b"12345")], ten).await, Kept::OverQuota);
    assert_eq!(world.set(&b, &[("k", b"1234")], ten).await, Kept::Written(()));
    // All or none.
    let both = [("k", &b"1"[..]), ("l", b"123")];
    assert_eq!(world.set(&b, &both, ten).await, Kept::OverQuota);
    assert_eq!(world.value(&b, "k").await, Some(b"1234".to_vec()));
    assert_eq!(world.value(&b, "l").await, None);
    // Another tenant and another plugin have their own.
    for other in [space("other", "x", "a"), space("acme", "y", "a")] {
        assert_eq!(world.set(&other, &[("k", b"123456789")], ten).await, Kept::Written(()));
    }
}

pub async fn a_quota_of_keys_counts_those_of_all_buckets(world: World) {
    let (a, b) = (space("acme", "x", "a"), space("acme", "x", "b"));
    let three = quota(1_000, 3);
    assert_eq!(world.set(&a, &[("1", b""), ("2", b"")], three).await, Kept::Written(()));
    assert_eq!(world.set(&b, &[("1", b""), ("2", b"")], three).await, Kept::OverQuota);
    assert_eq!(world.set(&b, &[("1", b"")], three).await, Kept::Written(()));
    assert_eq!(world.set(&a, &[("1", b"x"), ("2", b"x")], three).await, Kept::Written(()));
    assert_eq!(world.increment(&b, "n", 1, three).await, Kept::OverQuota);
    assert_eq!(world.value(&b, "n").await, None);
}

pub async fn what_shrinks_or_goes_leaves_room(world: World) {
    let (ten, space) = (quota(10, 2), one());
    let set = async |key, value: &[u8]| world.set(&space, &[(key, value)], ten).await;
    assert_eq!(set("a", b"123456789").await, Kept::Written(()));
    assert_eq!(set("b", b"").await, Kept::OverQuota);
    assert_eq!(set("a", b"1234").await, Kept::Written(()));
    assert_eq!(set("b", b"1234").await, Kept::Written(()));
    assert_eq!(set("b", b"12345").await, Kept::OverQuota);
    world.delete(&space, &["none"]).await;
    world.delete(&space, &[]).await;
    assert_eq!(set("b", b"12345").await, Kept::OverQuota);
    world.delete(&space, &["a", "none", "a"]).await;
    assert_eq!(world.value(&space, "a").await, None);
    assert_eq!(set("b", b"123456789").await, Kept::Written(()));
    world.delete(&space, &["b"]).await;
    assert_eq!(world.set(&space, &[("c", b"1234"), ("d", b"1234")], ten).await, Kept::Written(()));
    world.delete(&crate::KeySpace { bucket: "never used".into(), ..one() }, &["c"]).await;
    assert_eq!(world.keys(&space, None, 10).await, ["c", "d"]);
}

pub async fn what_is_above_a_lowered_quota_stays_and_may_shrink(world: World) {
    let (low, space) = (quota(5, 1), one());
    world.set(&space, &[("a", b"1234"), ("b", b"1234")], AMPLE).await;
    assert_eq!(world.set(&space, &[("a", b"12345")], low).await, Kept::OverQuota);
    assert_eq!(world.set(&space, &[("c", b"")], low).await, Kept::OverQuota);
    assert_eq!(world.set(&space, &[("a", b"123")], low).await, Kept::Written(()));
    assert_eq!(world.value(&space, "b").await, Some(b"1234".to_vec()));
}

pub async fn keys_are_listed_page_by_page_in_byte_order(world: World) {
    let space = one();
    let keys: Vec<_> = (0..250).map(|n| format!("{:03}", (n * 7) % 250)).collect();
    let values: Vec<_> = keys.iter().map(|key| (key.as_str(), &b""[..])).collect();
    world.set(&space, &values, AMPLE).await;
    let mut seen: Vec<String> = Vec::new();
    loop {
        let page = world.keys(&space, seen.last().map(String::as_str), 100).await;
        if page.is_empty() {
            break;
        }
        assert!(page.len() <= 100);
        seen.extend(page);
    }
    let expected: Vec<_> = (0..250).map(|n| format!("{n:03}")).collect();
    assert_eq!(seen, expected);
    // A page begins after any text, whether it is a key or not.
    assert_eq!(world.keys(&space, Some("0075"), 2).await, ["008", "009"]);
    assert!(world.keys(&space, Some("\u{10ffff}"), 2).await.is_empty());
    assert!(world.keys(&space, None, 0).await.is_empty());
    world.set(&space, &[("", b"")], AMPLE).await;
    assert_eq!(world.keys(&space, None, 1).await, [""]);
    assert_eq!(world.keys(&space, Some(""), 1).await, ["000"]);
}

pub async fn a_number_is_added_to(world: World) {
    let space = one();
    assert_eq!(world.increment(&space, "n", 5, AMPLE).await, Kept::Written(5));
    assert_eq!(world.increment(&space, "n", -7, AMPLE).await, Kept::Written(-2));
    assert_eq!(world.value(&space, "n").await, Some(b"-2".to_vec()));
    world.set(&space, &[("n", b"41"), ("text", b"x")], AMPLE).await;
    assert_eq!(world.increment(&space, "n", 1, AMPLE).await, Kept::Written(42));
    assert_eq!(world.increment(&space, "text", 1, AMPLE).await, Kept::Mismatch);
    assert_eq!(world.value(&space, "text").await, Some(b"x".to_vec()));
    assert_eq!(world.increment(&space, "n", i64::MAX, AMPLE).await, Kept::Mismatch);
    assert_eq!(world.increment(&space, "n", i64::MAX - 42, AMPLE).await, Kept::Written(i64::MAX));
    // "n" and 19 digits, "text" and one letter.
    assert_eq!(world.increment(&space, "m", 10, quota(27, 9)).await, Kept::OverQuota);
    assert_eq!(world.increment(&space, "m", 9, quota(27, 9)).await, Kept::Written(9));
    assert_eq!(world.increment(&space, "m", 1, quota(27, 9)).await, Kept::OverQuota);
}

fn digest(value: &[u8]) -> [u8; 32] {
    Sha256::digest(value).into()
}

pub async fn a_value_is_swapped_if_it_is_the_one_that_was_seen(world: World) {
    let space = one();
    let swap = async |seen: Option<&[u8]>, value: &[u8], quota| {
        let swapped = world.plugins.swap_value(&space, "k", seen.map(digest), value, quota);
        swapped.await.unwrap()
    };
    assert_eq!(swap(Some(b""), b"1", AMPLE).await, Kept::Mismatch, "no value is not an empty one");
    assert_eq!(world.value(&space, "k").await, None);
    assert_eq!(swap(None, b"1", quota(1, 9)).await, Kept::OverQuota);
    assert_eq!(swap(None, b"1", quota(2, 1)).await, Kept::Written(()));
    assert_eq!(swap(None, b"2", AMPLE).await, Kept::Mismatch);
    assert_eq!(swap(Some(b"2"), b"3", AMPLE).await, Kept::Mismatch);
    assert_eq!(swap(Some(b"1"), b"23", quota(2, 1)).await, Kept::OverQuota);
    assert_eq!(world.value(&space, "k").await, Some(b"1".to_vec()));
    assert_eq!(swap(Some(b"1"), b"", quota(1, 1)).await, Kept::Written(()));
    assert_eq!(swap(Some(b""), b"!", quota(2, 1)).await, Kept::Written(()));
    assert_eq!(world.value(&space, "k").await, Some(b"!".to_vec()));
}

pub async fn of_many_swaps_at_once_each_sees_the_one_before(world: World) {
    let swappers = (0..8).map(|_| {
        let plugins = Arc::clone(&world.plugins);
        tokio::spawn(async move {
            let (space, mut done) = (one(), 0);
            while done < 10 {
                let old = plugins.get_value(&space, "n").await.unwrap();
                let number: u32 =
                    old.as_deref().map_or(0, |old| String::from_utf8_lossy(old).parse().unwrap());
                let next = (number + 1).to_string();
                let seen = old.as_deref().map(digest);
                let swapped = plugins.swap_value(&space, "n", seen, next.as_bytes(), AMPLE).await;
                done += u32::from(swapped.unwrap() == Kept::Written(()));
            }
        })
    });
    for swapper in swappers.collect::<Vec<_>>() {
        swapper.await.unwrap();
    }
    assert_eq!(world.value(&one(), "n").await, Some(b"80".to_vec()));
}

pub async fn a_hundred_increments_at_once_make_a_hundred(world: World) {
    let increments: Vec<_> = (0..100)
        .map(|n| {
            let plugins = Arc::clone(&world.plugins);
            // Two buckets: they share what is kept, and not their numbers.
            let space = space("acme", "x", if n % 4 == 0 { "a" } else { "b" });
            tokio::spawn(
                async move { plugins.increment_value(&space, "n", 1, AMPLE).await.unwrap() },
            )
        })
        .collect();
    let mut sums = Vec::new();
    for increment in increments {
        sums.push(increment.await.unwrap());
    }
    let times = |n| sums.iter().filter(|sum| **sum == Kept::Written(n)).count();
    assert!((1..=25).all(|n| times(n) == 2) && (26..=75).all(|n| times(n) == 1));
    assert_eq!(world.value(&space("acme", "x", "a"), "n").await, Some(b"25".to_vec()));
    assert_eq!(world.value(&space("acme", "x", "b"), "n").await, Some(b"75".to_vec()));
}

/// However many write at once: what is kept never passes the quota, and the sum is that of what is
/// there.
pub async fn a_quota_holds_when_many_write_at_once(world: World) {
    async fn write(plugins: Arc<dyn PluginStore>, n: usize) -> usize {
        let (mut written, space) = (0, one());
        for m in 0..6 {
            let key = format!("{}", (n * 3 + m) % 20);
            if m == 4 {
                plugins.delete_values(&space, &[key]).await.unwrap();
                continue;
            }
            let value = vec![0; 1 + (n + m) % 9];
            let set = plugins.set_values(&space, &[(key, value)], quota(60, 8)).await;
            written += usize::from(set.unwrap() == Kept::Written(()));
        }
        written
    }
    let writers: Vec<_> =
        (0..8).map(|n| tokio::spawn(write(Arc::clone(&world.plugins), n))).collect();
    let mut written = 0;
    for writer in writers {
        written += writer.await.unwrap();
    }
    // One of them may have found no room each time.
    assert!(written > 0);
    let keys = world.keys(&one(), None, 100).await;
    let mut bytes = 0;
    for key in &keys {
        bytes += key.len() + world.value(&one(), key).await.unwrap().len();
    }
    assert!(keys.len() <= 8 && bytes <= 60, "{keys:?}: {bytes}");
    // There is exactly as much room as that leaves.
    let (bytes, count) = (bytes as u64, keys.len() as u64);
    let more = [("more", &b"!"[..])];
    assert_eq!(world.set(&one(), &more, quota(bytes + 4, count + 1)).await, Kept::OverQuota);
    assert_eq!(world.set(&one(), &more, quota(bytes + 5, count)).await, Kept::OverQuota);
    assert_eq!(world.set(&one(), &more, quota(bytes + 5, count + 1)).await, Kept::Written(()));
}

pub async fn names_have_a_bound(world: World) {
    let longest = space("acme", "x", &"b".repeat(BUCKET_BYTES));
    let key = "é".repeat(KEY_BYTES / 2);
    assert_eq!(world.set(&longest, &[(&key, b"1")], AMPLE).await, Kept::Written(()));
    assert_eq!(world.increment(&longest, &key, 1, AMPLE).await, Kept::Written(2));
    assert_eq!(world.keys(&longest, None, 9).await, std::slice::from_ref(&key));
    let beyond = |key: &str| [(key.to_owned(), Vec::new())];
    let too_long = format!("{key}x");
    let wide = space("acme", "x", &"b".repeat(BUCKET_BYTES + 1));
    for (space, key) in [(&longest, too_long.as_str()), (&wide, "k")] {
        let set = world.plugins.set_values(space, &beyond(key), AMPLE).await;
        assert!(matches!(set, Err(StoreError::Refused(_))), "{set:?}");
        let sum = world.plugins.increment_value(space, key, 1, AMPLE).await;
        assert!(matches!(sum, Err(StoreError::Refused(_))), "{sum:?}");
        let swapped = world.plugins.swap_value(space, key, None, b"", AMPLE).await;
        assert!(matches!(swapped, Err(StoreError::Refused(_))), "{swapped:?}");
        assert_eq!(world.value(space, key).await, None);
    }
}
