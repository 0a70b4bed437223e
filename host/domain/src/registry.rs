//! Plugins as they are registered: versions that never change, and which of them run.

use std::{fmt, str::FromStr};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{PluginInfo, TaskId, TaskType, TenantId, VersionId};

/// Grows with every change of the registry. Whoever knows the latest knows that nothing has
/// changed.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Revision(pub i64);

/// A name in the registry: one task type, whose it is, and which versions run.
#[derive(Debug, Clone, PartialEq)]
pub struct RegisteredPlugin {
    /// The task type. One name means one plugin in the whole fleet.
    pub name: TaskType,
    /// The tenant whose tasks it runs, and who alone sees it. `None`: it is shared by all.
    pub owner: Option<TenantId>,
    /// The registry's revision when this last changed; guards the next change.
    pub revision: Revision,
    /// Which versions run.
    pub rollout: Rollout,
}

/// Which versions of a plugin run.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Rollout {
    /// Grows whenever other versions run than before. What attempts use is counted by version and
    /// phase, so that a canary is compared with what the stable version did beside it.
    pub phase: i64,
    /// When this phase began; `None` before the first.
    pub since: Option<Timestamp>,
    /// The version that runs. `None` before the first activation.
    pub stable: Option<VersionId>,
    /// The version that ran before, to which a rollback returns.
    pub previous: Option<VersionId>,
    /// The number of the highest version that was ever the stable one. It outlives the version.
    pub highest: Option<String>,
    /// A version on trial beside the stable one.
    pub canary: Option<Canary>,
    /// Tasks are accepted, and wait. Attempts that run go on.
    pub paused: bool,
    /// Tasks are no longer accepted. Those that were accepted still run.
    pub retired: bool,
}

/// A version on trial.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Canary {
    /// Which.
    pub version: VersionId,
    /// The share of tasks that it runs, 1 to 99.
    pub percent: u8,
    /// When it is taken back.
    pub guard: CanaryGuard,
}

/// When a canary is taken back by itself.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct CanaryGuard {
    /// Attempts of the canary before it is judged.
    #[schema(minimum = 1)]
    pub min_attempts: u32,
    /// How much larger its share of failed attempts may be than the stable version's: 0.05 lets 6 %
    /// stand beside 1 %.
    #[schema(minimum = 0.0, maximum = 1.0)]
    pub failure_margin: f64,
    /// How many times the stable version's 90th percentile of time its own may be.
    #[schema(minimum = 1.0)]
    pub latency_factor: f64,
}

impl Default for CanaryGuard {
    fn default() -> Self {
        Self { min_attempts: 50, failure_margin: 0.05, latency_factor: 2.0 }
    }
}

impl Rollout {
    /// The version that runs a task: the canary for its share of task ids, always the same for one
    /// task while the rollout stays as it is.
    #[must_use]
    pub fn pick(&self, task: TaskId) -> Option<VersionId> {
        match &self.canary {
            Some(canary) if canary.takes(task) => Some(canary.version),
            _ => self.stable,
        }
    }

    /// The versions that run.
    pub fn running(&self) -> impl Iterator<Item = VersionId> + use<> {
        self.stable.into_iter().chain(self.canary.map(|canary| canary.version))
    }
}

impl Canary {
    /// Whether a task is in its share.
    #[must_use]
    pub fn takes(&self, task: TaskId) -> bool {
        // The last eight bytes of a UUIDv7 are random but for two bits; those and the rest are
        // mixed (splitmix64's finaliser), so that ids of other versions, which clients may choose,
        // spread too.
        let (high, low) = task.as_uuid().as_u64_pair();
        let mut hash = low ^ high.rotate_left(32);
        hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        hash ^= hash >> 31;
        hash % 100 < u64::from(self.percent)
    }
}

