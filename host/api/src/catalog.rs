//! The task types that the fleet knows, with their compiled schemas.
//!
//! Most are plugins. An *external* type has no component: only workers outside the fleet run it,
//! over HTTP (`POST /task/next`). They may take tasks of plugins as well; whoever comes first runs
//! them.
//!
//! A plugin of the registry has up to two versions that run, and whose it is: [`offer`] says which
//! version a task will meet, and to whom a type is offered at all.

mod offer;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError, RwLock},
};

use taskforge_domain::{
    Json, PluginInfo, RegisteredPlugin, Revision, TaskType, TenantId, VersionId,
};
use taskforge_store::RegistrySnapshot;

pub use self::offer::{CatalogError, ExternalType};
pub(crate) use self::offer::{Entry, Handler, Offer, Plugins, check};
use crate::FieldError;

/// The types known now. Cheap to read while requests run; replaced as a whole.
#[derive(Debug, Default)]
pub struct Catalog {
    plugins: RwLock<Arc<Plugins>>,
    /// Held from the look to the change, or one of two callers would undo what the other did.
    /// Readers do not wait for it.
    changes: Mutex<Changes>,
}

/// What a change of the registry has to know of those before it.
#[derive(Debug, Default)]
struct Changes {
    /// The registry as it is offered. Two may bring its states, and the older one may come last.
    revision: Revision,
    /// Versions whose schema cannot be compiled: told once, and not tried again.
    unusable: BTreeSet<VersionId>,
}

impl Catalog {
    /// A catalogue without plugins, which refuses every task.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Replaces the plugins; external types stay. A schema that was already compiled is kept; the
    /// rest are compiled here, once.
    ///
    /// A schema's references must stay within it, its patterns have no look-around and no
    /// back-references, and `format` is an annotation, as JSON Schema says by default.
    ///
    /// # Errors
    /// When a schema cannot be compiled or a name is there twice. The catalogue then stays as it
    /// was.
    pub fn set(&self, plugins: Vec<PluginInfo>) -> Result<(), CatalogError> {
        let plugins = plugins.into_iter().map(|plugin| Handler::Component(Arc::new(plugin)));
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

    /// Replaces the plugins by those of the registry; external types stay. What is older than what
    /// is there changes nothing. Schemas of versions that are new here are compiled, which may take
    /// some milliseconds each.
    ///
    /// A version whose schema cannot be compiled is left out, and so is a plugin that has the name
    /// of an external type; both are logged, and hide no other.
    pub fn set_registry(&self, snapshot: &RegistrySnapshot) {
        let mut changes = self.changes.lock().unwrap_or_else(PoisonError::into_inner);
        if snapshot.revision < changes.revision {
            return;
        }
        changes.revision = snapshot.revision;
        let before = self.snapshot();
        let mut after: BTreeMap<_, _> = before
            .all()
            .filter(|(_, offer)| offer.is_external())
            .map(|(name, offer)| (name.clone(), Arc::clone(offer)))
            .collect();
        for plugin in &snapshot.plugins {
            if after.contains_key(&plugin.name) {
                tracing::error!(task.type = %plugin.name, "a plugin has the name of an external type, and is not offered");
                continue;
            }
            let offer =
                self::registered(plugin, snapshot, before.get(&plugin.name), &mut changes.unusable);
            after.insert(plugin.name.clone(), Arc::new(offer));
        }
        self.put(after);
    }

    fn replace(
        &self,
        handlers: Vec<Handler>,
        stays: impl Fn(&Handler) -> bool,
    ) -> Result<(), CatalogError> {
        let _change = self.changes.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.snapshot();
        let mut after: BTreeMap<_, _> = before
            .all()
            .filter(|(_, offer)| offer.running().is_none_or(|entry| stays(&entry.handler)))
            .map(|(name, offer)| (name.clone(), Arc::clone(offer)))
            .collect();
        for handler in handlers {
            let name = handler.name().clone();
            let kept = before.get(&name).and_then(|offer| offer.running());
            let entry = match kept.filter(|entry| entry.handler == handler) {
                Some(entry) => Arc::clone(entry),
                None => Arc::new(Entry::compile(handler)?),
            };
            if after.insert(name.clone(), Arc::new(Offer::of(entry))).is_some() {
                return Err(CatalogError::Duplicate(name));
            }
        }
        self.put(after);
        Ok(())
    }

    /// The map is replaced in one move, so a poisoned lock still guards a whole one.
    fn put(&self, plugins: BTreeMap<TaskType, Arc<Offer>>) {
        *self.plugins.write().unwrap_or_else(PoisonError::into_inner) =
            Arc::new(Plugins::new(plugins));
    }

    /// The plugin that handles this type: of two versions that run, the stable one. `None` for an
    /// external type.
    #[must_use]
    pub fn get(&self, name: &TaskType) -> Option<Arc<PluginInfo>> {
        self.snapshot().get(name)?.plugin()
    }

    /// Every plugin that runs, by name, without the external types.
    #[must_use]
    pub fn list(&self) -> Vec<Arc<PluginInfo>> {
        self.snapshot().all().filter_map(|(_, offer)| offer.plugin()).collect()
    }

    /// Checks an input as the API does when a task of the default tenant is enqueued, against every
    /// version that may run it: what is wrong with it, each fault with a pointer below `/input`.
    /// `None` when nothing has this name.
    #[must_use]
    pub fn faults(&self, name: &TaskType, input: &Json) -> Option<Vec<FieldError>> {
        let snapshot = self.snapshot();
        let offer = snapshot.find(&TenantId::default(), name)?;
        Some(offer.faults(input))
    }

    pub(crate) fn snapshot(&self) -> Arc<Plugins> {
        Arc::clone(&self.plugins.read().unwrap_or_else(PoisonError::into_inner))
    }
}

/// What a plugin of the registry offers. What was compiled for `before` is used again.
fn registered(
    plugin: &RegisteredPlugin,
    snapshot: &RegistrySnapshot,
    before: Option<&Arc<Offer>>,
    unusable: &mut BTreeSet<VersionId>,
) -> Offer {
    let mut entry = |id: VersionId| {
        let version = snapshot.versions.iter().find(|version| version.id == id)?;
        if unusable.contains(&id) {
            return None;
        }
        let kept = before.and_then(|offer| offer.version(id));
        match Entry::of_version(&version.info, kept) {
            Ok(entry) => Some((id, entry)),
            Err(error) => {
                unusable.insert(id);
                tracing::error!(
                    plugin.version = version.info.version,
                    "a version is not offered: {error}"
                );
                None
            }
        }
    };
    let versions = plugin.rollout.running().filter_map(&mut entry).collect();
    Offer::registered(plugin.clone(), versions)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::{Value, json};
    use taskforge_domain::{
        Canary, CanaryGuard, Digest, Grants, Limits, PluginVersion, Rollout, TaskId, Timestamp,
        VersionState,
    };

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
            assert!(error.to_string().contains("input schema of bad"), "{bad}: {error}");
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
        catalog.set(vec![plugin("x", json!(true)), plugin("y", json!(true))]).unwrap();
        assert!(Arc::ptr_eq(&before, &catalog.get(&TaskType::new("x").unwrap()).unwrap()));
    }

