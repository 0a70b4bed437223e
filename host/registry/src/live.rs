//! What of the catalog is ready to run here.

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use taskforge_domain::{RegisteredPlugin, TaskId, TaskType, TenantId, Timestamp, VersionId};
use taskforge_runtime::Plugin;
use taskforge_schema::Schema;
use taskforge_store::SealedSecret;

use crate::catalog::{Catalog, KnownPlugin, active};

/// How long after the rollout changed an API may still have checked an input against another
/// version: it reads the registry each second, and clocks differ.
const STALE_CHECK: Duration = Duration::from_secs(10);
/// How long a task waits for a version that this process does not know yet, or which it has not
/// made ready.
const WAIT_FOR_VERSION: Duration = Duration::from_secs(60);
/// By how much clocks of hosts may differ before a task is taken for older than it is.
const CLOCK_SKEW: Duration = Duration::from_secs(2);

/// Which plugin runs which task type, here and now. An attempt keeps the plugin that it began with,
/// so a change here never touches what runs.
#[derive(Debug, Default)]
pub struct Live {
    catalog: Arc<Catalog>,
    /// Replaced as a whole.
    ready: RwLock<Arc<Ready>>,
}

/// The plugins that are ready.
#[derive(Debug, Default)]
struct Ready {
    plugins: HashMap<TaskType, Arc<ReadyPlugin>>,
    types: Arc<[TaskType]>,
}

/// A plugin whose running versions are all ready.
#[derive(Debug)]
pub(crate) struct ReadyPlugin {
    /// As the catalog had it when they were made ready, which may be ahead by now.
    pub(crate) known: Arc<KnownPlugin>,
    pub(crate) versions: Vec<ReadyVersion>,
}

/// A version that is ready.
#[derive(Debug, Clone)]
pub(crate) struct ReadyVersion {
    pub(crate) id: VersionId,
    pub(crate) plugin: Arc<Plugin>,
    /// The secrets that it was given, as they were sealed.
    pub(crate) secrets: Vec<SealedSecret>,
}

/// What runs one task.
pub struct Serving {
    /// The plugin, in the version that the task falls to.
    pub plugin: Arc<Plugin>,
    /// The tenant whose tasks it runs. `None`: those of all. A task of another can only have been
    /// accepted before the plugin was there.
    pub owner: Option<TenantId>,
    /// Under what its usage is counted: the version, and the phase of the rollout.
    pub counted: (VersionId, i64),
    /// The version's input schema. `None` if nothing can be checked against it.
    pub input: Option<Arc<Schema>>,
    /// The task was perhaps accepted before this version ran, so its input is to be checked first.
    pub recheck: bool,
}

impl Live {
    /// Nothing of a catalog yet.
    #[must_use]
    pub fn new(catalog: Arc<Catalog>) -> Self {
        Self { catalog, ready: RwLock::default() }
    }

    /// Runs these plugins, of a registry that holds nothing else. Their names differ.
    #[must_use]
    pub fn of(plugins: impl IntoIterator<Item = Arc<Plugin>>) -> Self {
        let plugins: Vec<_> = plugins.into_iter().collect();
        let live = Self::default();
        let infos = plugins.iter().map(|plugin| plugin.info().clone());
        live.catalog.set_plugins(active(infos));
        for plugin in plugins {
            let name = plugin.info().name.clone();
            let known = live.catalog.known().plugin(&name).cloned();
            let ready = known.and_then(|known| {
                let id = known.registered.rollout.stable?;
                let versions = vec![ReadyVersion { id, plugin, secrets: Vec::new() }];
                Some(ReadyPlugin { known, versions })
            });
            live.put(&name, ready);
        }
        live
    }

    /// What runs a task. `None`: nothing here does.
    #[must_use]
    pub fn get(&self, task_type: &TaskType, task: TaskId) -> Option<Serving> {
        let ready = self.ready(task_type)?;
        let running = ready.known.version_for(task)?;
        let RegisteredPlugin { owner, rollout, .. } = &ready.known.registered;
        let id = running.version.id;
        Some(Serving {
            plugin: Arc::clone(&ready.version(id)?.plugin),
            owner: owner.clone(),
            counted: (id, rollout.phase),
            input: running.input.clone(),
            recheck: rollout.since.is_some_and(|since| is_before(task, since)),
        })
    }