/// A version of a plugin. What it is never changes; its settings are the operator's, and its state
/// says whether it may run.
#[derive(Debug, Clone, PartialEq)]
pub struct PluginVersion {
    /// Its id, of version 7: when it was pushed.
    pub id: VersionId,
    /// What it says about itself and what the operator set for it. `info.name` is the plugin.
    pub info: PluginInfo,
    /// Who vouches for what, if anybody does: the JSON text of a DSSE envelope around a statement
    /// of what the version is and may reach at most.
    pub signature: Option<Vec<u8>>,
    /// Whether it may run.
    pub state: VersionState,
    /// Who pushed it, for people.
    pub pushed_by: String,
    /// When.
    pub pushed_at: Timestamp,
}

/// Whether a version may run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum VersionState {
    /// It may be activated, or runs.
    Available,
    /// It was on trial and taken back. It may be activated again by hand.
    RolledBack {
        /// Why, in a sentence.
        reason: String,
    },
    /// It may not run again.
    Retired,
}

macro_rules! words {
    ($(#[$doc:meta])* $name:ident: $($(#[$variant_doc:meta])* $variant:ident = $word:literal;)*) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
        #[serde(rename_all = "snake_case")]
        pub enum $name { $($(#[$variant_doc])* $variant,)* }

        impl $name {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The name that the API and the store use.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word,)* }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl FromStr for $name {
            type Err = String;
            fn from_str(text: &str) -> Result<Self, String> {
                let found = Self::ALL.iter().find(|word| word.as_str() == text);
                found.copied().ok_or_else(|| format!("{text:?} is none of the known words"))
            }
        }
    };
}

words! {
    /// What happened to a plugin.
    PluginEventKind:
    /// A version was pushed.
    Pushed = "pushed";
    /// A version became the stable one.
    Activated = "activated";
    /// A version went on trial.
    CanaryStarted = "canary_started";
    /// The version on trial was taken back, by hand or by its guard.
    CanaryStopped = "canary_stopped";
    /// The version before became the stable one again.
    RolledBack = "rolled_back";
    /// Its tasks wait.
    Paused = "paused";
    /// Its tasks run again.
    Resumed = "resumed";
    /// A version, or the plugin, was retired.
    Retired = "retired";
    /// A version got other settings.
    SettingsChanged = "settings_changed";
    /// A secret was set.
    SecretSet = "secret_set";
    /// A secret was deleted.
    SecretDeleted = "secret_deleted";
    /// A stored version got another signature.
    Signed = "signed";
    /// Versions that nothing referred to were deleted.
    Collected = "collected";
}

/// Something that happened to a plugin. The record of who did what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PluginEvent {
    /// When.
    pub at: Timestamp,
    /// What.
    pub kind: PluginEventKind,
    /// The version that it concerns, as people call it.
    pub version: Option<String>,
    /// Who did it, for people.
    pub by: String,
    /// More, in a sentence; never a secret.
    pub detail: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_canary_takes_its_share_and_the_same_tasks_each_time() {
        let canary =
            Canary { version: VersionId::generate(), percent: 10, guard: CanaryGuard::default() };
        let rollout = Rollout {
            stable: Some(VersionId::generate()),
            canary: Some(canary),
            ..Rollout::default()
        };
        let tasks: Vec<_> = (0..20_000).map(|_| TaskId::generate()).collect();
        let taken = tasks.iter().filter(|task| canary.takes(**task)).count();
        assert!((1_800..2_200).contains(&taken), "{taken}");
        for task in tasks {
            let picked = rollout.pick(task);
            assert_eq!(picked == Some(canary.version), canary.takes(task));
            assert_eq!(picked, rollout.pick(task));
        }
    }

    #[test]
    fn without_a_canary_the_stable_version_runs_everything() {
        let stable = VersionId::generate();
        let rollout = Rollout { stable: Some(stable), ..Rollout::default() };
        assert_eq!(rollout.pick(TaskId::generate()), Some(stable));
        assert_eq!(Rollout::default().pick(TaskId::generate()), None);
    }

    #[test]
    fn every_event_reads_back_from_its_name() {
        for kind in PluginEventKind::ALL {
            assert_eq!(kind.as_str().parse(), Ok(*kind));
        }
    }
}
