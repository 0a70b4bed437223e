//! From bytes to a loaded plugin: check, compile or fetch from the cache, ask `describe`.

use std::{collections::BTreeMap, panic::AssertUnwindSafe, sync::Arc, time::Duration};

use futures_util::FutureExt as _;
use taskforge_domain::{
    Failure, Grants, Json, Limits, Manifest, PluginInfo, PluginSettings, Shape, TaskId, TaskType, TenantId,
};
use tokio::sync::OnceCell;
use tokio_util::sync::CancellationToken;
use wasmtime::component::Component;

use crate::{
    code::Code,
    contract::{BindingsPre, HANDLER, handler},
    host::{Attempt, HostState, Values},
    inspect::{Inspection, digest, inspect},
    invoke,
    log::cut,
    runtime::{RuntimeConfig, Shared},
    verdict,
};

/// A plugin that can be run.
pub struct Plugin {
    info: Arc<PluginInfo>,
    config: Arc<Values>,
    code: OnceCell<Code>,
}

impl Plugin {
    /// What is known of it.
    #[must_use]
    pub fn info(&self) -> &PluginInfo {
        &self.info
    }

    pub(crate) const fn shared_info(&self) -> &Arc<PluginInfo> {
        &self.info
    }

    /// What it reads through `wasi:config`. Made once, and shared by its attempts.
    pub(crate) const fn config(&self) -> &Arc<Values> {
        &self.config
    }

    /// The linked code; loads it if it is not there.
    pub(crate) async fn code(&self, shared: &Arc<Shared>) -> Result<&Code, LoadError> {
        self.code
            .get_or_try_init(|| async {
                let source = shared.config.source.as_ref();
                let source = source.ok_or_else(|| LoadError::Internal("it has no source".to_owned()))?;
                let bytes = source
                    .component(&self.info.digest)
                    .await
                    .map_err(LoadError::Internal)?;
                if digest(&bytes) != self.info.digest {
                    return Err(LoadError::Internal(
                        "its bytes are not those of its digest".to_owned(),
                    ));
                }
                let blocking = Arc::clone(shared);
                let shape = self.info.shape;
                let prepared = tokio::task::spawn_blocking(move || prepare(&blocking, &bytes, shape)).await;
                let (_, code) = prepared.map_err(|error| LoadError::Internal(error.to_string()))??;
                Ok(code)
            })
            .await
    }
}

impl std::fmt::Debug for Plugin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Plugin")
            .field("info", &self.info)
            .finish_non_exhaustive()
    }
}

/// Why bytes did not become a plugin. The texts speak to the plugin's author or operator.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// Something else than WebAssembly.
    #[error("this is not a WebAssembly file")]
    NotWasm,
    /// WebAssembly that is cut short or damaged.
    #[error("this WebAssembly file is damaged or incomplete: {0}")]
    Malformed(String),
    /// A core module, which knows no interfaces.
    #[error("this is a core WebAssembly module, not a component: build it for wasm32-wasip2")]
    CoreModule,
    /// A component of another kind.
    #[error("this component exports {}, not {HANDLER}: export the handler interface of taskforge:plugin", list(.0))]
    NotAPlugin(Vec<String>),
    /// Larger than the runtime allows.
    #[error("this component has {size} bytes; this host loads at most {limit}")]
    TooLarge {
        /// The component's size, in bytes.
        size: u64,
        /// The limit, in bytes.
        limit: u64,
    },
    /// It uses features of WebAssembly that this host has switched off.
    #[error("this component cannot be compiled: {0}")]
    Unsupported(String),
    /// It imports what this host does not have.
    #[error("this component does not fit this host: {0}")]
    Incompatible(String),
    /// The operator's limits are more than the runtime allows.
    #[error("limits.{field} is {wanted}; this host allows at most {allowed}")]
    Limits {
        /// Which limit.
        field: &'static str,
        /// What the settings say.
        wanted: u64,
        /// What the runtime allows.
        allowed: u64,
    },
    /// `describe` did not return.
    #[error("the plugin failed to describe itself: {0}")]
    Describe(#[source] Failure),
    /// `describe` returned something that makes no sense.
    #[error("the plugin describes itself wrongly: {0}")]
    Description(String),
    /// The host's fault.
    #[error("the plugin could not be loaded: {0}")]
    Internal(String),
}

