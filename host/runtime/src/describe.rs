//! The description of a plugin, by itself under small limits or by its manifest; checked.

use std::{collections::BTreeMap, panic::AssertUnwindSafe, sync::Arc, time::Duration};

use futures_util::FutureExt as _;
use taskforge_domain::{
    Grants, Json, Limits, Manifest, PluginInfo, PluginSettings, Shape, TaskId, TaskType, TenantId,
    json,
};
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::CancellationToken;

use crate::{
    contract::{BindingsPre, handler::Description},
    ending,
    host::{Attempt, HostState},
    inspect::Inspection,
    invoke,
    log::cut,
    refusal::{self, LoadError},
    runtime::Shared,
};

/// The longest schema, in bytes. Each input is checked against it, and every API process keeps it
/// in memory.
const SCHEMA: usize = 256 << 10;

/// The longest summary that is kept, in bytes.
const SUMMARY: usize = 500;

/// The longest version, in bytes: build metadata may be of any length.
const VERSION: usize = 100;

/// How many capabilities a plugin may ask for, and the length of each, in bytes.
const CAPABILITIES: (usize, usize) = (100, 100);

/// The limits of `describe`. It runs before anybody has decided to trust the plugin, so it gets no
/// grant and low limits, which an interpreter's start must fit into. Memory and counts are the
/// plugin's own: a component that needs more of these could not run either.
fn limits(limits: &Limits) -> Limits {
    Limits {
        fuel: 2_000_000_000,
        deadline: Duration::from_secs(10),
        output: 1 << 20,
        log: 4 << 10,
        host_calls: 10_000,
        http_requests: 0,
        http_bytes: 0,
        ..limits.clone()
    }
}

/// Calls `describe`, in the background, because no task waits for it.
pub(crate) async fn ask(
    shared: &Arc<Shared>,
    bindings: &BindingsPre<HostState>,
    inspection: &Inspection,
    settings: &PluginSettings,
) -> Result<Description, LoadError> {
    let _turn = shared.describing.acquire().await.map_err(LoadError::internal)?;
    let permit = Arc::clone(&shared.instances).acquire_owned().await;
    let permit = permit.map_err(LoadError::internal)?;
    let info = Arc::new(PluginInfo {
        name: TaskType::new("describe").map_err(LoadError::internal)?,
        version: String::new(),
        shape: Shape::Handler,
        digest: inspection.digest,
        summary: String::new(),
        input_schema: Json::from(serde_json::Value::Null),
        output_schema: Json::from(serde_json::Value::Null),
        capabilities: Vec::new(),
        imports: Vec::new(),
        exports: Vec::new(),
        size: inspection.size,
        limits: limits(&settings.limits),
        grants: Grants::default(),
        config: BTreeMap::new(),
    });
    let (host, bindings) = (Arc::clone(shared), bindings.clone());
    let described = async move { call(&host, &bindings, info, permit).await };
    let (said, _) = shared.background.run(Box::pin(described), &Arc::default()).await;
    said.unwrap_or_else(|| Err(LoadError::describe(ending::cancelled())))
}

async fn call(
    shared: &Shared,
    bindings: &BindingsPre<HostState>,
    info: Arc<PluginInfo>,
    permit: OwnedSemaphorePermit,
) -> Result<Description, LoadError> {
    let state = HostState::new(Attempt {
        plugin: Arc::clone(&info),
        tenant: TenantId::default(),
        task: TaskId::generate(),
        progress: None,
        mail: Arc::clone(&shared.mail),
        egress: Arc::clone(&shared.egress),
        config: Arc::default(),
        key_value: None,
    });
    let mut store = invoke::store(shared, &info, state);
    let ending = {
        let run = async {
            let instance = bindings.instantiate_async(&mut store).await?;
            instance.taskforge_plugin_handler().call_describe(&mut store).await
        };
        invoke::bounded(
            AssertUnwindSafe(run).catch_unwind(),
            info.limits.deadline,
            &CancellationToken::new(),
        )
        .await
    };
    let said = ending::of_other(ending, &store, &info).map_err(LoadError::describe);
    invoke::retire(&shared.background, store, permit);
    said
}

/// The description of a plugin that describes itself. A manifest that came with it must agree.
pub(crate) fn by_itself(
    said: Description,
    manifest: Option<&Manifest>,
    seen: Inspection,
    settings: PluginSettings,
) -> Result<PluginInfo, LoadError> {
    let name =
        TaskType::new(&said.name).map_err(|error| LoadError::description(&error.to_string()))?;
    if let Some(manifest) = manifest
        && (manifest.name != name || manifest.version != said.version)
    {
        return Err(LoadError::description(&format!(
            "it is {name} {}, and {} {} was said to be pushed",
            refusal::name(&said.version),
            manifest.name,
            refusal::name(&manifest.version)
        )));
    }
    let (most, longest) = CAPABILITIES;
    if said.capabilities.len() > most || said.capabilities.iter().any(|name| name.len() > longest) {
        return Err(LoadError::description(&format!(
            "it asks for {} capabilities; it may name {most}, each of {longest} bytes at most",
            said.capabilities.len()
        )));
    }
    let info = by_manifest(
        &Manifest {
            name,
            version: said.version,
            summary: said.summary,
            input_schema: schema("input-schema", said.input_schema)?,
            output_schema: schema("output-schema", said.output_schema)?,
        },
        Shape::Handler,
        seen,
        settings,
    )?;
    Ok(PluginInfo { capabilities: said.capabilities, ..info })
}

