//! What one type offers, and to whom.

use std::{collections::BTreeMap, sync::Arc};

use serde::{Deserialize, Serialize};
use taskforge_domain::{
    Json, PluginInfo, QueuePolicy, RegisteredPlugin, TaskId, TaskType, TenantId, VersionId,
};
use taskforge_schema::{Fault, MAX_ERRORS, Schema};
use utoipa::ToSchema;

use crate::FieldError;

/// A plugin or external type that cannot be offered.
#[derive(Debug, thiserror::Error)]
pub enum CatalogError {
    /// A schema of it is not one that inputs can be checked against.
    #[error("the {side} schema of {plugin} cannot be used: {reason}")]
    Schema {
        /// The plugin or external type.
        plugin: TaskType,
        /// `input` or `output`.
        side: &'static str,
        /// What is wrong, and where in the schema.
        reason: String,
    },
    /// Two claim one name.
    #[error("there are two plugins named {0}")]
    Duplicate(TaskType),
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

/// One state of the catalogue. A request works with one from beginning to end.
#[derive(Debug, Default)]
pub(crate) struct Plugins(BTreeMap<TaskType, Arc<Offer>>);

/// What is offered under one name.
#[derive(Debug)]
pub(crate) struct Offer {
    /// What the registry says of it. `None`: it is not of the registry.
    pub(crate) registered: Option<RegisteredPlugin>,
    /// The versions that run, as far as inputs can be checked for them.
    versions: Vec<(VersionId, Arc<Entry>)>,
    /// The one that is not of the registry.
    only: Option<Arc<Entry>>,
}

/// A type and the checks of its inputs and outputs.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) handler: Handler,
    pub(crate) input: Arc<Schema>,
    /// Only of external types that have one: of a plugin's output nobody but its author makes a
    /// promise.
    pub(crate) output: Option<Schema>,
}

/// Who handles a type.
#[derive(Debug, PartialEq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub(crate) enum Handler {
    /// A plugin, in the fleet's own workers.
    Component(Arc<PluginInfo>),
    /// Workers outside.
    External(ExternalType),
}

impl Plugins {
    pub(super) const fn new(plugins: BTreeMap<TaskType, Arc<Offer>>) -> Self {
        Self(plugins)
    }

    /// Every type, whosever it is, by name.
    pub(crate) fn all(&self) -> impl Iterator<Item = (&TaskType, &Arc<Offer>)> {
        self.0.iter()
    }

    /// A type, whosever it is.
    pub(crate) fn get(&self, name: &TaskType) -> Option<&Arc<Offer>> {
        self.0.get(name)
    }

    /// A type that a tenant may use. Those of others are not there for it.
    pub(crate) fn find(&self, tenant: &TenantId, name: &TaskType) -> Option<&Arc<Offer>> {
        self.0.get(name).filter(|offer| offer.is_for(tenant))
    }

    /// Lays the pauses of plugins over the queue's policy, as workers do.
    pub(crate) fn overlay(&self, policy: &mut QueuePolicy) {
        for (name, offer) in &self.0 {
            let registered = offer.registered.as_ref();
            if registered.is_some_and(|plugin| plugin.rollout.paused) {
                policy.types.entry(name.clone()).or_default().paused = true;
            }
        }
    }

    /// Whether a plugin is paused. Its queue may be, besides.
    pub(crate) fn is_paused(&self, name: &TaskType) -> bool {
        let registered = self.get(name).and_then(|offer| offer.registered.as_ref());
        registered.is_some_and(|plugin| plugin.rollout.paused)
    }

    /// The names of types that a tenant may use.
    pub(crate) fn names<'a>(&'a self, tenant: &'a TenantId) -> impl Iterator<Item = &'a TaskType> {
        let offered = self.0.iter().filter(|(_, offer)| offer.is_for(tenant));
        offered.map(|(name, _)| name)
    }

    /// Says that a type is not known, and which are.
    pub(crate) fn unknown(&self, tenant: &TenantId, name: &TaskType) -> String {
        let mut known: Vec<&str> = self.names(tenant).take(21).map(TaskType::as_str).collect();
        if known.len() > 20 {
            known[20] = "…";
        }
        match known.as_slice() {
            [] => format!("no plugin is named {name:?}; none is loaded"),
            known => format!("no plugin is named {name:?}; known are {}", known.join(", ")),
        }
    }
}

impl Offer {
    /// Of a type that is not of the registry.
    pub(super) const fn of(entry: Arc<Entry>) -> Self {
        Self { registered: None, versions: Vec::new(), only: Some(entry) }
    }

    pub(super) const fn registered(
        plugin: RegisteredPlugin,
        versions: Vec<(VersionId, Arc<Entry>)>,
    ) -> Self {
        Self { registered: Some(plugin), versions, only: None }
    }

    pub(crate) fn is_external(&self) -> bool {
        self.only.as_ref().is_some_and(|entry| entry.handler.is_external())
    }

