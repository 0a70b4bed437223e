//! Identities. Each is a type of its own, so that a worker's id cannot stand where a task's
//! belongs.

use std::{
    fmt,
    str::FromStr,
    sync::{Arc, Mutex, PoisonError},
};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::{ContextV7, Uuid};

/// An identifier that does not have the form it must have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} {value:?} is not valid: {rule}")]
pub struct InvalidId {
    what: &'static str,
    value: String,
    rule: &'static str,
}

impl InvalidId {
    fn new(what: &'static str, value: &str, rule: &'static str) -> Self {
        // A hostile name can be long; an error message should not be.
        Self { what, value: value.chars().take(120).collect(), rule }
    }
}

macro_rules! uuid_id {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(Uuid);

        impl $name {
            /// A new id that sorts after every id made before it in this process (UUIDv7).
            #[must_use]
            pub fn generate() -> Self {
                Self(Uuid::now_v7())
            }

            /// Takes an id that was made elsewhere, for example one read from the store.
            #[must_use]
            pub const fn from_uuid(id: Uuid) -> Self {
                Self(id)
            }

            /// When it was made, to the millisecond. `None`: the id is of a kind without a time.
            #[must_use]
            pub fn made_at(&self) -> Option<jiff::Timestamp> {
                let (seconds, nanoseconds) = self.0.get_timestamp()?.to_unix();
                let (seconds, nanoseconds) = (i64::try_from(seconds).ok()?, i32::try_from(nanoseconds).ok()?);
                jiff::Timestamp::new(seconds, nanoseconds).ok()
            }

            /// The id as a UUID.
            #[must_use]
            pub const fn as_uuid(&self) -> &Uuid {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;
            fn from_str(text: &str) -> Result<Self, InvalidId> {
                Uuid::try_parse(text).map(Self).map_err(|_| InvalidId::new($what, text, "it must be a UUID"))
            }
        }
    };
}

uuid_id!(
    /// A task. UUIDv7, so ids sort by creation time.
    TaskId,
    "task id"
);
impl TaskId {
    /// A new id of this moment, which sorts after every id made so before it in this process. A
    /// task's id says when the task was made, so the moment is the store's time and not the host's.
    #[must_use]
    pub fn at(now: Timestamp) -> Self {
        static CONTEXT: Mutex<Option<ContextV7>> = Mutex::new(None);
        let mut context = CONTEXT.lock().unwrap_or_else(PoisonError::into_inner);
        let context = &*context.get_or_insert_with(ContextV7::new);
        // Before 1970 there were no tasks.
        let seconds = u64::try_from(now.as_second()).unwrap_or(0);
        let nanos = u32::try_from(now.subsec_nanosecond()).unwrap_or(0);
        Self(Uuid::new_v7(uuid::Timestamp::from_unix(context, seconds, nanos)))
    }
}

uuid_id!(
    /// One boot of one worker process. A restarted worker has a new id, because the old id would
    /// hide the tasks that the old process left behind.
    WorkerId,
    "worker id"
);

uuid_id!(
    /// A fleet: all processes that share a database. It is made with the database's schema.
    FleetId,
    "fleet id"
);

uuid_id!(
    /// A version of a plugin in the registry.
    VersionId,
    "version id"
);

/// The number that fences an attempt. It grows by one at every claim of a task and never resets, so
/// a worker that lost its lease can always be distinguished from the present one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RunLease(pub i64);

impl fmt::Display for RunLease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

