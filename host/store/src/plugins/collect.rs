//! Versions that nothing refers to any more, and how many there may be.

use std::time::Duration;

use taskforge_domain::{Digest, PluginEvent, TaskType, Timestamp, VersionId};

use super::Added;

/// For so long after a rollout has stopped naming a version, a process that has not heard of it may
/// still begin attempts on it. That is how long a task waits for a version that is yet to be heard
/// of.
pub const SETTLED_AFTER: Duration = Duration::from_secs(60);

/// Which versions may go: all but those
///
/// - that the rollout names: the stable one, the one before, to which a rollback returns, and the
///   one on trial;
/// - that are among the newest of their plugin;
/// - that were pushed, or were last named by the rollout, too recently;
/// - on which a task that runs may have begun: it was claimed before [`SETTLED_AFTER`] had passed
///   since the rollout named the version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CollectRule {
    /// How many of the newest versions of each plugin stay.
    pub keep: u32,
    /// What was pushed at this time or later stays.
    pub pushed_before: Timestamp,
    /// What the rollout named at this time or later stays.
    pub released_before: Timestamp,
}

/// A version that was, or may be, collected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CollectedVersion {
    /// Its id.
    pub id: VersionId,
    /// Whose it is.
    pub plugin: TaskType,
    /// Its number.
    pub version: String,
    /// What it is made of. Other versions may be made of it too.
    pub digest: Digest,
    /// Bytes of its component.
    pub size: u64,
}

/// How much may be stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quota {
    /// Versions of one plugin.
    pub versions: u64,
    /// Bytes of the components of one owner: a tenant, or all shared plugins together. A component
    /// that several versions are made of counts once.
    pub bytes: u64,
}

impl Quota {
    /// As much as there is room for.
    pub const UNLIMITED: Self = Self { versions: u64::MAX, bytes: u64::MAX };

    /// Why one version more of so many bytes, where there are so many, is too much, if it is.
    pub(crate) fn refusal(self, versions: u64, bytes: u64, more: u64) -> Option<Added> {
        if versions >= self.versions {
            let kind = QuotaKind::Versions;
            return Some(Added::OverQuota { kind, used: versions });
        }
        let kind = QuotaKind::Bytes;
        let is_over = bytes.saturating_add(more) > self.bytes;
        is_over.then_some(Added::OverQuota { kind, used: bytes })
    }
}

/// Which part of a [`Quota`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QuotaKind {
    /// [`Quota::versions`].
    Versions,
    /// [`Quota::bytes`].
    Bytes,
}

/// More numbers than this help nobody in a sentence.
const MOST: usize = 20;

/// The event with the numbers of the versions that went.
pub(crate) fn describe(event: &PluginEvent, collected: &[CollectedVersion]) -> PluginEvent {
    let numbers: Vec<_> =
        collected.iter().take(MOST).map(|version| version.version.as_str()).collect();
    let more = match collected.len().saturating_sub(MOST) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    PluginEvent {
        detail: format!("{}: {}{more}", event.detail, numbers.join(", ")),
        ..event.clone()
    }
}
