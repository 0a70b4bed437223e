//! Lease tokens: what a worker outside the fleet shows to prove that a lease is its own.
//!
//! A token says which lease it stands for, so the API keeps nothing between two requests and any
//! process of the fleet can answer. It ends with a tag that only the deployment can make: ids and
//! lease numbers, which lists and logs show, are not enough.

use std::time::Duration;

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use taskforge_domain::{RunLease, TaskId, TenantId, WorkerId};
use uuid::Uuid;

use crate::ApiKey;

const VERSION: u8 = 2;
/// Its head has one byte more, which says nothing any more. Leases of before an upgrade live on.
const LONGER_VERSION: u8 = 1;
const TAG: usize = 16;
/// Version, worker, run lease and length; the tenant's name follows, then the tag.
const HEAD: usize = 1 + 16 + 8 + 4;
const MAX_TENANT: usize = 63;
/// What the tags of a deployment without a key are made with. It listens on loopback only, where
/// everybody may do everything anyway; the tag then only tells a slip from a token.
const NO_KEY: &[u8; 32] = b"taskforge without any API key...";

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
pub(crate) struct LeaseTokens([u8; 32]);

impl LeaseTokens {
    pub(crate) fn new(key: Option<&ApiKey>) -> Self {
        Self(*key.map_or(NO_KEY, ApiKey::lease_secret))
    }

    pub(crate) fn write(&self, lease: &Lease) -> String {
        let mut bytes = Vec::with_capacity(HEAD + MAX_TENANT + TAG);
        bytes.push(VERSION);
        bytes.extend_from_slice(lease.worker.as_uuid().as_bytes());
        bytes.extend_from_slice(&lease.run_lease.0.to_be_bytes());
        let millis = u32::try_from(lease.length.as_millis()).unwrap_or(u32::MAX);
        bytes.extend_from_slice(&millis.to_be_bytes());
        bytes.extend_from_slice(lease.tenant.as_str().as_bytes());
        let tag = self.tag(lease.task, &bytes);
        bytes.extend_from_slice(&tag);
        BASE64_URL_SAFE_NO_PAD.encode(bytes)
    }

    /// The lease on this task that a token stands for; `None` for any other text.
    pub(crate) fn read(&self, task: TaskId, token: &str) -> Option<Lease> {
        if token.len() > (HEAD + 1 + MAX_TENANT + TAG) * 2 {
            return None;
        }
        let bytes = BASE64_URL_SAFE_NO_PAD.decode(token).ok()?;
        let (said, tag) = bytes.split_at_checked(bytes.len().checked_sub(TAG)?)?;
        if !bool::from(self.tag(task, said).ct_eq(tag)) {
            return None;
        }
        let head = match *said.first()? {
            VERSION => HEAD,
            LONGER_VERSION => HEAD + 1,
            _ => return None,
        };
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

    /// Hashed twice with the secret in front, so that no longer message can be given a tag from a
    /// shorter one's.
    fn tag(&self, task: TaskId, said: &[u8]) -> [u8; TAG] {
        let inner = Sha256::new()
            .chain_update(self.0)
            .chain_update(task.as_uuid().as_bytes())
            .chain_update(said)
            .finalize();
        let outer: [u8; 32] =
            Sha256::new().chain_update(self.0).chain_update(inner).finalize().into();
        let mut tag = [0; TAG];
        tag.copy_from_slice(&outer[..TAG]);
        tag
    }
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
    fn a_token_of_before_an_upgrade_reads_back() {
        let tokens = LeaseTokens::new(None);
        let lease = lease();
        let token = BASE64_URL_SAFE_NO_PAD.decode(tokens.write(&lease)).unwrap();
        let mut said = token[..token.len() - TAG].to_vec();
        said[0] = LONGER_VERSION;
        said.insert(HEAD, 1);
        let tag = tokens.tag(lease.task, &said);
        let old = BASE64_URL_SAFE_NO_PAD.encode([&said[..], &tag].concat());
        assert_eq!(tokens.read(lease.task, &old), Some(lease));
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