fn list(exports: &[String]) -> String {
    if exports.is_empty() {
        "nothing".to_owned()
    } else {
        exports.join(", ")
    }
}

/// See [`crate::Runtime::load`].
pub(crate) async fn load(
    shared: &Arc<Shared>,
    bytes: Vec<u8>,
    settings: PluginSettings,
    manifest: Option<&Manifest>,
) -> Result<Arc<Plugin>, LoadError> {
    check_limits(&shared.config, &settings.limits)?;
    let (size, limit) = (bytes.len() as u64, shared.config.max_component);
    if size > limit {
        return Err(LoadError::TooLarge { size, limit });
    }
    let blocking = Arc::clone(shared);
    let shape = shape(&inspect(&bytes)?)?;
    let prepared = tokio::task::spawn_blocking(move || prepare(&blocking, &bytes, shape)).await;
    let (inspection, code) = prepared.map_err(|error| LoadError::Internal(error.to_string()))??;

    let info = match &code {
        Code::Handler(bindings) => {
            let description = describe(shared, bindings, &inspection, &settings).await?;
            info(description, inspection, settings)?
        }
        Code::Command(_) | Code::Http(_) => by_manifest(manifest, shape, inspection, settings)?,
    };
    Ok(Arc::new(Plugin {
        config: Arc::new(Values::new(&info.config, BTreeMap::new())),
        info: Arc::new(info),
        code: OnceCell::new_with(Some(code)),
    }))
}

/// See [`crate::Runtime::register`].
pub(crate) fn register(info: PluginInfo, secrets: BTreeMap<String, String>) -> Arc<Plugin> {
    Arc::new(Plugin {
        config: Arc::new(Values::new(&info.config, secrets)),
        info: Arc::new(info),
        code: OnceCell::new(),
    })
}

/// By which of its exports a component is entered. A web server may export `wasi:cli/run` as well, which does nothing then.
fn shape(inspection: &Inspection) -> Result<Shape, LoadError> {
    let exports = |name: &str| inspection.exports.iter().any(|export| export.starts_with(name));
    if inspection.is_plugin {
        Ok(Shape::Handler)
    } else if exports("wasi:http/incoming-handler@0.2.") {
        Ok(Shape::Http)
    } else if exports("wasi:cli/run@0.2.") {
        Ok(Shape::Command)
    } else {
        Err(LoadError::NotAPlugin(inspection.exports.clone()))
    }
}

/// What is known of a component that cannot describe itself.
fn by_manifest(
    manifest: Option<&Manifest>,
    shape: Shape,
    seen: Inspection,
    settings: PluginSettings,
) -> Result<PluginInfo, LoadError> {
    let manifest = manifest
        .ok_or_else(|| LoadError::Description(format!("a {shape} says neither its name nor its version")))?
        .clone();
    Ok(PluginInfo {
        name: manifest.name,
        version: manifest.version,
        shape,
        digest: seen.digest,
        summary: manifest.summary,
        input_schema: manifest.input_schema,
        output_schema: manifest.output_schema,
        capabilities: Vec::new(),
        imports: seen.imports,
        exports: seen.exports,
        size: seen.size,
        limits: settings.limits,
        grants: settings.grants,
        config: settings.config,
    })
}

pub(crate) fn check_limits(config: &RuntimeConfig, limits: &Limits) -> Result<(), LoadError> {
    let ceilings = &config.ceilings;
    for (field, wanted, allowed) in [
        ("memory", limits.memory, config.max_memory),
        ("instances", limits.instances.into(), ceilings.instances.into()),
        ("memories", limits.memories.into(), ceilings.memories.into()),
        ("tables", limits.tables.into(), ceilings.tables.into()),
        ("table_elements", limits.table_elements, ceilings.table_elements),
    ] {
        if wanted > allowed {
            return Err(LoadError::Limits {
                field,
                wanted,
                allowed,
            });
        }
    }
    Ok(())
}

