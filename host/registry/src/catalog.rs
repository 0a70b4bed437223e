//! The task types that this process knows: the plugins of the registry, as it was last read, and
//! the types that only external workers handle.
//!
//! The API checks inputs by it, the loader makes ready what it names, and brokers and claims keep
//! the pauses that it tells of. It knows no compiled component: what of it is ready to run here is
//! [`crate::live`]'s to say.

mod known;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
};

use taskforge_domain::{
    Json, PluginInfo, PluginVersion, QueuePolicy, RegisteredPlugin, Revision, Rollout, TaskType,
    Timestamp, VersionId, VersionState,
};
use taskforge_schema::Schema;
use taskforge_store::{PluginStore, RegistrySnapshot, StoreError, StoreResult};
use tokio::sync::{Mutex, watch};

pub use self::known::{
    External, ExternalType, Handler, KnownPlugin, KnownTypes, NotAccepted, RunningVersion,
};

/// The types known now. Cheap to read while requests run; replaced as a whole.
#[derive(Debug, Default)]
pub struct Catalog {
    known: watch::Sender<Arc<KnownTypes>>,
    /// Held while the registry is read: of two who read it at once, the one that was given an older
    /// state could otherwise be the last to take it over.
    reading: Mutex<()>,
    /// When the registry was last known to be as it was read, in milliseconds since the epoch.
    confirmed: AtomicI64,
}

/// An external type that cannot be declared.
#[derive(Debug, thiserror::Error)]
pub enum CatalogError {
    /// A schema of it is not one that values can be checked against.
    #[error("the {side} schema of {name} cannot be used: {reason}")]
    Schema {
        /// The type.
        name: TaskType,
        /// `input` or `output`.
        side: &'static str,
        /// What is wrong, and where in the schema.
        reason: String,
    },
    /// Two claim one name.
    #[error("there are two plugins named {0}")]
    Duplicate(TaskType),
}

impl Catalog {
    /// The types known now.
    #[must_use]
    pub fn known(&self) -> Arc<KnownTypes> {
        Arc::clone(&self.known.borrow())
    }

    /// The types known now, and what will be.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<Arc<KnownTypes>> {
        self.known.subscribe()
    }

    /// Reads the registry if it has changed since it was last read. External types stay.
    ///
    /// # Errors
    /// When the database fails. What was known then stays.
    pub async fn refresh(&self, store: &dyn PluginStore) -> StoreResult<()> {
        let _reading = self.reading.lock().await;
        let began = store.clock().now();
        let before = self.known();
        if store.registry_revision().await? != before.revision {
            let snapshot = store.registry().await?;
            let revision = snapshot.revision;
            // A schema takes some milliseconds to compile, and a fleet may have many.
            let compiled = tokio::task::spawn_blocking(move || compile(snapshot, &before)).await;
            let plugins = compiled.map_err(|error| StoreError::Corrupt(error.to_string()))?;
            tracing::debug!(revision = revision.0, "the registry has changed");
            self.replace(|known| KnownTypes { revision, plugins, ..known });
        }
        self.confirmed.fetch_max(began.as_millisecond(), Ordering::Release);
        Ok(())
    }

    /// Replaces the plugins by those of a registry; external types stay.
    pub fn set_plugins(&self, snapshot: RegistrySnapshot) {
        let revision = snapshot.revision;
        let plugins = compile(snapshot, &self.known());
        self.replace(|known| KnownTypes { revision, plugins, ..known });
    }

    /// Replaces the external types; plugins stay. One that has the name of a plugin which is
    /// registered later hides it.
    ///
    /// # Errors
    /// When a schema cannot be compiled or a name is there twice. Everything then stays as it was.
    pub fn set_external(&self, types: Vec<ExternalType>) -> Result<(), CatalogError> {
        let known = self.known();
        let mut external = BTreeMap::new();
        for declared in types {
            let name = declared.name.clone();
            let compiled = Arc::new(External::compile(declared)?);
            // A plugin that an external type hides already goes on being hidden.
            let is_new = !known.external.contains_key(&name);
            if is_new && known.plugins.contains_key(&name) || external.contains_key(&name) {
                return Err(CatalogError::Duplicate(name));
            }
            external.insert(name, compiled);
        }
        let external = Arc::new(external);
        self.replace(|known| KnownTypes { external, ..known });
        Ok(())
    }

    /// The queue's policy with the pauses of plugins, which hold for every plugin of the registry,
    /// whether it runs here or not. Their caps are in the store, where claims find them.
    #[must_use]
    pub fn overlay(&self, mut policy: QueuePolicy) -> QueuePolicy {
        for plugin in self.known().plugins().map(|plugin| &plugin.registered) {
            if plugin.rollout.paused {
                policy.types.entry(plugin.name.clone()).or_default().paused = true;
            }
        }
        policy
    }

    /// Whether the registry was read after this time, in milliseconds since the epoch.
    pub(crate) fn is_confirmed(&self, at: i64) -> bool {
        at <= self.confirmed.load(Ordering::Acquire)
    }

    fn replace(&self, change: impl FnOnce(KnownTypes) -> KnownTypes) {
        self.known.send_modify(|known| *known = Arc::new(change(KnownTypes::clone(known))));
        for name in self.known().hidden() {
            tracing::error!(
                task.type = %name,
                "a plugin has the name of an external type, and is not offered"
            );
        }
    }
}

