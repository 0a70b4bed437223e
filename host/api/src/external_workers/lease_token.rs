//! Lease tokens: what a worker outside the fleet shows to prove that a lease is its own.
//!
//! A token says which lease it stands for, so the API keeps nothing between two requests and any
//! process of the fleet can answer. It ends with a tag that only the deployment can make: ids and
//! lease numbers, which lists and logs show, are not enough.

use std::time::Duration;

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use ring::hmac;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use taskforge_domain::{RunLease, TaskId, TenantId, WorkerId};
use uuid::Uuid;

use crate::ApiKey;

const VERSION: u8 = 3;
/// Versions of before, whose tags were hashes: leases of before an upgrade live on. The head of the
/// older one has one byte more, which says nothing any more.
const HASHED: u8 = 2;
const LONGER_HASHED: u8 = 1;
const HASHED_TAG: usize = 16;
/// Bytes of an HMAC with SHA-256.
const TAG: usize = 32;
/// Version, worker, run lease and length; the tenant's name follows, then the tag.
const HEAD: usize = 1 + 16 + 8 + 4;
const MAX_TENANT: usize = 63;
const MAX_TOKEN: usize = HEAD + MAX_TENANT + TAG;
/// What the tags of a deployment without a key are made with. It listens on loopback only, where
/// everybody may do everything anyway; the tag then only tells a slip from a token.
const NO_KEY: &[u8; 32] = b"taskforge without any API key...";

/// What the examples of the OpenAPI document show: of a deployment without a key.
pub(crate) const EXAMPLE: &str =
    "AwGaL26MOnzAnY4vH10MexEAAAAAAAAAAQAA6mBkZWZhdWx017uSabEu0o7PJGILceReSIJ4ArdZJUVutupd2VCOQYw";

/// The right to one attempt of one task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Lease {
    pub(crate) task: TaskId,
    pub(crate) tenant: TenantId,
    /// Made for this one lease: an external worker's tasks are renewed and lapse one by one.
    pub(crate) worker: WorkerId,
    pub(crate) run_lease: RunLease,
    /// How long it holds without being renewed, in whole milliseconds.
    pub(crate) length: Duration,
}

/// Makes tokens and reads them.
pub(crate) struct LeaseTokens {
    key: hmac::Key,
    secret: [u8; 32],
}

impl LeaseTokens {
    pub(crate) fn new(key: Option<&ApiKey>) -> Self {
        let secret = *key.map_or(NO_KEY, ApiKey::lease_secret);
        Self { key: hmac::Key::new(hmac::HMAC_SHA256, &secret), secret }
    }

    pub(crate) fn write(&self, lease: &Lease) -> String {
        let mut bytes = Vec::with_capacity(MAX_TOKEN);
        bytes.push(VERSION);
        bytes.extend_from_slice(lease.worker.as_uuid().as_bytes());
        bytes.extend_from_slice(&lease.run_lease.0.to_be_bytes());
        let millis = u32::try_from(lease.length.as_millis()).unwrap_or(u32::MAX);
        bytes.extend_from_slice(&millis.to_be_bytes());
        bytes.extend_from_slice(lease.tenant.as_str().as_bytes());
        let tag = hmac::sign(&self.key, &tagged(lease.task, &bytes));
        bytes.extend_from_slice(tag.as_ref());
        BASE64_URL_SAFE_NO_PAD.encode(bytes)
    }

    /// The lease on this task that a token stands for; `None` for any other text.
    pub(crate) fn read(&self, task: TaskId, token: &str) -> Option<Lease> {
        if token.len() > MAX_TOKEN * 2 {
            return None;
        }
        let bytes = BASE64_URL_SAFE_NO_PAD.decode(token).ok()?;
        let (tag, head) = match *bytes.first()? {
            VERSION => (TAG, HEAD),
            HASHED => (HASHED_TAG, HEAD),
            LONGER_HASHED => (HASHED_TAG, HEAD + 1),
            _ => return None,
        };
        let (said, tag) = bytes.split_at_checked(bytes.len().checked_sub(tag)?)?;
        let is_ours = match said.first() {
            Some(&VERSION) => hmac::verify(&self.key, &tagged(task, said), tag).is_ok(),
            _ => self.hashed_tag(task, said).ct_eq(tag).into(),
        };
        if !is_ours {
            return None;
        }
        let (head, tenant) = said.split_at_checked(head)?;
        let (worker, head) = head[1..].split_first_chunk::<16>()?;
        let (run_lease, head) = head.split_first_chunk::<8>()?;
        let millis = head.first_chunk::<4>()?;
        Some(Lease {
            task,
            tenant: std::str::from_utf8(tenant).ok()?.parse().ok()?,
            worker: WorkerId::from_uuid(Uuid::from_bytes(*worker)),
            run_lease: RunLease(i64::from_be_bytes(*run_lease)),
            length: Duration::from_millis(u32::from_be_bytes(*millis).into()),
        })
    }