/// The part that takes the CPU.
fn prepare(shared: &Shared, bytes: &[u8], shape: Shape) -> Result<(Inspection, Code), LoadError> {
    let inspection = inspect(bytes)?;
    let component = compile(shared, bytes, &inspection)?;
    let incompatible = |error: wasmtime::Error| LoadError::Incompatible(format!("{error:#}"));
    let linked = shared.linker.instantiate_pre(&component).map_err(incompatible)?;
    Ok((inspection, Code::link(shape, linked).map_err(incompatible)?))
}

fn compile(shared: &Shared, bytes: &[u8], inspection: &Inspection) -> Result<Component, LoadError> {
    if let Some(cached) = shared
        .cache
        .as_ref()
        .and_then(|cache| cache.load(&shared.engine, &inspection.digest))
    {
        return Ok(cached);
    }
    let component = Component::from_binary(&shared.engine, bytes)
        .map_err(|error| LoadError::Unsupported(format!("{error:#}")))?;
    if let Some(cache) = &shared.cache {
        cache.store(&inspection.digest, &component);
    }
    Ok(component)
}

/// `describe` runs before anybody decided to trust the plugin with anything, so it gets no grant and little of
/// everything. An interpreter's start must still fit. Memory and counts stay the plugin's own, for what does not fit
/// into them could not run either.
fn describe_limits(limits: &Limits) -> Limits {
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

async fn describe(
    shared: &Shared,
    bindings: &BindingsPre<HostState>,
    inspection: &Inspection,
    settings: &PluginSettings,
) -> Result<handler::Description, LoadError> {
    let internal = |error: &dyn std::fmt::Display| LoadError::Internal(error.to_string());
    let _slot = shared.slots.acquire().await.map_err(|error| internal(&error))?;
    let info = Arc::new(PluginInfo {
        name: TaskType::new("describe").map_err(|error| internal(&error))?,
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
        limits: describe_limits(&settings.limits),
        grants: Grants::default(),
        config: BTreeMap::new(),
    });
    let state = HostState::new(Attempt {
        plugin: Arc::clone(&info),
        tenant: TenantId::default(),
        task: TaskId::generate(),
        progress: None,
        mailer: Arc::clone(&shared.config.mailer),
        egress: Arc::clone(&shared.egress),
        config: Arc::default(),
        key_value: None,
    });
    let mut store = invoke::store(shared, &info, state);
    let ending = {
        let run = async {
            let instance = bindings.instantiate_async(&mut store).await?;
            instance
                .taskforge_plugin_handler()
                .call_describe(&mut store)
                .await
        };
        invoke::bounded(
            AssertUnwindSafe(run).catch_unwind(),
            info.limits.deadline,
            &CancellationToken::new(),
        )
        .await
    };
    verdict::of_other(ending, &store, &info).map_err(LoadError::Describe)
}

fn info(
    said: handler::Description,
    seen: Inspection,
    settings: PluginSettings,
) -> Result<PluginInfo, LoadError> {
    let wrong = LoadError::Description;
    let name = TaskType::new(&said.name).map_err(|error| wrong(error.to_string()))?;
    if let Err(error) = semver::Version::parse(&said.version) {
        let version = cut(&said.version, 100);
        return Err(wrong(format!(
            "version {version:?} is not a semantic version like 1.4.0: {error}"
        )));
    }
    Ok(PluginInfo {
        name,
        version: said.version,
        shape: Shape::Handler,
        digest: seen.digest,
        summary: cut(&said.summary, 500).to_owned(),
        input_schema: schema("input-schema", said.input_schema)?,
        output_schema: schema("output-schema", said.output_schema)?,
        capabilities: said.capabilities,
        imports: seen.imports,
        exports: seen.exports,
        size: seen.size,
        limits: settings.limits,
        grants: settings.grants,
        config: settings.config,
    })
}

fn schema(field: &str, text: String) -> Result<Json, LoadError> {
    let json =
        Json::parse(text).map_err(|error| LoadError::Description(format!("{field} is not JSON: {error}")))?;
    if json.to_value().is_object() {
        Ok(json)
    } else {
        Err(LoadError::Description(format!("{field} is not a JSON object")))
    }
}
