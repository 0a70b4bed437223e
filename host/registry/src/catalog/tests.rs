use serde_json::{Value, json};
use taskforge_domain::{
    Canary, CanaryGuard, Digest, Grants, Limits, Shape, TaskId, TenantId, TypePolicy,
};

use super::*;

fn name(text: &str) -> TaskType {
    TaskType::new(text).unwrap()
}

fn info(plugin: &str, version: &str, schema: Value) -> PluginInfo {
    PluginInfo {
        name: name(plugin),
        version: version.into(),
        shape: Shape::Handler,
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
        config: BTreeMap::new(),
    }
}

/// A registry of this plugin in a stable version and perhaps another on trial, each with one of the
/// schemas.
fn registry(plugin: &str, schemas: &[Value]) -> RegistrySnapshot {
    let version = |(index, schema): (usize, &Value)| {
        active([info(plugin, &format!("1.{index}.0"), schema.clone())])
    };
    let mut each = schemas.iter().enumerate().map(version);
    let mut first = each.next().unwrap();
    if let Some(second) = each.next() {
        first.plugins[0].rollout.canary = Some(Canary {
            version: second.versions[0].id,
            percent: 50,
            guard: CanaryGuard::default(),
        });
        first.versions.extend(second.versions);
    }
    first
}

fn together(registries: impl IntoIterator<Item = RegistrySnapshot>) -> RegistrySnapshot {
    registries.into_iter().fold(RegistrySnapshot::default(), |mut all, registry| {
        all.plugins.extend(registry.plugins);
        all.versions.extend(registry.versions);
        all
    })
}

fn external(text: &str, input_schema: Value, output: Option<Value>) -> ExternalType {
    ExternalType {
        name: name(text),
        summary: String::new(),
        input_schema: Json::from(input_schema),
        output_schema: output.map(Json::from),
    }
}

fn fits(schema: &Schema, input: &Value) -> bool {
    let mut faults = Vec::new();
    schema.check(input, 1, "/input", &mut faults);
    faults.is_empty()
}

fn input_fits(
    catalog: &Catalog,
    plugin: &str,
    task: TaskId,
    input: &Value,
) -> Result<bool, NotAccepted> {
    let known = catalog.known();
    Ok(fits(known.get(&name(plugin)).unwrap().input(task)?, input))
}

#[test]
fn a_task_is_checked_against_the_version_that_will_run_it() {
    let catalog = Catalog::default();
    let both = registry("x", &[json!({"type": "string"}), json!({"type": "integer"})]);
    let rollout = both.plugins[0].rollout.clone();
    catalog.set_plugins(both);
    let mut of_canary = 0;
    for _ in 0..200 {
        let task = TaskId::generate();
        let is_canary = rollout.pick(task) != rollout.stable;
        of_canary += i32::from(is_canary);
        assert_eq!(input_fits(&catalog, "x", task, &json!(1)), Ok(is_canary));
        assert_eq!(input_fits(&catalog, "x", task, &json!("a")), Ok(!is_canary));
    }
    assert!((50..150).contains(&of_canary), "{of_canary}");
    let known = catalog.known();
    let plugin = known.plugin(&name("x")).unwrap();
    assert_eq!(plugin.stable().unwrap().version, "1.0.0", "the stable one is shown");
    assert_eq!(plugin.canary().unwrap().version, "1.1.0");
    let inputs = known.get(&name("x")).unwrap().inputs();
    let fitting = inputs.iter().filter(|schema| fits(schema, &json!("a"))).count();
    assert_eq!((inputs.len(), fitting), (2, 1), "an input for any task must suit both");
}

#[test]
fn a_version_with_an_unusable_schema_hides_no_other() {
    let catalog = Catalog::default();
    let bad = json!({"$ref": "http://127.0.0.1:1/schema.json"});
    catalog.set_plugins(together([
        registry("bad", std::slice::from_ref(&bad)),
        registry("half", &[json!({"type": "string"}), bad]),
        registry("good", &[json!(true)]),
    ]));
    let fits = |plugin: &str| input_fits(&catalog, plugin, TaskId::generate(), &json!("a"));
    assert_eq!(fits("good"), Ok(true));
    assert_eq!(fits("bad"), Err(NotAccepted::Unchecked(name("bad"))));
    let half: Vec<_> = (0..50).map(|_| fits("half")).collect();
    assert!(half.contains(&Ok(true)) && half.iter().any(Result::is_err), "{half:?}");
}

#[test]
fn what_is_retired_or_not_active_says_so() {
    let catalog = Catalog::default();
    let mut retired = registry("old", &[json!(true)]);
    retired.plugins[0].rollout.retired = true;
    let mut inactive = registry("new", &[json!(true)]);
    inactive.plugins[0].rollout.stable = None;
    catalog.set_plugins(together([retired, inactive]));
    let accepts = |plugin: &str| input_fits(&catalog, plugin, TaskId::generate(), &json!(1));
    assert_eq!(accepts("old"), Err(NotAccepted::Retired(name("old"))));
    assert_eq!(accepts("new"), Err(NotAccepted::Inactive(name("new"))));
}

