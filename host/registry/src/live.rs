//! What this process serves now.

use std::{
    collections::HashMap,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use taskforge_domain::{
    QueuePolicy, Revision, Rollout, TaskId, TaskType, TenantId, Timestamp, VersionId,
};
use taskforge_runtime::Plugin;
use taskforge_schema::Schema;
use taskforge_store::{RegistrySnapshot, SealedSecret};

/// How long after the rollout changed a door may still have checked an input against another
/// version: it looks each second, and clocks differ.
const DOUBT: Duration = Duration::from_secs(10);
/// How long a task waits for a version of which this process has not heard, or which it has not
/// made ready.
const PATIENCE: Duration = Duration::from_secs(60);
/// By how much clocks of hosts may differ before a task is taken for older than it is.
const SKEW: Duration = Duration::from_secs(2);

/// Which plugin serves which task type, here and now. An attempt keeps the plugin that it began
/// with, so a change here never touches what runs.
#[derive(Default)]
pub struct Live {
    state: RwLock<Arc<State>>,
    /// When the registry was last known to be as it was seen, in milliseconds since the epoch.
    confirmed: AtomicI64,
}

/// One state of it, replaced as a whole.
#[derive(Default, Clone)]
struct State {
    served: Arc<HashMap<TaskType, Arc<Served>>>,
    types: Arc<[TaskType]>,
    /// As the registry was last seen, which may be ahead of what is served.
    snapshot: Arc<RegistrySnapshot>,
}

/// One plugin, with its versions ready to run.
pub(crate) struct Served {
    /// The plugin's in the registry.
    pub(crate) revision: Revision,
    pub(crate) rollout: Rollout,
    /// The tenant whose tasks it runs. `None`: those of all.
    pub(crate) owner: Option<TenantId>,
    pub(crate) versions: Vec<Loaded>,
}

/// A version that is ready to run.
#[derive(Clone)]
pub(crate) struct Loaded {
    /// Not of a plugin that is in no registry.
    pub(crate) id: Option<VersionId>,
    pub(crate) plugin: Arc<Plugin>,
    /// Its input schema. `None` if this host cannot check against it.
    pub(crate) input: Option<Arc<Schema>>,
    /// The secrets that it was given, as they were sealed.
    pub(crate) secrets: Vec<SealedSecret>,
    /// The signature that was checked when it was made ready.
    pub(crate) signature: Option<Vec<u8>>,
}

/// What runs one task.
pub struct Serving {
    /// The plugin, in the version that the task falls to.
    pub plugin: Arc<Plugin>,
    /// The tenant whose tasks it runs. `None`: those of all. A task of another can only have been
    /// accepted before the plugin was there.
    pub owner: Option<TenantId>,
    /// Under what its usage is counted: the version, and the phase of the rollout. `None` for a
    /// plugin that is in no registry.
    pub counted: Option<(VersionId, i64)>,
    /// The version's input schema. `None` if nothing can be checked against it.
    pub input: Option<Arc<Schema>>,
    /// The task was perhaps accepted before this version ran, so its input is to be checked first.
    pub recheck: bool,
}

impl Live {
    /// Serves these plugins and no registry. Of two with the same name the later one counts.
    #[must_use]
    pub fn of(plugins: impl IntoIterator<Item = Arc<Plugin>>) -> Self {
        let served = plugins.into_iter().map(|plugin| {
            let name = plugin.info().name.clone();
            let loaded =
                Loaded { id: None, plugin, input: None, secrets: Vec::new(), signature: None };
            let served = Served {
                revision: Revision::default(),
                rollout: Rollout::default(),
                owner: None,
                versions: vec![loaded],
            };
            (name, Arc::new(served))
        });
        let live = Self::default();
        live.replace(|state| state.serve(served.collect()));
        live
    }

    /// What runs a task. `None`: nothing here does.
    #[must_use]
    pub fn get(&self, task_type: &TaskType, task: TaskId) -> Option<Serving> {
        let served = self.state().served.get(task_type).cloned()?;
        let picked = served.rollout.pick(task);
        let loaded = served.versions.iter().find(|loaded| loaded.id == picked)?;
        Some(Serving {
            plugin: Arc::clone(&loaded.plugin),
            owner: served.owner.clone(),
            counted: loaded.id.map(|id| (id, served.rollout.phase)),
            input: loaded.input.clone(),
            recheck: served.rollout.since.is_some_and(|since| is_before(task, since)),
        })
    }

    /// Whether the versions that run here are those that a door went by when it took a task, or
    /// newer ones. If not, another version may be right for it, of which this process has not
    /// heard, or which it has not made ready.
    #[must_use]
    pub fn is_current(&self, task_type: &TaskType, task: TaskId) -> bool {
        let state = self.state();
        let registered = state.snapshot.plugins.iter().find(|plugin| plugin.name == *task_type);
        let served = state.served.get(task_type);
        let is_served = match (registered, served) {
            (Some(registered), Some(served)) => registered.revision == served.revision,
            (registered, served) => registered.is_none() && served.is_some(),
        };
        let confirmed = self.confirmed.load(Ordering::Relaxed);
        let skew = i64::try_from(SKEW.as_millis()).unwrap_or(i64::MAX);
        is_served && made(task).is_none_or(|made| made + skew <= confirmed)
    }

    /// Whether a task is so young that this process may yet hear of the version that it was
    /// accepted for.
    #[must_use]
    pub fn is_young(task: TaskId, now: Timestamp) -> bool {
        let patience = i64::try_from(PATIENCE.as_millis()).unwrap_or(i64::MAX);
        made(task).is_some_and(|made| now.as_millisecond() < made.saturating_add(patience))
    }

    /// The task types that are served.
    #[must_use]
    pub fn types(&self) -> Arc<[TaskType]> {
        self.state().types.clone()
    }

    /// Every version that is served.
    #[must_use]
    pub fn plugins(&self) -> Vec<Arc<Plugin>> {
        let state = self.state();
        let versions = state.served.values().flat_map(|served| &served.versions);
        versions.map(|loaded| Arc::clone(&loaded.plugin)).collect()
    }

    /// The registry as it was last seen.
    #[must_use]
    pub fn snapshot(&self) -> Arc<RegistrySnapshot> {
        self.state().snapshot.clone()
    }

    /// The queue's policy with the pauses of plugins. This holds for every plugin of the registry,
    /// whether it is served here or not. Their caps are in the store, where claims find them.
    #[must_use]
    pub fn overlay(&self, mut policy: QueuePolicy) -> QueuePolicy {
        for plugin in &self.state().snapshot.plugins {
            if plugin.rollout.paused {
                policy.types.entry(plugin.name.clone()).or_default().paused = true;
            }
        }
        policy
    }

    /// Takes note of the registry. What is served changes when it is ready.
    pub fn see(&self, snapshot: &Arc<RegistrySnapshot>) {
        self.replace(|state| state.snapshot = Arc::clone(snapshot));
    }

    /// Takes note that the registry was as it was last seen at this time.
    pub(crate) fn confirm(&self, at: Timestamp) {
        self.confirmed.fetch_max(at.as_millisecond(), Ordering::Relaxed);
    }

    pub(crate) fn served(&self, name: &TaskType) -> Option<Arc<Served>> {
        self.state().served.get(name).cloned()
    }

    /// Serves a plugin so from the next claim on, or no more.
    pub(crate) fn put(&self, name: &TaskType, served: Option<Served>) {
        self.replace(|state| {
            let mut all = HashMap::clone(&state.served);
            match served {
                Some(served) => all.insert(name.clone(), Arc::new(served)),
                None => all.remove(name),
            };
            state.serve(all);
        });
    }

    fn replace(&self, change: impl FnOnce(&mut State)) {
        // Held from the look to the change. Readers wait for a copy of some pointers.
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        let mut next = State::clone(&state);
        change(&mut next);
        *state = Arc::new(next);
    }

    fn state(&self) -> Arc<State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl State {
    fn serve(&mut self, served: HashMap<TaskType, Arc<Served>>) {
        // The same as before for whoever compares, if the names are.
        let is_same = served.len() == self.types.len()
            && self.types.iter().all(|name| served.contains_key(name));
        if !is_same {
            self.types = served.keys().cloned().collect();
        }
        self.served = Arc::new(served);
    }
}

/// Whether a task was made before a version ran for certain. One of whose id nothing can be told
/// was.
fn is_before(task: TaskId, since: Timestamp) -> bool {
    let doubt = i64::try_from(DOUBT.as_millis()).unwrap_or(i64::MAX);
    made(task).is_none_or(|made| made < since.as_millisecond() + doubt)
}

/// When a task was made, as its id tells, in milliseconds since the epoch.
fn made(task: TaskId) -> Option<i64> {
    let (seconds, nanos) = task.as_uuid().get_timestamp()?.to_unix();
    let seconds = i64::try_from(seconds).ok()?;
    seconds.checked_mul(1_000)?.checked_add(i64::from(nanos / 1_000_000))
}

#[cfg(test)]
mod tests {
    use taskforge_domain::{RegisteredPlugin, TypePolicy};

    use super::*;

    fn name(text: &str) -> TaskType {
        TaskType::new(text).unwrap()
    }

    #[test]
    fn a_paused_plugin_waits() {
        let paused = |text: &str, paused| RegisteredPlugin {
            name: name(text),
            owner: None,
            revision: Revision(1),
            rollout: Rollout { paused, ..Rollout::default() },
        };
        let live = Live::default();
        live.see(&Arc::new(RegistrySnapshot {
            revision: Revision(1),
            plugins: vec![paused("a", true), paused("b", false)],
            versions: Vec::new(),
        }));
        let policy = live.overlay(QueuePolicy::default());
        assert!(policy.is_paused(&name("a")) && !policy.is_paused(&name("b")));
        assert_eq!(policy.types.len(), 1, "what asks for nothing is not named");
        let mut queue = QueuePolicy::default();
        queue.types.insert(name("a"), TypePolicy { paused: false, max_running: Some(3) });
        let policy = live.overlay(queue);
        assert!(policy.is_paused(&name("a")));
        assert_eq!(policy.type_cap(&name("a")), Some(3));
    }

    #[test]
    fn tasks_from_before_a_version_are_told_by_their_ids() {
        let since = Timestamp::now();
        assert!(is_before(TaskId::generate(), since), "a door may lag");
        let long_ago = since - DOUBT * 2;
        assert!(!is_before(TaskId::generate(), long_ago));
        let random = "00000000-0000-4000-8000-000000000000".parse().unwrap();
        assert!(is_before(random, long_ago), "nothing can be told of it");
    }
}