    /// A plugin of the registry with a stable version and perhaps another on trial, each with this
    /// schema.
    fn registered(name: &str, schemas: &[Value]) -> (RegisteredPlugin, Vec<PluginVersion>) {
        let version = |(index, schema): (usize, &Value)| PluginVersion {
            id: VersionId::generate(),
            info: PluginInfo { version: format!("1.{index}.0"), ..plugin(name, schema.clone()) },
            signature: None,
            state: VersionState::Available,
            pushed_by: "test".into(),
            pushed_at: Timestamp::UNIX_EPOCH,
        };
        let versions: Vec<_> = schemas.iter().enumerate().map(version).collect();
        let canary = versions.get(1).map(|version| Canary {
            version: version.id,
            percent: 50,
            guard: CanaryGuard::default(),
        });
        let plugin = RegisteredPlugin {
            name: TaskType::new(name).unwrap(),
            owner: None,
            revision: Revision(1),
            rollout: Rollout {
                stable: versions.first().map(|version| version.id),
                canary,
                ..Rollout::default()
            },
        };
        (plugin, versions)
    }

    fn snapshot(
        revision: i64,
        plugins: Vec<(RegisteredPlugin, Vec<PluginVersion>)>,
    ) -> RegistrySnapshot {
        let (plugins, versions): (Vec<_>, Vec<_>) = plugins.into_iter().unzip();
        RegistrySnapshot { revision: Revision(revision), plugins, versions: versions.concat() }
    }

    fn input_fits(
        catalog: &Catalog,
        name: &str,
        task: TaskId,
        input: &Value,
    ) -> Result<bool, String> {
        let snapshot = catalog.snapshot();
        let offer = snapshot.get(&TaskType::new(name).unwrap()).unwrap();
        let mut errors = Vec::new();
        offer.for_task(task)?.check_input(input, 1, "/input", &mut errors);
        Ok(errors.is_empty())
    }