/// The description of a plugin that cannot describe itself.
pub(crate) fn by_manifest(
    manifest: &Manifest,
    shape: Shape,
    seen: Inspection,
    settings: PluginSettings,
) -> Result<PluginInfo, LoadError> {
    let version = &manifest.version;
    if version.len() > VERSION {
        return Err(LoadError::description(&format!(
            "version {:?} is longer than {VERSION} bytes",
            refusal::name(version)
        )));
    }
    if let Err(error) = semver::Version::parse(version) {
        return Err(LoadError::description(&format!(
            "version {version:?} is not a semantic version like 1.4.0: {error}"
        )));
    }
    check_schema("input-schema", &manifest.input_schema)?;
    check_schema("output-schema", &manifest.output_schema)?;
    Ok(PluginInfo {
        name: manifest.name.clone(),
        version: version.clone(),
        shape,
        digest: seen.digest,
        summary: cut(&manifest.summary, SUMMARY).to_owned(),
        input_schema: manifest.input_schema.clone(),
        output_schema: manifest.output_schema.clone(),
        capabilities: Vec::new(),
        imports: seen.imports,
        exports: seen.exports,
        size: seen.size,
        limits: settings.limits,
        grants: settings.grants,
        config: settings.config,
    })
}

fn schema(field: &str, text: String) -> Result<Json, LoadError> {
    check_size(field, &text)?;
    Json::parse(text)
        .map_err(|error| LoadError::description(&format!("{field} is not JSON: {error}")))
}

fn check_schema(field: &str, schema: &Json) -> Result<(), LoadError> {
    check_size(field, schema.as_str())?;
    if schema.to_value().is_object() {
        Ok(())
    } else {
        Err(LoadError::description(&format!("{field} is not a JSON object")))
    }
}

/// Checks the size before anything parses the schema.
fn check_size(field: &str, schema: &str) -> Result<(), LoadError> {
    let length = schema.len();
    if length > SCHEMA {
        return Err(LoadError::description(&format!(
            "{field} has {length} bytes; it may have {SCHEMA}"
        )));
    }
    if let Some(at) = json::too_deep(schema) {
        let most = json::MAX_DEPTH;
        return Err(LoadError::description(&format!(
            "{field} nests deeper than {most} levels, at byte {at}"
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use taskforge_domain::Digest;

    use super::*;

    fn said() -> Description {
        Description {
            name: "resize".to_owned(),
            version: "1.4.0".to_owned(),
            summary: "ü".repeat(1000),
            input_schema: "{}".to_owned(),
            output_schema: "{}".to_owned(),
            capabilities: vec!["mail".to_owned()],
        }
    }

    fn seen() -> Inspection {
        Inspection {
            digest: Digest::from_bytes([1; 32]),
            size: 1,
            imports: Vec::new(),
            exports: Vec::new(),
            shape: Some(Shape::Handler),
        }
    }

    fn manifest(name: &str, version: &str) -> Manifest {
        serde_json::from_value(serde_json::json!({"name": name, "version": version})).unwrap()
    }

    fn refusal(said: Description, manifest: Option<&Manifest>) -> String {
        let error = by_itself(said, manifest, seen(), PluginSettings::default()).unwrap_err();
        error.to_string()
    }

    #[test]
    fn what_a_plugin_says_is_kept_within_bounds() {
        let info = by_itself(said(), None, seen(), PluginSettings::default()).unwrap();
        assert_eq!((info.summary.len(), info.capabilities.len()), (500, 1));

        let schema = format!("{{\"title\": \"{}\"}}", "x".repeat(SCHEMA));
        let text = refusal(Description { input_schema: schema, ..said() }, None);
        assert!(text.contains("input-schema has 262157 bytes; it may have 262144"), "{text}");
        let deep = format!("{}{}", "{\"not\":".repeat(100_000 / 8), "}".repeat(100_000 / 8));
        let text = refusal(Description { input_schema: deep, ..said() }, None);
        assert!(text.contains("input-schema nests deeper than 100 levels"), "{text}");
        let text = refusal(Description { output_schema: "[]".to_owned(), ..said() }, None);
        assert!(text.contains("output-schema is not a JSON object"), "{text}");
        let text = refusal(Description { capabilities: vec!["x".to_owned(); 101], ..said() }, None);
        assert!(text.contains("asks for 101 capabilities; it may name 100"), "{text}");
        let text = refusal(Description { capabilities: vec!["x".repeat(101)], ..said() }, None);
        assert!(text.contains("each of 100 bytes at most"), "{text}");
        let text =
            refusal(Description { version: format!("1.0.0+{}", "a".repeat(500)), ..said() }, None);
        assert!(text.contains("longer than 100 bytes") && text.len() < 300, "{text}");
        let text = refusal(Description { version: "new".to_owned(), ..said() }, None);
        assert!(text.contains("\"new\" is not a semantic version like 1.4.0"), "{text}");
    }

    #[test]
    fn a_manifest_must_agree_with_what_the_plugin_says() {
        let settings = PluginSettings::default;
        assert!(by_itself(said(), Some(&manifest("resize", "1.4.0")), seen(), settings()).is_ok());
        for other in [manifest("resize", "1.4.1"), manifest("crop", "1.4.0")] {
            let text = refusal(said(), Some(&other));
            assert!(text.contains("it is resize 1.4.0, and "), "{text}");
        }
    }

    #[test]
    fn a_manifest_speaks_for_what_cannot_speak() {
        let manifest = manifest("convert", "0.1.0");
        let info =
            by_manifest(&manifest, Shape::Command, seen(), PluginSettings::default()).unwrap();
        assert_eq!((info.name.as_str(), info.shape), ("convert", Shape::Command));
        assert_eq!(info.input_schema.to_value(), serde_json::json!({}));
        let wrong = Manifest { version: "1".to_owned(), ..manifest };
        assert!(by_manifest(&wrong, Shape::Http, seen(), PluginSettings::default()).is_err());
    }
}
