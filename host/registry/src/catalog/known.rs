//! One state of the catalog: which types there are, which version runs a task, and whose they are.

use std::{collections::BTreeMap, sync::Arc};

use serde::{Deserialize, Serialize};
use taskforge_domain::{
    Json, PluginInfo, PluginVersion, RegisteredPlugin, Revision, TaskId, TaskType, TenantId,
    VersionId,
};
use taskforge_schema::Schema;
use utoipa::ToSchema;

/// The types known at one time. A request works with one such state from beginning to end.
#[derive(Debug, Default, Clone)]
pub struct KnownTypes {
    /// The registry's revision that this shows.
    pub revision: Revision,
    pub(super) plugins: Arc<BTreeMap<TaskType, Arc<KnownPlugin>>>,
    pub(super) external: Arc<BTreeMap<TaskType, Arc<External>>>,
}

/// A plugin of the registry, with its running versions.
#[derive(Debug)]
pub struct KnownPlugin {
    /// Whose it is, and which of its versions run.
    pub registered: RegisteredPlugin,
    /// The versions that its rollout names.
    pub(super) versions: Vec<RunningVersion>,
}

/// A version that runs, with its compiled schema.
#[derive(Debug)]
pub struct RunningVersion {
    /// The version.
    pub version: PluginVersion,
    /// Its input schema. `None` if this host cannot check against it.
    pub input: Option<Arc<Schema>>,
}

/// A task type that only external workers handle.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ExternalType {
    /// The name that clients enqueue by.
    #[schema(value_type = String, example = "ocr")]
    pub name: TaskType,
    /// One line for people.
    #[serde(default)]
    #[schema(required)]
    pub summary: String,
    /// JSON Schema of the input; `POST /tasks` checks against it.
    #[schema(value_type = Value)]
    pub input_schema: Json,
    /// JSON Schema of the output; `POST /complete_task` checks against it. Null: any output is
    /// taken.
    #[serde(default)]
    #[schema(value_type = Value, nullable)]
    pub output_schema: Option<Json>,
}

/// An external type, with its compiled schemas.
#[derive(Debug)]
pub struct External {
    /// What was declared.
    pub declared: ExternalType,
    pub(super) input: Schema,
    /// `None`: any output is taken. Of a plugin's output nobody but its author makes a promise.
    pub output: Option<Schema>,
}

/// What handles the tasks of a type.
#[derive(Debug, Clone, Copy)]
pub enum Handler<'a> {
    /// A plugin, in the fleet's own workers.
    Plugin(&'a KnownPlugin),
    /// Workers outside.
    External(&'a External),
}

/// Why no task of a type is accepted, in a sentence for clients.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotAccepted {
    /// The plugin is retired.
    #[error("plugin {0} is retired")]
    Retired(TaskType),
    /// It has no stable version.
    #[error("no version of plugin {0} is active yet")]
    Inactive(TaskType),
    /// The schema of the version that would run the task cannot be compiled.
    #[error("inputs of plugin {0} cannot be checked: its schema cannot be used")]
    Unchecked(TaskType),
}

impl KnownTypes {
    /// Every type, whosever it is, by name.
    #[must_use]
    pub fn all(&self) -> BTreeMap<&TaskType, Handler<'_>> {
        let plugins = self.plugins.iter().map(|(name, plugin)| (name, Handler::Plugin(plugin)));
        let external = self.external.iter().map(|(name, known)| (name, Handler::External(known)));
        plugins.chain(external).collect()
    }

    /// Every plugin of the registry, by name.
    pub fn plugins(&self) -> impl Iterator<Item = &Arc<KnownPlugin>> {
        self.plugins.values()
    }

    /// A plugin of the registry.
    #[must_use]
    pub fn plugin(&self, name: &TaskType) -> Option<&Arc<KnownPlugin>> {
        self.plugins.get(name)
    }

    /// What handles a type, whosever it is.
    #[must_use]
    pub fn get(&self, name: &TaskType) -> Option<Handler<'_>> {
        let external = self.external.get(name).map(|known| Handler::External(known));
        external.or_else(|| Some(Handler::Plugin(self.plugins.get(name)?)))
    }

    /// What handles a type for a tenant. Types of others are not there for it.
    #[must_use]
    pub fn find(&self, tenant: &TenantId, name: &TaskType) -> Option<Handler<'_>> {
        self.get(name).filter(|handler| handler.is_for(tenant))
    }

    /// Whether a plugin is paused. Its queue may be, besides.
    #[must_use]
    pub fn is_paused(&self, name: &TaskType) -> bool {
        self.plugin(name).is_some_and(|plugin| plugin.registered.rollout.paused)
    }

    /// The plugins whose name an external type has too.
    pub(super) fn hidden(&self) -> impl Iterator<Item = &TaskType> {
        self.external.keys().filter(|name| self.plugins.contains_key(name))
    }
}

impl KnownPlugin {
    /// The version that runs a task. `None`: none does.
    #[must_use]
    pub fn version_for(&self, task: TaskId) -> Option<&RunningVersion> {
        self.version(self.registered.rollout.pick(task)?)
    }

    /// A version that runs.
    #[must_use]
    pub fn version(&self, id: VersionId) -> Option<&RunningVersion> {
        self.versions.iter().find(|running| running.version.id == id)
    }

    /// The versions that run.
    pub fn running(&self) -> impl Iterator<Item = &PluginVersion> {
        self.versions.iter().map(|running| &running.version)
    }

    /// The stable version. `None` before the first activation.
    #[must_use]
    pub fn stable(&self) -> Option<&PluginInfo> {
        Some(&self.version(self.registered.rollout.stable?)?.version.info)
    }

    /// The version on trial.
    #[must_use]
    pub fn canary(&self) -> Option<&PluginInfo> {
        Some(&self.version(self.registered.rollout.canary?.version)?.version.info)
    }
}

impl<'a> Handler<'a> {
    /// Whether a tenant may use it.
    #[must_use]
    pub fn is_for(self, tenant: &TenantId) -> bool {
        match self {
            Self::Plugin(plugin) => {
                plugin.registered.owner.as_ref().is_none_or(|owner| owner == tenant)
            }
            Self::External(_) => true,
        }
    }

    /// What the input of a new task must be.
    ///
    /// # Errors
    /// Why it is not accepted.
    pub fn input(self, task: TaskId) -> Result<&'a Schema, NotAccepted> {
        let plugin = match self {
            Self::Plugin(plugin) => plugin,
            Self::External(external) => return Ok(&external.input),
        };
        let RegisteredPlugin { name, rollout, .. } = &plugin.registered;
        if rollout.retired {
            return Err(NotAccepted::Retired(name.clone()));
        }
        if rollout.pick(task).is_none() {
            return Err(NotAccepted::Inactive(name.clone()));
        }
        let input = plugin.version_for(task).and_then(|running| running.input.as_deref());
        input.ok_or_else(|| NotAccepted::Unchecked(name.clone()))
    }

    /// What inputs must be of which nobody knows yet which version will run them.
    #[must_use]
    pub fn inputs(self) -> Vec<&'a Schema> {
        match self {
            Self::Plugin(plugin) => {
                plugin.versions.iter().filter_map(|running| running.input.as_deref()).collect()
            }
            Self::External(external) => vec![&external.input],
        }
    }
}