    #[test]
    fn a_task_is_checked_against_the_version_that_will_run_it() {
        let catalog = Catalog::new();
        let both = registered("x", &[json!({"type": "string"}), json!({"type": "integer"})]);
        let rollout = both.0.rollout.clone();
        catalog.set_registry(&snapshot(1, vec![both]));
        let mut of_canary = 0;
        for _ in 0..200 {
            let task = TaskId::generate();
            let is_canary = rollout.pick(task) != rollout.stable;
            of_canary += i32::from(is_canary);
            assert_eq!(input_fits(&catalog, "x", task, &json!(1)), Ok(is_canary));
            assert_eq!(input_fits(&catalog, "x", task, &json!("a")), Ok(!is_canary));
        }
        assert!((50..150).contains(&of_canary), "{of_canary}");
        let name = TaskType::new("x").unwrap();
        assert_eq!(catalog.get(&name).unwrap().version, "1.0.0", "the stable one is shown");
        let either = catalog.faults(&name, &Json::from(json!("a"))).unwrap();
        assert_eq!(either.len(), 1, "an input for tasks that are not known must suit both");
    }

    #[test]
    fn a_version_with_an_unusable_schema_hides_no_other() {
        let catalog = Catalog::new();
        let bad = json!({"$ref": "http://127.0.0.1:1/schema.json"});
        let plugins = vec![
            registered("bad", std::slice::from_ref(&bad)),
            registered("half", &[json!({"type": "string"}), bad]),
            registered("good", &[json!(true)]),
        ];
        catalog.set_registry(&snapshot(1, plugins));
        let fits = |name: &str| input_fits(&catalog, name, TaskId::generate(), &json!("a"));
        assert_eq!(fits("good"), Ok(true));
        assert!(fits("bad").unwrap_err().contains("cannot be checked"));
        let half: Vec<_> = (0..50).map(|_| fits("half")).collect();
        assert!(half.contains(&Ok(true)) && half.iter().any(Result::is_err), "{half:?}");
        assert_eq!(catalog.list().len(), 2);
    }

    #[test]
    fn an_older_state_of_the_registry_changes_nothing_and_a_schema_is_compiled_once() {
        let catalog = Catalog::new();
        let (plugin, mut versions) = registered("x", &[json!({"type": "string"})]);
        catalog.set_registry(&snapshot(2, vec![(plugin.clone(), versions.clone())]));
        let schema =
            || Arc::clone(&catalog.snapshot().get(&plugin.name).unwrap().running().unwrap().input);
        let before = schema();
        catalog.set_registry(&snapshot(1, vec![]));
        assert!(catalog.get(&plugin.name).is_some());
        versions[0].info.limits.fuel = 7;
        catalog.set_registry(&snapshot(3, vec![(plugin.clone(), versions)]));
        assert_eq!(catalog.get(&plugin.name).unwrap().limits.fuel, 7);
        assert!(Arc::ptr_eq(&before, &schema()));
    }

    #[test]
    fn an_external_type_keeps_its_name() {
        let catalog = Catalog::new();
        let ocr = ExternalType {
            name: TaskType::new("ocr").unwrap(),
            summary: String::new(),
            input_schema: Json::from(json!(true)),
            output_schema: None,
        };
        catalog.set_external(vec![ocr]).unwrap();
        let plugins = vec![registered("ocr", &[json!(true)]), registered("x", &[json!(true)])];
        catalog.set_registry(&snapshot(1, plugins));
        assert_eq!(catalog.list().len(), 1);
        assert!(catalog.snapshot().get(&TaskType::new("ocr").unwrap()).unwrap().is_external());
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
        catalog.set_external(vec![external("ocr", Some(json!({"type": "object"})))]).unwrap();
        catalog.set(vec![plugin("x", json!(true))]).unwrap();
        assert_eq!((catalog.snapshot().all().count(), catalog.list().len()), (2, 1));
        assert!(matches!(
            catalog.set(vec![plugin("ocr", json!(true))]),
            Err(CatalogError::Duplicate(_))
        ));
        assert!(matches!(
            catalog.set_external(vec![external("x", None)]),
            Err(CatalogError::Duplicate(_))
        ));
        let error = catalog.set_external(vec![external("bad", Some(json!(7)))]).unwrap_err();
        assert!(error.to_string().contains("output schema of bad"), "{error}");
        assert_eq!(
            catalog.faults(&TaskType::new("ocr").unwrap(), &Json::from(json!(1))).unwrap().len(),
            1
        );
        catalog.set_external(vec![]).unwrap();
        assert!(catalog.faults(&TaskType::new("ocr").unwrap(), &Json::from(json!(1))).is_none());
    }
}