macro_rules! name_id {
    ($(#[$doc:meta])* $name:ident, $what:literal, $rule:literal, $valid:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Arc<str>);

        impl $name {
            /// Checks the name.
            ///
            /// # Errors
            /// When the name breaks the rule that the type states.
            pub fn new(name: &str) -> Result<Self, InvalidId> {
                let valid: fn(&str) -> bool = $valid;
                if valid(name) { Ok(Self(name.into())) } else { Err(InvalidId::new($what, name, $rule)) }
            }

            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;
            fn from_str(text: &str) -> Result<Self, InvalidId> {
                Self::new(text)
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidId;
            fn try_from(text: String) -> Result<Self, InvalidId> {
                Self::new(&text)
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.as_str().to_owned()
            }
        }
    };
}

fn has_shape(name: &str, max: usize, first: fn(u8) -> bool, rest: fn(u8) -> bool) -> bool {
    let bytes = name.as_bytes();
    !bytes.is_empty()
        && bytes.len() <= max
        && first(bytes[0])
        && bytes[1..].iter().all(|b| rest(*b))
}

name_id!(
    /// The name that clients enqueue by, which is the name of the plugin that handles it: a letter,
    /// then at most 99 letters, digits, `_`, `-` or `.`.
    TaskType,
    "task type",
    "it must be a letter followed by at most 99 letters, digits, '_', '-' or '.'",
    |name| has_shape(name, 100, |b| b.is_ascii_alphabetic(), |b| b.is_ascii_alphanumeric() || b"_-.".contains(&b))
);
name_id!(
    /// A customer of the fleet: a lower-case letter or digit, then at most 62 lower-case letters,
    /// digits, `_` or `-`.
    TenantId,
    "tenant",
    "it must be at most 63 lower-case letters, digits, '_' or '-', and begin with a letter or digit",
    |name| has_shape(
        name,
        63,
        |b| b.is_ascii_lowercase() || b.is_ascii_digit(),
        |b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"_-".contains(&b)
    )
);

name_id!(
    /// The number of a plugin's version: letters, digits, `.`, `-` and `+`, beginning with a digit,
    /// at most 120 of them. A semantic version is at most 100 long; the folder may add the digest
    /// of a build.
    VersionNumber,
    "version",
    "it must be a semantic version such as 1.4.0, of at most 120 characters",
    |name| has_shape(name, 120, |b| b.is_ascii_digit(), |b| b.is_ascii_alphanumeric() || b".-+".contains(&b))
);
name_id!(
    /// What a plugin reads a secret by: 1 to 255 bytes without control characters or characters
    /// that show nothing.
    SecretName,
    "secret name",
    "it must have 1 to 255 bytes, none of them a control character or one that shows nothing",
    |name| (1..=255).contains(&name.len()) && !name.contains(crate::is_hidden)
);

impl Default for TenantId {
    /// `default`, the tenant of every request until tenants are told apart.
    fn default() -> Self {
        Self("default".into())
    }
}

/// SHA-256 of a component's bytes: what a plugin version *is*.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest([u8; 32]);

impl Digest {
    /// Takes the 32 bytes of a SHA-256 sum.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The 32 bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Digest {
    type Err = InvalidId;
    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let mut bytes = [0; 32];
        hex::decode_to_slice(text, &mut bytes)
            .map(|()| Self(bytes))
            .map_err(|_| InvalidId::new("digest", text, "it must be 64 hexadecimal digits"))
    }
}

impl TryFrom<String> for Digest {
    type Error = InvalidId;
    fn try_from(text: String) -> Result<Self, InvalidId> {
        text.parse()
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn task_types_keep_to_their_alphabet() {
        for good in ["fibonacci", "FibonacciTask", "acme.pdf-render_v2", "x"] {
            assert!(TaskType::new(good).is_ok(), "{good}");
        }
        for bad in ["", "1st", "-x", "a b", "a/b", "é", &"x".repeat(101)] {
            assert!(TaskType::new(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn names_that_no_row_or_terminal_could_hold_are_refused() {
        for bad in ["", "a\0b", "a\u{1b}b", "a\u{202e}b", "a\nb", &"x".repeat(256)] {
            assert!(SecretName::new(bad).is_err(), "{bad:?}");
        }
        for bad in ["", "v1", "1.0\0", "1 0", "1/0", &"1".repeat(121)] {
            assert!(VersionNumber::new(bad).is_err(), "{bad:?}");
        }
        for good in ["1.4.0", "0.1.0-rc.1+sha.0badcafe"] {
            assert!(VersionNumber::new(good).is_ok(), "{good}");
        }
        assert!(SecretName::new("api key/é").is_ok());
    }

    #[test]
    fn ids_made_later_sort_later() {
        let ids: Vec<_> = (0..1000).map(|_| TaskId::generate()).collect();
        assert!(ids.is_sorted());
    }

    #[test]
    fn a_digest_survives_its_text_form() {
        let digest = Digest::from_bytes([0xab; 32]);
        assert_eq!(digest.to_string().parse(), Ok(digest));
        assert!("ab".parse::<Digest>().is_err());
    }
}