    pub(crate) fn is_for(&self, tenant: &TenantId) -> bool {
        let owner = self.registered.as_ref().and_then(|plugin| plugin.owner.as_ref());
        owner.is_none_or(|owner| owner == tenant)
    }

    /// What handles its tasks: of two versions that run, the stable one.
    pub(crate) fn running(&self) -> Option<&Arc<Entry>> {
        let stable = self.registered.as_ref().and_then(|plugin| plugin.rollout.stable);
        stable.and_then(|id| self.version(id)).or(self.only.as_ref())
    }

    pub(crate) fn version(&self, id: VersionId) -> Option<&Arc<Entry>> {
        let found = self.versions.iter().find(|(version, _)| *version == id);
        found.map(|(_, entry)| entry)
    }

    pub(crate) fn plugin(&self) -> Option<Arc<PluginInfo>> {
        match &self.running()?.handler {
            Handler::Component(plugin) => Some(Arc::clone(plugin)),
            Handler::External(_) => None,
        }
    }

    /// What will handle a new task, or why none is accepted, in a sentence.
    pub(crate) fn for_task(&self, task: TaskId) -> Result<&Entry, String> {
        let Some(plugin) = &self.registered else {
            return self.only.as_deref().ok_or_else(|| "has no handler".to_owned());
        };
        let name = &plugin.name;
        if plugin.rollout.retired {
            return Err(format!("plugin {name} is retired"));
        }
        let Some(id) = plugin.rollout.pick(task) else {
            return Err(format!("no version of plugin {name} is active yet"));
        };
        let entry = self.version(id).map(|entry| &**entry);
        entry.ok_or_else(|| {
            format!("inputs of plugin {name} cannot be checked: its schema cannot be used")
        })
    }

    /// What is wrong with an input, whichever version may run it.
    pub(crate) fn faults(&self, input: &Json) -> Vec<FieldError> {
        let (tree, size) = (input.to_value(), input.as_str().len());
        let mut faults = Vec::new();
        for entry in self.versions.iter().map(|(_, entry)| entry).chain(&self.only) {
            let mut found = Vec::new();
            entry.check_input(&tree, size, "/input", &mut found);
            found.retain(|fault| !faults.contains(fault));
            faults.extend(found);
        }
        faults
    }
}

impl Entry {
    /// Of a version of the registry; what was compiled for it or for another with the same schema
    /// is used again.
    pub(super) fn of_version(
        info: &PluginInfo,
        kept: Option<&Arc<Self>>,
    ) -> Result<Arc<Self>, CatalogError> {
        if let Some(kept) = kept
            && let Handler::Component(before) = &kept.handler
        {
            // Its settings may have changed, its schema never does.
            return Ok(match **before == *info {
                true => Arc::clone(kept),
                false => Arc::new(Self {
                    handler: Handler::Component(Arc::new(info.clone())),
                    input: Arc::clone(&kept.input),
                    output: None,
                }),
            });
        }
        Self::compile(Handler::Component(Arc::new(info.clone()))).map(Arc::new)
    }

    pub(super) fn compile(handler: Handler) -> Result<Self, CatalogError> {
        let schema = |side, text: &Json| {
            Schema::compile(text.as_str()).map_err(|reason| CatalogError::Schema {
                plugin: handler.name().clone(),
                side,
                reason,
            })
        };
        let (input, output) = handler.schemas();
        Ok(Self {
            input: Arc::new(schema("input", input)?),
            output: output.map(|text| schema("output", text)).transpose()?,
            handler,
        })
    }

    /// Checks an input of `size` bytes; adds what is wrong with it.
    pub(crate) fn check_input(
        &self,
        input: &serde_json::Value,
        size: usize,
        pointer: &str,
        errors: &mut Vec<FieldError>,
    ) {
        check(&self.input, input, size, pointer, errors);
    }
}

impl Handler {
    pub(super) const fn is_external(&self) -> bool {
        matches!(self, Self::External(_))
    }

    pub(super) fn name(&self) -> &TaskType {
        match self {
            Self::Component(plugin) => &plugin.name,
            Self::External(external) => &external.name,
        }
    }

    fn schemas(&self) -> (&Json, Option<&Json>) {
        match self {
            Self::Component(plugin) => (&plugin.input_schema, None),
            Self::External(external) => (&external.input_schema, external.output_schema.as_ref()),
        }
    }
}

/// Checks a value against a schema; adds what is wrong with it.
pub(crate) fn check(
    schema: &Schema,
    value: &serde_json::Value,
    size: usize,
    pointer: &str,
    errors: &mut Vec<FieldError>,
) {
    let mut faults = Vec::new();
    schema.check(value, size, pointer, &mut faults);
    let room = MAX_ERRORS.saturating_sub(errors.len()).max(1);
    errors.extend(faults.into_iter().take(room).map(FieldError::from));
}

impl From<Fault> for FieldError {
    fn from(fault: Fault) -> Self {
        Self::at(fault.pointer, fault.detail)
    }
}
