//! Groups failures that differ only in details.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::FailureKind;

/// A number for a kind of error: failures whose messages differ only in what changes from task to
/// task (numbers, ids, quoted text) have the same. Dead letters are grouped by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Fingerprint(u64);

/// How much of a message counts. What follows is usually a trace, which differs between runs.
const SIGNIFICANT: usize = 300;

impl Fingerprint {
    /// The fingerprint of a failure: FNV-1a (64 bits) over its kind and the first 300 characters of
    /// its message, in which every run of letters and digits that holds a digit counts as `#` and
    /// quoted text as `"`. Stored, so this must not change.
    #[must_use]
    pub fn of(kind: FailureKind, message: &str) -> Self {
        let mut hash = Fnv::new();
        hash.text(kind.as_str());
        hash.byte(0);
        let mut rest: &str =
            message.char_indices().nth(SIGNIFICANT).map_or(message, |(end, _)| &message[..end]);
        while let Some(first) = rest.chars().next() {
            let length = match first {
                '"' | '`' => rest[1..].find(first).map_or(1, |end| end + 2),
                _ => rest.find(|c: char| !c.is_alphanumeric()).unwrap_or(rest.len()),
            };
            let (word, after) = rest.split_at(length.max(first.len_utf8()));
            match first {
                '"' | '`' => hash.byte(b'"'),
                _ if word.bytes().any(|byte| byte.is_ascii_digit()) => hash.byte(b'#'),
                _ => hash.text(word),
            }
            rest = after;
        }
        Self(hash.0)
    }

    /// The number as the store keeps it.
    #[must_use]
    pub const fn to_i64(self) -> i64 {
        self.0.cast_signed()
    }

    /// Takes a number from the store.
    #[must_use]
    pub const fn from_i64(number: i64) -> Self {
        Self(number.cast_unsigned())
    }
}

struct Fnv(u64);

impl Fnv {
    const fn new() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }

    const fn byte(&mut self, byte: u8) {
        self.0 = (self.0 ^ byte as u64).wrapping_mul(0x0100_0000_01b3);
    }

    fn text(&mut self, text: &str) {
        text.bytes().for_each(|byte| self.byte(byte));
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// Text that is not a fingerprint.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a fingerprint is 16 hexadecimal digits")]
pub struct InvalidFingerprint;

impl FromStr for Fingerprint {
    type Err = InvalidFingerprint;
    fn from_str(text: &str) -> Result<Self, InvalidFingerprint> {
        let is_hex = text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        is_hex
            .then(|| u64::from_str_radix(text, 16).ok())
            .flatten()
            .map(Self)
            .ok_or(InvalidFingerprint)
    }
}

impl TryFrom<String> for Fingerprint {
    type Error = InvalidFingerprint;
    fn try_from(text: String) -> Result<Self, InvalidFingerprint> {
        text.parse()
    }
}

impl From<Fingerprint> for String {
    fn from(fingerprint: Fingerprint) -> Self {
        fingerprint.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(message: &str) -> Fingerprint {
        Fingerprint::of(FailureKind::Retryable, message)
    }

    #[test]
    fn what_changes_from_task_to_task_does_not_count() {
        let one = of("GET https://shop.example/17 answered 503 after 1.2s for \"Ann\"");
        assert_eq!(
            one,
            of("GET https://shop.example/4711 answered 504 after 31.17s for \"Bob O'Neill\"")
        );
        assert_eq!(
            of("task 019a2f6e-8c3a-7cc0-9d8e-2f1f5d0c7b11"),
            of("task 119a2f6e-1c3a-1cc0-1d8e-1f1f5d0c7b11")
        );
        assert_ne!(one, of("GET https://shop.example/17 timed out"));
        assert_ne!(of("x"), Fingerprint::of(FailureKind::Permanent, "x"));
    }

    #[test]
    fn any_text_has_one() {
        for odd in ["", "\"", "\"unclosed", "``", "é9ü", "\u{1f980}\u{1f980}", &"x1 ".repeat(1_000)]
        {
            assert_eq!(of(odd), of(odd));
        }
        // Stored ones must stay valid.
        assert_eq!(of("connection refused").to_string(), "8913193a363691af");
    }

    #[test]
    fn it_reads_back() {
        let fingerprint = of("x");
        assert_eq!(fingerprint.to_string().parse(), Ok(fingerprint));
        assert_eq!(Fingerprint::from_i64(fingerprint.to_i64()), fingerprint);
        for bad in ["", "12", "zzzzzzzzzzzzzzzz", "+123456789abcdef", "0123456789abcdef0"] {
            assert!(bad.parse::<Fingerprint>().is_err(), "{bad}");
        }
    }
}