#[test]
fn a_schema_is_compiled_once() {
    let catalog = Catalog::default();
    let mut registry = registry("x", &[json!({"type": "string"})]);
    catalog.set_plugins(registry.clone());
    let running = || {
        let known = catalog.known();
        let version = known.plugin(&name("x")).unwrap().version_for(TaskId::generate()).unwrap();
        (version.version.info.limits.fuel, Arc::clone(version.input.as_ref().unwrap()))
    };
    let (_, before) = running();
    registry.versions[0].info.limits.fuel = 7;
    catalog.set_plugins(registry);
    let (fuel, after) = running();
    assert_eq!(fuel, 7);
    assert!(Arc::ptr_eq(&before, &after));
}

#[test]
fn a_type_is_there_for_its_owner_only() {
    let catalog = Catalog::default();
    let mut registry = registry("x", &[json!(true)]);
    registry.plugins[0].owner = Some(TenantId::new("acme").unwrap());
    catalog.set_plugins(registry);
    let known = catalog.known();
    assert!(known.find(&TenantId::new("acme").unwrap(), &name("x")).is_some());
    assert!(known.find(&TenantId::default(), &name("x")).is_none());
    assert!(known.get(&name("x")).is_some());
}

#[test]
fn a_schema_that_cannot_be_used_is_refused_with_its_type_named() {
    let catalog = Catalog::default();
    for bad in [
        json!({"type": "nonsense"}),
        json!(7),
        json!({"$ref": "http://127.0.0.1:1/schema.json"}),
        json!({"$ref": "file:///etc/hostname"}),
        json!({"type": "string", "pattern": "(?=x)y"}),
    ] {
        catalog.set_external(vec![external("good", json!(true), None)]).unwrap();
        let error = catalog.set_external(vec![external("bad", bad.clone(), None)]).unwrap_err();
        assert!(error.to_string().contains("input schema of bad"), "{bad}: {error}");
        let error = catalog.set_external(vec![external("bad", json!(true), Some(bad))]);
        let error = error.unwrap_err();
        assert!(error.to_string().contains("output schema of bad"), "{error}");
        let known = catalog.known();
        let names: Vec<_> = known.all().into_keys().map(TaskType::as_str).collect();
        assert_eq!(names, ["good"], "the catalog stays as it was");
    }
}

#[test]
fn external_types_and_plugins_are_replaced_apart_and_share_their_names() {
    let catalog = Catalog::default();
    let ocr = || external("ocr", json!({"type": "object"}), None);
    catalog.set_external(vec![ocr()]).unwrap();
    catalog.set_plugins(registry("x", &[json!(true)]));
    assert_eq!((catalog.known().all().len(), catalog.known().plugins().count()), (2, 1));
    for twice in [vec![external("x", json!(true), None)], vec![ocr(), ocr()]] {
        assert!(matches!(catalog.set_external(twice), Err(CatalogError::Duplicate(_))));
    }
    assert_eq!(input_fits(&catalog, "ocr", TaskId::generate(), &json!(1)), Ok(false));
    catalog.set_external(vec![]).unwrap();
    assert!(catalog.known().get(&name("ocr")).is_none());
    assert!(catalog.known().get(&name("x")).is_some());
}

#[test]
fn an_external_type_keeps_its_name() {
    let catalog = Catalog::default();
    catalog.set_external(vec![external("ocr", json!(true), None)]).unwrap();
    catalog.set_plugins(registry("ocr", &[json!(true)]));
    let known = catalog.known();
    assert!(matches!(known.get(&name("ocr")), Some(Handler::External(_))));
    assert!(matches!(known.all().get(&name("ocr")), Some(Handler::External(_))));
    let both = vec![external("ocr", json!(true), None), external("scan", json!(true), None)];
    catalog.set_external(both).unwrap();
    assert!(catalog.known().get(&name("scan")).is_some());
}

#[test]
fn a_paused_plugin_waits() {
    let catalog = Catalog::default();
    let mut paused = registry("a", &[json!(true)]);
    paused.plugins[0].rollout.paused = true;
    catalog.set_plugins(together([paused, registry("b", &[json!(true)])]));
    let policy = catalog.overlay(QueuePolicy::default());
    assert!(policy.is_paused(&name("a")) && !policy.is_paused(&name("b")));
    assert_eq!(policy.types.len(), 1, "what asks for nothing is not named");
    let mut queue = QueuePolicy::default();
    queue.types.insert(name("a"), TypePolicy { paused: false, max_running: Some(3) });
    let policy = catalog.overlay(queue);
    assert!(policy.is_paused(&name("a")));
    assert_eq!(policy.type_cap(&name("a")), Some(3));
}