    /// Whether the versions that run here are those that an API went by when it took a task, or
    /// newer ones. If not, another version may be right for it, which this process does not know
    /// yet, or has not made ready.
    #[must_use]
    pub fn is_current(&self, task_type: &TaskType, task: TaskId) -> bool {
        let skew = i64::try_from(CLOCK_SKEW.as_millis()).unwrap_or(i64::MAX);
        // Before the state is read, which is then at least as new.
        let is_confirmed = made(task).is_none_or(|made| self.catalog.is_confirmed(made + skew));
        let known = self.catalog.known();
        let known = known.plugin(task_type).map(|known| known.registered.revision);
        let ready = self.ready(task_type).map(|ready| ready.known.registered.revision);
        is_confirmed && ready.is_some() && known == ready
    }

    /// Whether a task is so young that this process may yet learn of the version that it was
    /// accepted for.
    #[must_use]
    pub fn is_young(task: TaskId, now: Timestamp) -> bool {
        let wait = i64::try_from(WAIT_FOR_VERSION.as_millis()).unwrap_or(i64::MAX);
        made(task).is_some_and(|made| now.as_millisecond() < made.saturating_add(wait))
    }

    /// The task types that run here.
    #[must_use]
    pub fn types(&self) -> Arc<[TaskType]> {
        Arc::clone(&self.all().types)
    }

    /// Every version that runs here.
    #[must_use]
    pub fn plugins(&self) -> Vec<Arc<Plugin>> {
        let ready = self.all();
        let versions = ready.plugins.values().flat_map(|ready| &ready.versions);
        versions.map(|version| Arc::clone(&version.plugin)).collect()
    }

    /// What is known of the registry, which may be ahead of what is ready.
    #[must_use]
    pub const fn catalog(&self) -> &Arc<Catalog> {
        &self.catalog
    }

    pub(crate) fn ready(&self, name: &TaskType) -> Option<Arc<ReadyPlugin>> {
        self.all().plugins.get(name).cloned()
    }

    /// Runs a plugin so from the next claim on, or no more.
    pub(crate) fn put(&self, name: &TaskType, plugin: Option<ReadyPlugin>) {
        // Held from the look to the change. Readers wait for a copy of some pointers.
        let mut ready = self.ready.write().unwrap_or_else(PoisonError::into_inner);
        let mut plugins = ready.plugins.clone();
        let before = match plugin {
            Some(plugin) => plugins.insert(name.clone(), Arc::new(plugin)),
            None => plugins.remove(name),
        };
        // The same list as before for whoever compares, if the names are the same.
        let types = match before.is_some() == plugins.contains_key(name) {
            true => Arc::clone(&ready.types),
            false => plugins.keys().cloned().collect(),
        };
        *ready = Arc::new(Ready { plugins, types });
    }

    fn all(&self) -> Arc<Ready> {
        Arc::clone(&self.ready.read().unwrap_or_else(PoisonError::into_inner))
    }
}

impl ReadyPlugin {
    pub(crate) fn version(&self, id: VersionId) -> Option<&ReadyVersion> {
        self.versions.iter().find(|version| version.id == id)
    }
}

/// Whether a task was made before a version ran for certain. One of whose id nothing can be told
/// was.
fn is_before(task: TaskId, since: Timestamp) -> bool {
    let stale = i64::try_from(STALE_CHECK.as_millis()).unwrap_or(i64::MAX);
    made(task).is_none_or(|made| made < since.as_millisecond() + stale)
}

/// When a task was made, as its id tells, in milliseconds since the epoch.
fn made(task: TaskId) -> Option<i64> {
    Some(task.made_at()?.as_millisecond())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tasks_from_before_a_version_are_told_by_their_ids() {
        let since = Timestamp::now();
        assert!(is_before(TaskId::generate(), since), "an API may lag");
        let long_ago = since - STALE_CHECK * 2;
        assert!(!is_before(TaskId::generate(), long_ago));
        let random = "00000000-0000-4000-8000-000000000000".parse().unwrap();
        assert!(is_before(random, long_ago), "nothing can be told of it");
    }
}
