//! Versions that nothing refers to are deleted, and components of which there is no version.
//!
//! What stays is said by [`CollectRule`]: whatever runs, a rollback may return to, or a task may be
//! running on; the newest; and what is young. The leader's sweep deletes the rest in small steps,
//! and an operator does the same by hand without waiting for its age.

use std::{sync::Arc, time::Duration};

use taskforge_domain::{PluginEventKind, TaskType, Timestamp};
use taskforge_store::{
    CollectRule, CollectedVersion, PluginStore, SETTLED_AFTER, StoreResult, Term,
};

use crate::{
    error::{RegistryError, RegistryResult},
    registry::{Registry, event},
};

/// Who deletes what is old, as the record has it.
const SWEEP: &str = "retention";
/// Versions that one transaction deletes. Every change of the registry waits for it.
const STEP: u32 = 100;
/// The same of components, which may have 128 MiB each.
const COMPONENTS: u32 = 2;
/// Steps of one sweep.
const STEPS: u32 = 20;

/// What is kept of versions that nothing refers to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// How many of the newest versions of each plugin stay, however old they are.
    pub keep: u32,
    /// How long a version stays after it was pushed, and after the rollout last named it.
    pub keep_for: Duration,
}

impl Default for Retention {
    /// Ten versions, and thirty days.
    fn default() -> Self {
        Self { keep: 10, keep_for: Duration::from_secs(30 * 24 * 3600) }
    }
}

/// Deletes what is old, in the process that leads the sweep.
#[derive(Clone)]
pub struct Collector {
    store: Arc<dyn PluginStore>,
    retention: Retention,
}

impl Collector {
    /// Keeps this registry to a retention.
    #[must_use]
    pub fn new(store: Arc<dyn PluginStore>, retention: Retention) -> Self {
        Self { store, retention }
    }

    /// Deletes what there is to delete, up to a bound: the next call goes on. Returns how many
    /// versions and components went.
    ///
    /// # Errors
    /// When the database fails, or the caller no longer leads.
    pub async fn collect(&self, term: Term, now: Timestamp) -> StoreResult<(u64, u64)> {
        let Retention { keep, keep_for } = self.retention;
        let rule = CollectRule {
            keep,
            pushed_before: before(now, keep_for),
            released_before: before(now, keep_for.max(SETTLED_AFTER)),
        };
        let (mut versions, mut components) = (0, 0);
        for _ in 0..STEPS {
            let Some(first) = self.store.collectable(None, rule, 1).await?.pop() else {
                break;
            };
            let why = "nothing refers to them".to_owned();
            let event = event(self.store.clock(), PluginEventKind::Collected, None, SWEEP, why);
            let term = Some(term);
            let gone = self.store.collect(term, &first.plugin, rule, STEP, &event).await?;
            versions += gone.len() as u64;
        }
        for _ in 0..STEPS {
            let gone = self.store.collect_components(Some(term), COMPONENTS).await?;
            components += gone;
            if gone == 0 {
                break;
            }
        }
        if versions + components > 0 {
            tracing::info!(versions, components, "versions that nothing refers to were deleted");
        }
        Ok((versions, components))
    }
}

/// What an operator's prune deleted, or would delete.
#[derive(Debug, Clone, PartialEq)]
pub struct Pruned {
    /// The versions, oldest first.
    pub versions: Vec<CollectedVersion>,
    /// Components that went with them. 0 of a dry run.
    pub components: u64,
}

impl Registry {
    /// Deletes versions of a plugin that nothing refers to, however young, but for the newest
    /// `keep`. A version that the rollout named until a minute ago stays. With `dry_run` it only
    /// says which.
    ///
    /// # Errors
    /// When there is no such plugin, or `keep` is 0.
    pub async fn prune(
        &self,
        name: &TaskType,
        keep: u32,
        dry_run: bool,
        by: &str,
    ) -> RegistryResult<Pruned> {
        if keep == 0 {
            return Err(RegistryError::invalid("keep", "must be at least 1"));
        }
        self.plugin(name).await?;
        let store = &self.parts.store;
        let now = store.clock().now();
        let rule =
            CollectRule { keep, pushed_before: now, released_before: before(now, SETTLED_AFTER) };
        let mut pruned = Pruned { versions: Vec::new(), components: 0 };
        if dry_run {
            pruned.versions = store.collectable(Some(name), rule, u32::MAX).await?;
            return Ok(pruned);
        }
        loop {
            let why = format!("all but the newest {keep}");
            let event = event(store.clock(), PluginEventKind::Collected, None, by, why);
            let gone = store.collect(None, name, rule, STEP, &event).await?;
            if gone.is_empty() {
                break;
            }
            pruned.versions.extend(gone);
        }
        if !pruned.versions.is_empty() {
            self.tell().await;
        }
        loop {
            let gone = store.collect_components(None, COMPONENTS).await?;
            pruned.components += gone;
            if gone == 0 {
                return Ok(pruned);
            }
        }
    }
}

/// No earlier than there is time.
fn before(now: Timestamp, age: Duration) -> Timestamp {
    now.checked_sub(age).unwrap_or(Timestamp::MIN)
}
