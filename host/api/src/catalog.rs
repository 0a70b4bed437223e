//! The task types that the fleet knows, with their compiled schemas.
//!
//! Most are plugins. An *external* type has no component: only workers outside the fleet run it, over HTTP (`POST /task/next`). They may
//! take tasks of plugins as well; whoever comes first runs them.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError, RwLock},
};

use serde::{Deserialize, Serialize};
use taskforge_domain::{Json, PluginInfo, TaskType};
use taskforge_schema::{Fault, MAX_ERRORS, Schema};

use crate::FieldError;

/// A plugin or external type that cannot be offered.
#[derive(Debug, thiserror::Error)]
pub enum CatalogError {
    /// A schema of it is not one that the door can check against.
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
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExternalType {
    /// The name that clients enqueue by.
    pub name: TaskType,
    /// One line for people.
    #[serde(default)]
    pub summary: String,
    /// JSON Schema of the input.
    pub input_schema: Json,
    /// JSON Schema of the output. If there is one, a completion whose output does not match it is refused.
    #[serde(default)]
    pub output_schema: Option<Json>,
}

/// The types known now. Cheap to read while requests run; replaced as a whole.
#[derive(Debug, Default)]
pub struct Catalog {
    plugins: RwLock<Arc<Plugins>>,
    /// Held from the look to the change, or one of two callers would undo what the other did. Readers do not wait for it.
    changes: Mutex<()>,
}

/// One state of the catalogue, by name. A request works with one from beginning to end.
pub(crate) type Plugins = BTreeMap<TaskType, Arc<Entry>>;

/// A type and the checks of its inputs and outputs.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) handler: Handler,
    pub(crate) input: Schema,
    /// Only of external types that have one: of a plugin's output nobody but its author makes a promise.
    pub(crate) output: Option<Schema>,
}

impl Entry {
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

/// Who handles a type.
#[derive(Debug, PartialEq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub(crate) enum Handler {
    /// A plugin, in the fleet's own workers.
    Component(Arc<PluginInfo>),
    /// Workers outside.
    External(ExternalType),
}

impl Handler {
    const fn is_external(&self) -> bool {
        matches!(self, Self::External(_))
    }

