//! The plugins that the fleet knows, with their compiled input schemas.

use std::{
    collections::BTreeMap,
    sync::{Arc, PoisonError, RwLock},
};

use taskforge_domain::{Json, PluginInfo, TaskType};

use crate::{FieldError, schema::Schema};

/// A plugin that cannot be offered.
#[derive(Debug, thiserror::Error)]
pub enum CatalogError {
    /// Its input schema is not a schema that the door can check inputs against.
    #[error("the input schema of plugin {plugin} cannot be used: {reason}")]
    Schema {
        /// The plugin.
        plugin: TaskType,
        /// What is wrong, and where in the schema.
        reason: String,
    },
    /// Two plugins claim one name.
    #[error("there are two plugins named {0}")]
    Duplicate(TaskType),
}

/// The plugins known now. Cheap to read while requests run; replaced as a whole.
#[derive(Debug, Default)]
pub struct Catalog {
    plugins: RwLock<Arc<Plugins>>,
}

/// One state of the catalogue, by name. A request works with one from beginning to end.
pub(crate) type Plugins = BTreeMap<TaskType, Arc<Entry>>;

/// A plugin and the check of its inputs.
#[derive(Debug)]
pub(crate) struct Entry {
    info: Arc<PluginInfo>,
    pub(crate) input: Schema,
}

impl Catalog {
    /// A catalogue without plugins, which refuses every task.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Replaces the plugins. A schema that was already compiled is kept; the rest are compiled here, once.
    ///
    /// A schema's references must stay within it, its patterns have no look-around and no back-references, and `format` is an
    /// annotation, as JSON Schema says by default.
    ///
    /// # Errors
    /// When a schema cannot be compiled or a name is there twice. The catalogue then stays as it was.
    pub fn set(&self, plugins: Vec<PluginInfo>) -> Result<(), CatalogError> {
        let before = self.snapshot();
        let mut after = Plugins::new();
        for info in plugins {
            let name = info.name.clone();
            let kept = before.get(&name).filter(|entry| *entry.info == info).cloned();
            let entry = match kept {
                Some(entry) => entry,
                None => Arc::new(compile(info)?),
            };
            if after.insert(name.clone(), entry).is_some() {
                return Err(CatalogError::Duplicate(name));
            }
        }
        // The map is replaced in one move, so a poisoned lock still guards a whole one.
        *self.plugins.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(after);
        Ok(())
    }

    /// The plugin that handles this type.
    #[must_use]
    pub fn get(&self, name: &TaskType) -> Option<Arc<PluginInfo>> {
        self.snapshot().get(name).map(|entry| Arc::clone(&entry.info))
    }

    /// Every plugin, by name.
    #[must_use]
    pub fn list(&self) -> Vec<Arc<PluginInfo>> {
        self.snapshot()
            .values()
            .map(|entry| Arc::clone(&entry.info))
            .collect()
    }

    /// Checks an input as the door does when a task is enqueued: what is wrong with it, each fault with a pointer below `/input`.
    /// `None` when no plugin has this name.
    #[must_use]
    pub fn faults(&self, name: &TaskType, input: &Json) -> Option<Vec<FieldError>> {
        let entry = self.snapshot().get(name).cloned()?;
        let mut faults = Vec::new();
        entry
            .input
            .check(&input.to_value(), input.as_str().len(), "/input", &mut faults);
        Some(faults)
    }

    pub(crate) fn snapshot(&self) -> Arc<Plugins> {
        Arc::clone(&self.plugins.read().unwrap_or_else(PoisonError::into_inner))
    }
}

fn compile(info: PluginInfo) -> Result<Entry, CatalogError> {
    match Schema::compile(info.input_schema.as_str()) {
        Ok(input) => Ok(Entry {
            input,
            info: Arc::new(info),
        }),
        Err(reason) => Err(CatalogError::Schema {
            plugin: info.name,
            reason,
        }),
    }
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
            assert!(error.to_string().contains("plugin bad"), "{bad}: {error}");
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
}
