//! Whether a plugin may keep values, and how much.

use serde::{Deserialize, Serialize};

/// Whether a plugin may keep values, and how much for each tenant. As text for people: `true`,
/// `false`, or a table with `bytes` and `keys`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "KeyValueForm", into = "KeyValueForm")]
pub struct KeyValueGrant {
    /// Whether it may keep any.
    pub allowed: bool,
    /// Bytes of keys and values together, for each tenant.
    pub bytes: u64,
    /// Number of keys, for each tenant.
    pub keys: u64,
}

impl Default for KeyValueGrant {
    fn default() -> Self {
        Self { allowed: false, bytes: 1 << 20, keys: 1_000 }
    }
}

#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(untagged)]
enum KeyValueForm {
    Plain(bool),
    Quota(KeyValueQuota),
}

#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct KeyValueQuota {
    #[serde(with = "crate::limits::size")]
    bytes: u64,
    keys: u64,
}

impl Default for KeyValueQuota {
    fn default() -> Self {
        let KeyValueGrant { bytes, keys, .. } = KeyValueGrant::default();
        Self { bytes, keys }
    }
}

impl From<KeyValueForm> for KeyValueGrant {
    fn from(form: KeyValueForm) -> Self {
        match form {
            KeyValueForm::Plain(allowed) => Self { allowed, ..Self::default() },
            KeyValueForm::Quota(KeyValueQuota { bytes, keys }) => {
                Self { allowed: true, bytes, keys }
            }
        }
    }
}

impl From<KeyValueGrant> for KeyValueForm {
    fn from(grant: KeyValueGrant) -> Self {
        if grant.allowed {
            Self::Quota(KeyValueQuota { bytes: grant.bytes, keys: grant.keys })
        } else {
            Self::Plain(false)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_may_be_kept_within_a_quota() {
        let read = |value| serde_json::from_value::<KeyValueGrant>(value).unwrap();
        assert!(!read(serde_json::json!(false)).allowed);
        let quota = read(serde_json::json!({"bytes": "2 KiB"}));
        assert_eq!((quota.allowed, quota.bytes, quota.keys), (true, 2048, 1_000));
        let text = serde_json::to_string(&quota).unwrap();
        assert_eq!(serde_json::from_str::<KeyValueGrant>(&text).unwrap(), quota);
    }
}
