//! What this process serves now.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use taskforge_domain::{QueuePolicy, Rollout, TaskId, TaskType, Timestamp, TypePolicy, VersionId};
use taskforge_runtime::Plugin;
use taskforge_schema::Schema;
use taskforge_store::{RegistrySnapshot, SealedSecret};

/// How long after the rollout changed a door may still have checked an input against another version: it looks each second, and clocks differ.
const DOUBT: Duration = Duration::from_secs(10);

/// Which plugin serves which task type, here and now. An attempt keeps the plugin that it began with, so a change here never touches what runs.
#[derive(Default)]
pub struct Live(RwLock<Arc<State>>);

/// One state of it, replaced as a whole.
#[derive(Default, Clone)]
struct State {
    served: Arc<HashMap<TaskType, Arc<Served>>>,
    types: Arc<[TaskType]>,
    /// As the registry was last seen, which may be ahead of what is served.
    snapshot: Arc<RegistrySnapshot>,
    /// What plugins ask of the queue.
    policy: Arc<BTreeMap<TaskType, TypePolicy>>,
}

/// One plugin, with its versions ready to run.
pub(crate) struct Served {
    pub(crate) rollout: Rollout,
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
}

/// What runs one task.
pub struct Serving {
    /// The plugin, in the version that the task falls to.
    pub plugin: Arc<Plugin>,
    /// Under what its usage is counted: the version, and the phase of the rollout. `None` for a plugin that is in no registry.
    pub counted: Option<(VersionId, i64)>,
    /// The task was perhaps accepted before this version ran, so its input is to be checked against this.
    pub recheck: Option<Arc<Schema>>,
}

impl Live {
    /// Serves these plugins and no registry. Of two with the same name the later one counts.
    #[must_use]
    pub fn of(plugins: impl IntoIterator<Item = Arc<Plugin>>) -> Self {
        let served = plugins.into_iter().map(|plugin| {
            let name = plugin.info().name.clone();
            let loaded = Loaded {
                id: None,
                plugin,
                input: None,
                secrets: Vec::new(),
            };
            let served = Served {
                rollout: Rollout::default(),
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
        let recheck = loaded
            .input
            .as_ref()
            .filter(|_| served.rollout.since.is_some_and(|since| is_before(task, since)));
        Some(Serving {
            plugin: Arc::clone(&loaded.plugin),
            counted: loaded.id.map(|id| (id, served.rollout.phase)),
            recheck: recheck.cloned(),
        })
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

    /// The queue's policy with what plugins ask of it: a paused one waits, and of two caps the lower one counts. This holds for every plugin of
    /// the registry, whether it is served here or not.
    #[must_use]
    pub fn overlay(&self, mut policy: QueuePolicy) -> QueuePolicy {
        for (name, asked) in &*self.state().policy {
            let entry = policy.types.entry(name.clone()).or_default();
            entry.paused |= asked.paused;
            entry.max_running = match (entry.max_running, asked.max_running) {
                (Some(queue), Some(plugin)) => Some(queue.min(plugin)),
                (queue, plugin) => queue.or(plugin),
            };
        }
        policy
    }

    /// Takes note of the registry. What is served changes when it is ready.
    pub(crate) fn see(&self, snapshot: &Arc<RegistrySnapshot>) {
        let policy = Arc::new(policy(snapshot));
        self.replace(|state| {
            state.snapshot = Arc::clone(snapshot);
            state.policy = policy;
        });
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
        let mut state = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let mut next = State::clone(&state);
        change(&mut next);
        *state = Arc::new(next);
    }

    fn state(&self) -> Arc<State> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl State {
    fn serve(&mut self, served: HashMap<TaskType, Arc<Served>>) {
        // The same as before for whoever compares, if the names are.
        let is_same =
            served.len() == self.types.len() && self.types.iter().all(|name| served.contains_key(name));
        if !is_same {
            self.types = served.keys().cloned().collect();
        }
        self.served = Arc::new(served);
    }
}

/// Whether a task was made before a version ran for certain, as its id tells. One of whose id nothing can be told was.
fn is_before(task: TaskId, since: Timestamp) -> bool {
    let made = task.as_uuid().get_timestamp().map(|made| made.to_unix().0);
    made.is_none_or(|made| made < (since.as_second() + DOUBT.as_secs().cast_signed()).cast_unsigned())
}

fn policy(snapshot: &RegistrySnapshot) -> BTreeMap<TaskType, TypePolicy> {
    let caps: HashMap<VersionId, u32> = snapshot
        .versions
        .iter()
        .filter_map(|version| Some((version.id, version.info.limits.concurrency?)))
        .collect();
    let asked = snapshot.plugins.iter().map(|plugin| {
        let policy = TypePolicy {
            paused: plugin.rollout.paused,
            max_running: plugin.rollout.stable.and_then(|id| caps.get(&id).copied()),
        };
        (plugin.name.clone(), policy)
    });
    asked
        .filter(|(_, policy)| *policy != TypePolicy::default())
        .collect()
}

#[cfg(test)]
mod tests {
    use taskforge_domain::{RegisteredPlugin, Revision};

    use super::*;

    fn name(text: &str) -> TaskType {
        TaskType::new(text).unwrap()
    }

    #[test]
    fn a_paused_plugin_waits_and_the_lower_cap_counts() {
        let paused = |text: &str, paused| RegisteredPlugin {
            name: name(text),
            owner: None,
            revision: Revision(1),
            rollout: Rollout {
                paused,
                ..Rollout::default()
            },
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
        queue.types.insert(
            name("a"),
            TypePolicy {
                paused: false,
                max_running: Some(3),
            },
        );
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