/// A registry of these plugins, each in one active version. For a process without a store.
pub fn active(plugins: impl IntoIterator<Item = PluginInfo>) -> RegistrySnapshot {
    let version = |info| PluginVersion {
        id: VersionId::generate(),
        info,
        signature: None,
        state: VersionState::Available,
        pushed_by: String::new(),
        pushed_at: Timestamp::UNIX_EPOCH,
    };
    let versions: Vec<_> = plugins.into_iter().map(version).collect();
    let plugins = versions.iter().map(|version| RegisteredPlugin {
        name: version.info.name.clone(),
        owner: None,
        revision: Revision::default(),
        rollout: Rollout { stable: Some(version.id), ..Rollout::default() },
    });
    RegistrySnapshot { revision: Revision::default(), plugins: plugins.collect(), versions }
}

/// The plugins of a registry with their compiled schemas. What was compiled before is used again: a
/// version's settings may change, its schema never does.
fn compile(
    snapshot: RegistrySnapshot,
    before: &KnownTypes,
) -> Arc<BTreeMap<TaskType, Arc<KnownPlugin>>> {
    let versions = snapshot.versions.into_iter().map(|version| (version.id, version));
    let mut versions: HashMap<_, _> = versions.collect();
    let plugins = snapshot.plugins.into_iter().map(|registered| {
        let name = registered.name.clone();
        let before = before.plugin(&name);
        let running = registered.rollout.running().filter_map(|id| versions.remove(&id));
        let versions = running
            .map(|version| match before.and_then(|before| before.version(version.id)) {
                Some(before) => RunningVersion { version, input: before.input.clone() },
                None => RunningVersion::compile(version),
            })
            .collect();
        (name, Arc::new(KnownPlugin { registered, versions }))
    });
    Arc::new(plugins.collect())
}

impl RunningVersion {
    fn compile(version: PluginVersion) -> Self {
        let info = &version.info;
        // One schema that the compiler fails on must not keep all others from being known.
        let compiled = std::panic::catch_unwind(|| Schema::compile(info.input_schema.as_str()));
        let input =
            compiled.unwrap_or_else(|_| Err("its compiler failed".into())).map_err(|reason| {
                tracing::error!(
                    task.type = %info.name,
                    plugin.version = info.version,
                    "inputs cannot be checked, so no task is accepted: {reason}"
                );
            });
        Self { input: input.ok().map(Arc::new), version }
    }
}

impl External {
    fn compile(declared: ExternalType) -> Result<Self, CatalogError> {
        let schema = |side, text: &Json| {
            Schema::compile(text.as_str()).map_err(|reason| CatalogError::Schema {
                name: declared.name.clone(),
                side,
                reason,
            })
        };
        let input = schema("input", &declared.input_schema)?;
        let output = declared.output_schema.as_ref();
        let output = output.map(|text| schema("output", text)).transpose()?;
        Ok(Self { declared, input, output })
    }
}