    /// The tag that versions of before had: hashed twice with the secret in front, so that no
    /// longer message can be given a tag from a shorter one's.
    fn hashed_tag(&self, task: TaskId, said: &[u8]) -> [u8; HASHED_TAG] {
        let inner = Sha256::new().chain_update(self.secret).chain_update(tagged(task, said));
        let outer = Sha256::new().chain_update(self.secret).chain_update(inner.finalize());
        let mut tag = [0; HASHED_TAG];
        tag.copy_from_slice(&outer.finalize()[..HASHED_TAG]);
        tag
    }
}

/// What a tag is made of: the token does not say the task, which the client names beside it.
fn tagged(task: TaskId, said: &[u8]) -> Vec<u8> {
    [task.as_uuid().as_bytes(), said].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease() -> Lease {
        Lease {
            task: TaskId::generate(),
            tenant: TenantId::new("acme").unwrap(),
            worker: WorkerId::generate(),
            run_lease: RunLease(7),
            length: Duration::from_millis(30_001),
        }
    }

    #[test]
    fn a_token_reads_back_for_its_own_task_and_deployment_only() {
        let tokens = LeaseTokens::new(Some(&ApiKey::new("0123456789abcdef").unwrap()));
        let lease = lease();
        let token = tokens.write(&lease);
        assert_eq!(tokens.read(lease.task, &token), Some(lease.clone()));
        assert_eq!(tokens.read(TaskId::generate(), &token), None, "another task");
        let others = LeaseTokens::new(Some(&ApiKey::new("0123456789abcdeg").unwrap()));
        assert_eq!(others.read(lease.task, &token), None, "another key");
        assert_eq!(LeaseTokens::new(None).read(lease.task, &token), None, "no key");
    }

    #[test]
    fn tokens_of_before_an_upgrade_read_back() {
        let tokens = LeaseTokens::new(None);
        let lease = lease();
        let token = BASE64_URL_SAFE_NO_PAD.decode(tokens.write(&lease)).unwrap();
        for version in [HASHED, LONGER_HASHED] {
            let mut said = token[..token.len() - TAG].to_vec();
            said[0] = version;
            if version == LONGER_HASHED {
                said.insert(HEAD, 1);
            }
            let tag = tokens.hashed_tag(lease.task, &said);
            let old = BASE64_URL_SAFE_NO_PAD.encode([&said[..], &tag].concat());
            assert_eq!(tokens.read(lease.task, &old), Some(lease.clone()));
            assert_eq!(tokens.read(TaskId::generate(), &old), None, "another task");
        }
    }

    #[test]
    fn the_token_of_the_documents_examples_reads_back() {
        let tokens = LeaseTokens::new(None);
        let lease = Lease {
            task: "019a2f6e-8c3a-7cc0-9d8e-2f1f5d0c7b11".parse().unwrap(),
            tenant: TenantId::default(),
            worker: "019a2f6e-8c3a-7cc0-9d8e-2f1f5d0c7b11".parse().unwrap(),
            run_lease: RunLease(1),
            length: Duration::from_mins(1),
        };
        assert_eq!(tokens.write(&lease), EXAMPLE);
    }

    #[test]
    fn no_changed_character_goes_unnoticed() {
        let tokens = LeaseTokens::new(None);
        let lease = lease();
        let token = tokens.write(&lease);
        for at in 0..token.len() {
            let mut changed = token.clone().into_bytes();
            changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(changed).unwrap();
            assert_eq!(tokens.read(lease.task, &changed), None, "at {at}");
        }
        for bad in ["", "x", &token[1..], &format!("{token}A"), &"A".repeat(1 << 20)] {
            assert_eq!(tokens.read(lease.task, bad), None);
        }
    }
}