    fn name(&self) -> &TaskType {
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

impl Catalog {
    /// A catalogue without plugins, which refuses every task.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Replaces the plugins; external types stay. A schema that was already compiled is kept; the rest are compiled here, once.
    ///
    /// A schema's references must stay within it, its patterns have no look-around and no back-references, and `format` is an
    /// annotation, as JSON Schema says by default.
    ///
    /// # Errors
    /// When a schema cannot be compiled or a name is there twice. The catalogue then stays as it was.
    pub fn set(&self, plugins: Vec<PluginInfo>) -> Result<(), CatalogError> {
        let plugins = plugins
            .into_iter()
            .map(|plugin| Handler::Component(Arc::new(plugin)));
        self.replace(plugins.collect(), Handler::is_external)
    }

    /// Replaces the external types; plugins stay.
    ///
    /// # Errors
    /// As [`Catalog::set`].
    pub fn set_external(&self, types: Vec<ExternalType>) -> Result<(), CatalogError> {
        let types = types.into_iter().map(Handler::External);
        self.replace(types.collect(), |handler| !handler.is_external())
    }

    fn replace(&self, handlers: Vec<Handler>, stays: impl Fn(&Handler) -> bool) -> Result<(), CatalogError> {
        let _change = self.changes.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.snapshot();
        let mut after: Plugins = before
            .iter()
            .filter(|(_, entry)| stays(&entry.handler))
            .map(|(name, entry)| (name.clone(), Arc::clone(entry)))
            .collect();
        for handler in handlers {
            let name = handler.name().clone();
            let kept = before.get(&name).filter(|entry| entry.handler == handler);
            let entry = match kept {
                Some(entry) => Arc::clone(entry),
                None => Arc::new(compile(handler)?),
            };
            if after.insert(name.clone(), entry).is_some() {
                return Err(CatalogError::Duplicate(name));
            }
        }
        // The map is replaced in one move, so a poisoned lock still guards a whole one.
        *self.plugins.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(after);
        Ok(())
    }

    /// The plugin that handles this type. `None` for an external type.
    #[must_use]
    pub fn get(&self, name: &TaskType) -> Option<Arc<PluginInfo>> {
        plugin_of(self.snapshot().get(name)?)
    }

    /// Every plugin, by name, without the external types.
    #[must_use]
    pub fn list(&self) -> Vec<Arc<PluginInfo>> {
        self.snapshot()
            .values()
            .filter_map(|entry| plugin_of(entry))
            .collect()
    }

    /// Checks an input as the door does when a task is enqueued: what is wrong with it, each fault with a pointer below `/input`.
    /// `None` when nothing has this name.
    #[must_use]
    pub fn faults(&self, name: &TaskType, input: &Json) -> Option<Vec<FieldError>> {
        let entry = self.snapshot().get(name).cloned()?;
        let mut faults = Vec::new();
        entry.check_input(&input.to_value(), input.as_str().len(), "/input", &mut faults);
        Some(faults)
    }

    pub(crate) fn snapshot(&self) -> Arc<Plugins> {
        Arc::clone(&self.plugins.read().unwrap_or_else(PoisonError::into_inner))
    }
}

fn plugin_of(entry: &Entry) -> Option<Arc<PluginInfo>> {
    match &entry.handler {
        Handler::Component(plugin) => Some(Arc::clone(plugin)),
        Handler::External(_) => None,
    }
}

fn compile(handler: Handler) -> Result<Entry, CatalogError> {
    let schema = |side, text: &Json| {
        Schema::compile(text.as_str()).map_err(|reason| CatalogError::Schema {
            plugin: handler.name().clone(),
            side,
            reason,
        })
    };
    let (input, output) = handler.schemas();
    Ok(Entry {
        input: schema("input", input)?,
        output: output.map(|text| schema("output", text)).transpose()?,
        handler,
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::{Value, json};
    use taskforge_domain::{Digest, Grants, Limits};

    use super::*;

    fn plugin(name: &str, schema: Value) -> PluginInfo {
        PluginInfo {
            name: TaskType::new(name).unwrap(),
            version: "1.0.0".into(),
            shape: taskforge_domain::Shape::Handler,
            digest: Digest::from_bytes([1; 32]),
            summary: String::new(),
            input_schema: Json::from(schema),
            output_schema: Json::from(json!(true)),
            capabilities: vec![],
            imports: vec![],
            exports: vec![],
            size: 1,
            limits: Limits::default(),
            grants: Grants::default(),
            config: std::collections::BTreeMap::new(),
        }
    }

    #[test]
    fn a_schema_that_cannot_be_used_is_refused_with_its_plugin_named() {
        for bad in [
            json!({"type": "nonsense"}),
            json!(7),
            json!({"$ref": "http://127.0.0.1:1/schema.json"}),
            json!({"$ref": "file:///etc/hostname"}),
            json!({"type": "string", "pattern": "(?=x)y"}),
        ] {
            let catalog = Catalog::new();
            catalog.set(vec![plugin("good", json!(true))]).unwrap();
            let error = catalog.set(vec![plugin("bad", bad.clone())]).unwrap_err();
            assert!(
                error.to_string().contains("input schema of bad"),
                "{bad}: {error}"
            );
            assert_eq!(catalog.list().len(), 1, "the catalogue stays as it was");
        }
    }

    #[test]
    fn two_plugins_of_one_name_are_an_error_and_an_unchanged_plugin_is_kept() {
        let catalog = Catalog::new();
        let twice = vec![plugin("x", json!(true)), plugin("x", json!(true))];
        assert!(matches!(catalog.set(twice), Err(CatalogError::Duplicate(_))));
        catalog.set(vec![plugin("x", json!(true))]).unwrap();
        let before = catalog.get(&TaskType::new("x").unwrap()).unwrap();
        catalog
            .set(vec![plugin("x", json!(true)), plugin("y", json!(true))])
            .unwrap();
        assert!(Arc::ptr_eq(
            &before,
            &catalog.get(&TaskType::new("x").unwrap()).unwrap()
        ));
    }
    #[test]
    fn external_types_and_plugins_are_replaced_apart_and_share_their_names() {
        let external = |name: &str, output: Option<Value>| ExternalType {
            name: TaskType::new(name).unwrap(),
            summary: String::new(),
            input_schema: Json::from(json!({"type": "object"})),
            output_schema: output.map(Json::from),
        };
        let catalog = Catalog::new();
        catalog
            .set_external(vec![external("ocr", Some(json!({"type": "object"})))])
            .unwrap();
        catalog.set(vec![plugin("x", json!(true))]).unwrap();
        assert_eq!((catalog.snapshot().len(), catalog.list().len()), (2, 1));
        assert!(matches!(
            catalog.set(vec![plugin("ocr", json!(true))]),
            Err(CatalogError::Duplicate(_))
        ));
        assert!(matches!(
            catalog.set_external(vec![external("x", None)]),
            Err(CatalogError::Duplicate(_))
        ));
        let error = catalog
            .set_external(vec![external("bad", Some(json!(7)))])
            .unwrap_err();
        assert!(error.to_string().contains("output schema of bad"), "{error}");
        assert_eq!(
            catalog
                .faults(&TaskType::new("ocr").unwrap(), &Json::from(json!(1)))
                .unwrap()
                .len(),
            1
        );
        catalog.set_external(vec![]).unwrap();
        assert!(
            catalog
                .faults(&TaskType::new("ocr").unwrap(), &Json::from(json!(1)))
                .is_none()
        );
    }
}
