//! What is kept in key spaces: how much, whether there is room for more, and in which order.

use sha2::{Digest as _, Sha256};

use crate::KeyQuota;

/// A number of keys, and the bytes of them and their values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Holding {
    pub(crate) bytes: u64,
    pub(crate) keys: u64,
}

impl Holding {
    /// Of these keys and values.
    pub(crate) fn of<'a>(values: impl IntoIterator<Item = (&'a [u8], &'a [u8])>) -> Self {
        values.into_iter().fold(Self::default(), |sum, (key, value)| Self {
            bytes: sum.bytes + (key.len() + value.len()) as u64,
            keys: sum.keys + 1,
        })
    }

    /// Without a part of it.
    pub(crate) const fn without(self, part: Self) -> Self {
        Self {
            bytes: self.bytes.saturating_sub(part.bytes),
            keys: self.keys.saturating_sub(part.keys),
        }
    }

    /// After `old`, a part of it, has given way to `new`. `None`: that is beyond the quota, and
    /// more than before.
    pub(crate) fn replacing(self, old: Self, new: Self, quota: KeyQuota) -> Option<Self> {
        let rest = self.without(old);
        let next = Self {
            bytes: rest.bytes.saturating_add(new.bytes),
            keys: rest.keys.saturating_add(new.keys),
        };
        let fits =
            next.bytes <= quota.bytes.max(self.bytes) && next.keys <= quota.keys.max(self.keys);
        fits.then_some(next)
    }

    /// After the value of one key has given way to another.
    pub(crate) fn exchanging(
        self,
        key: &str,
        old: Option<&[u8]>,
        new: &[u8],
        quota: KeyQuota,
    ) -> Option<Self> {
        let key = key.as_bytes();
        let old = Self::of(old.map(|value| (key, value)));
        self.replacing(old, Self::of([(key, new)]), quota)
    }
}

/// Whether a value is the one that was seen, by its SHA-256.
pub(crate) fn is_seen(value: Option<&[u8]>, seen: Option<[u8; 32]>) -> bool {
    value.map(|value| Sha256::digest(value).into()) == seen
}

/// The number that a value becomes. `None`: it is no number, or the sum is none of 64 bits.
pub(crate) fn sum(value: Option<&[u8]>, delta: i64) -> Option<i64> {
    let number = match value {
        None => 0,
        Some(text) => std::str::from_utf8(text).ok()?.parse::<i64>().ok()?,
    };
    number.checked_add(delta)
}

/// The least key that comes after another in byte order; the least of all after `None`.
pub(crate) fn first_after(key: Option<&str>) -> Vec<u8> {
    key.map(|key| [key.as_bytes(), &[0]].concat()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn holding(bytes: u64, keys: u64) -> Holding {
        Holding { bytes, keys }
    }

    #[test]
    fn a_quota_is_reached_but_not_passed() {
        let quota = KeyQuota { bytes: 10, keys: 2 };
        let none = Holding::default();
        assert_eq!(none.replacing(none, holding(10, 2), quota), Some(holding(10, 2)));
        assert_eq!(none.replacing(none, holding(11, 1), quota), None);
        assert_eq!(none.replacing(none, holding(3, 3), quota), None);
        assert_eq!(none.replacing(none, holding(u64::MAX, 1), quota), None);
        let full = holding(10, 2);
        assert_eq!(full.replacing(holding(4, 1), holding(3, 1), quota), Some(holding(9, 2)));
    }

    #[test]
    fn only_numbers_of_64_bits_add_up() {
        assert_eq!(sum(None, -3), Some(-3));
        assert_eq!(sum(Some(b"41"), 1), Some(42));
        assert_eq!(sum(Some(b"9223372036854775807"), 1), None);
        for no_number in [&b""[..], b"x", b"1.5", b" 1", b"\xff"] {
            assert_eq!(sum(Some(no_number), 1), None);
        }
    }

    #[test]
    fn what_is_above_a_lowered_quota_may_shrink() {
        let quota = KeyQuota { bytes: 10, keys: 1 };
        let above = holding(50, 5);
        assert_eq!(above.replacing(holding(20, 1), holding(15, 1), quota), Some(holding(45, 5)));
        assert_eq!(above.replacing(holding(20, 1), holding(21, 1), quota), None);
        assert_eq!(above.replacing(holding(20, 1), holding(19, 2), quota), None);
    }
}
