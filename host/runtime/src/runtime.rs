//! The entry points of the sandbox, and its configuration.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

use ipnet::IpNet;
use taskforge_domain::{Digest, Limits, Manifest, PluginInfo, PluginSettings};
use tokio::sync::Semaphore;
use wasmtime::{Engine, component::Linker};

use crate::{
    authorities::Authorities,
    cache::CodeCache,
    compiler::Compiler,
    descriptors,
    egress::Egress,
    engine::{self, PoolTuning},
    host::{self, HostState},
    invoke::{self, Invocation, Invoked},
    keyvalue::KeyValue,
    load,
    mailer::{Admission, MailCounter, Mailer},
    plugin::Plugin,
    refusal::LoadError,
    residents::{Budget, Residents, Table},
    source::ComponentSource,
    threads::background::{Background, Profiles},
};

/// The configuration of a [`Runtime`].
#[derive(Clone)]
pub struct RuntimeConfig {
    /// The folder that keeps compiled code between starts; made private to this user. `None`: every
    /// start compiles.
    pub cache_dir: Option<PathBuf>,
    /// The most that the folder may hold, in bytes: the least recently used code is deleted first.
    pub cache_bytes: u64,
    /// How components are compiled.
    pub compiler: Compiler,
    /// Plugins whose code is in memory at once. Beyond that the least recently used code that does
    /// not run is dropped, and loaded again when it is needed; only with a [source](Self::source).
    pub resident_plugins: usize,
    /// The size of their code, in bytes.
    pub resident_bytes: u64,
    /// Instances that may live at once; one more waits. This decides the size of the pool, which is
    /// only address space until it is used: 4 GiB for each memory that each instance may have.
    pub max_instances: u32,
    /// The largest component that is loaded, in bytes.
    pub max_component: u64,
    /// The most that each of a plugin's limits may be. Memory and counts decide the size of the
    /// pool.
    pub ceilings: Limits,
    /// Where mail goes.
    pub mailer: Arc<dyn Mailer>,
    /// Where the components of registered plugins come from when their code is not in the cache.
    /// `None`: only loaded ones run.
    pub source: Option<Arc<dyn ComponentSource>>,
    /// Where plugins keep values. `None`: calls of `wasi:keyvalue` fail.
    pub key_value: Option<Arc<dyn KeyValue>>,
    /// File descriptors for outgoing HTTP connections, idle ones and ones that are being made
    /// included. One tenant alone gets half of those for requests, two get a third each: see
    /// [`FairSemaphore`](crate::FairSemaphore).
    pub outgoing_descriptors: usize,
    /// Counts a version's mail over the whole fleet. `None`: this process counts its own.
    pub mail_counter: Option<Arc<dyn MailCounter>>,
    /// Private networks that every plugin with an HTTP grant may reach, besides those of its grant.
    pub allow_private: Vec<IpNet>,
    /// The certificate authorities that outgoing HTTPS trusts.
    pub authorities: Authorities,
}

impl RuntimeConfig {
    /// 64 instances with limits up to [`Limits::ceilings`], components of up to 128 MiB, code of
    /// 512 plugins or 1 GiB in memory, compiled in this process, and no cache (2 GiB once it has a
    /// folder).
    #[must_use]
    pub fn new(mailer: Arc<dyn Mailer>) -> Self {
        Self {
            cache_dir: None,
            cache_bytes: 2 << 30,
            compiler: Compiler::InProcess,
            resident_plugins: 512,
            resident_bytes: 1 << 30,
            max_instances: 64,
            max_component: 128 << 20,
            ceilings: Limits::ceilings(),
            mailer,
            source: None,
            key_value: None,
            outgoing_descriptors: descriptors::outgoing(),
            mail_counter: None,
            allow_private: Vec::new(),
            authorities: Authorities::public(),
        }
    }
}

/// Why a runtime could not be made.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// The configuration contradicts itself.
    #[error("{0}")]
    Config(String),
    /// The engine refuses its configuration, or the machine cannot provide for it.
    #[error(
        "the WebAssembly engine cannot start: {0}; with less address space than usual, try fewer instances"
    )]
    Engine(String),
    /// The folder for compiled code cannot be used.
    #[error("the code cache {folder} cannot be used: {source}")]
    Cache {
        /// The folder.
        folder: PathBuf,
        /// The error of the system.
        source: std::io::Error,
    },
}

/// Loads plugins and runs attempts. A cheap handle; clones share everything.
#[derive(Clone)]
pub struct Runtime {
    shared: Arc<Shared>,
}

pub(crate) struct Shared {
    pub(crate) config: RuntimeConfig,
    pub(crate) engine: Engine,
    pub(crate) linker: Linker<HostState>,
    pub(crate) cache: Option<CodeCache>,
    pub(crate) egress: Arc<Egress>,
    pub(crate) mail: Arc<Admission>,
    // As many permits as the pool has room for, so that the pool never refuses.
    pub(crate) instances: Arc<Semaphore>,
    // Few, so that slow descriptions leave the instances to attempts.
    pub(crate) describing: Semaphore,
    pub(crate) background: Arc<Background>,
    pub(crate) profiles: Profiles,
    pub(crate) residents: Table,
    // Two, of which large components take one at most: an interpreter takes half a minute, and a
    // small handler must not wait behind two of them.
    pub(crate) compiling: Semaphore,
    pub(crate) compiling_large: Semaphore,
}

/// Components that are compiled at once, and large ones of these.
const COMPILATIONS: usize = 2;
const LARGE_COMPILATIONS: usize = 1;

/// A component with more bytes is large. Handlers in Rust or Go have fewer, those with an
/// interpreter have more.
pub(crate) const LARGE: usize = 4 << 20;

/// Components that describe themselves at once. Each has an instance.
const DESCRIPTIONS: usize = 4;

impl Runtime {
    /// Builds the engine and the pool, and opens the cache.
    ///
    /// # Errors
    /// When the configuration contradicts itself, the machine cannot reserve the pool's address
    /// space, or the cache folder cannot be used.
    pub fn new(config: RuntimeConfig) -> Result<Self, RuntimeError> {
        Self::with_tuning(config, &PoolTuning::default())
    }

    /// [`Runtime::new`] with the pool's knobs set by hand, to measure what each is worth.
    ///
    /// # Errors
    /// As [`Runtime::new`].
    pub fn with_tuning(config: RuntimeConfig, tuning: &PoolTuning) -> Result<Self, RuntimeError> {
        if config.max_instances == 0 {
            return Err(RuntimeError::Config(
                "max_instances is 0, so no task could ever run".to_owned(),
            ));
        }
        if matches!(config.compiler, Compiler::Process(_)) && config.cache_dir.is_none() {
            return Err(RuntimeError::Config(
                "compiling apart needs a folder for the compiled code".to_owned(),
            ));
        }
        let failed = |error: wasmtime::Error| RuntimeError::Engine(format!("{error:#}"));
        let engine = engine::build(&config, tuning).map_err(failed)?;
        let mut linker = Linker::new(&engine);
        host::link(&mut linker).map_err(failed)?;
        let cache = match &config.cache_dir {
            Some(folder) => {
                let opened = CodeCache::open(
                    folder.clone(),
                    engine::fingerprint(&engine),
                    config.cache_bytes,
                );
                Some(
                    opened
                        .map_err(|source| RuntimeError::Cache { folder: folder.clone(), source })?,
                )
            }
            None => None,
        };
        let background = Arc::new(Background::default());
        let (descriptors, private) = (config.outgoing_descriptors, config.allow_private.clone());
        let egress =
            Egress::new(descriptors, private, &config.authorities, Arc::clone(&background))
                .map_err(|error| RuntimeError::Config(format!("TLS cannot be set up: {error}")))?;
        let instances = Arc::new(Semaphore::new(config.max_instances as usize));
        let budget = Budget {
            plugins: config.resident_plugins,
            bytes: config.resident_bytes,
            may_evict: config.source.is_some(),
        };
        let mail = Admission::new(Arc::clone(&config.mailer), config.mail_counter.clone());
        let shared = Shared {
            config,
            engine,
            linker,
            cache,
            egress: Arc::new(egress),
            mail: Arc::new(mail),
            instances,
            describing: Semaphore::new(DESCRIPTIONS),
            background,
            profiles: Profiles::default(),
            residents: Table::new(budget),
            compiling: Semaphore::new(COMPILATIONS),
            compiling_large: Semaphore::new(LARGE_COMPILATIONS),
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Turns a component's bytes into a plugin: checks what it is, compiles it or takes its code
    /// from the cache, and asks it to describe itself. This takes from milliseconds (cached) to
    /// half a minute (an interpreter, compiled), on other threads than those of attempts.
    ///
    /// # Errors
    /// When the bytes are no component that exports the handler interface, or it imports what this
    /// host does not have, asks for more than the runtime allows, or gives an invalid description.
    /// The error says what to do about it.
    pub async fn load(
        &self,
        bytes: Vec<u8>,
        settings: PluginSettings,
    ) -> Result<Arc<Plugin>, LoadError> {
        load::load(&self.shared, bytes, settings, None).await
    }

    /// [`Runtime::load`] for a component that may not describe itself: a WASI command or web
    /// server, which is what the manifest says. A component that exports the handler interface
    /// describes itself; the manifest must then be absent or agree in its name and version.
    ///
    /// # Errors
    /// As [`Runtime::load`], and when there is no manifest where one is needed.
    pub async fn load_as(
        &self,
        bytes: Vec<u8>,
        settings: PluginSettings,
        manifest: Option<&Manifest>,
    ) -> Result<Arc<Plugin>, LoadError> {
        load::load(&self.shared, bytes, settings, manifest).await
    }

    /// A plugin that was loaded before, here or elsewhere, from what was found then. Its code comes
    /// from the cache or from [`RuntimeConfig::source`] when it is first needed. The plugin reads
    /// `secrets` through `wasi:config`, besides its configuration.
    #[must_use]
    pub fn register(&self, info: PluginInfo, secrets: BTreeMap<String, String>) -> Arc<Plugin> {
        Plugin::registered(&self.shared.residents, info, secrets)
    }

    /// The most that each limit of a plugin may be here.
    #[must_use]
    pub fn ceilings(&self) -> &Limits {
        &self.shared.config.ceilings
    }

    /// Checks that this host has room for such limits, as [`Runtime::load`] does.
    ///
    /// # Errors
    /// When one of them is more than the runtime allows.
    pub fn check_limits(&self, limits: &Limits) -> Result<(), LoadError> {
        Ok(limits.within(&self.shared.config.ceilings)?)
    }

    /// Loads a registered plugin's code, so that its next attempt need not wait for it.
    ///
    /// # Errors
    /// When the code is not in the cache, and the component cannot be fetched, does not have its
    /// digest, or cannot be compiled. The error is repeated without another attempt for some
    /// seconds, or for ten times as long as the attempt took.
    pub async fn prepare(&self, plugin: &Plugin) -> Result<(), LoadError> {
        plugin.code(&self.shared).await.map(|_| ())
    }

    /// Checks that components can be compiled, where that is done in processes of their own. Logs
    /// once what these processes cannot give up.
    ///
    /// # Errors
    /// When they cannot be compiled.
    pub async fn try_compiler(&self) -> Result<(), LoadError> {
        let (Compiler::Process(process), Some(cache)) =
            (&self.shared.config.compiler, &self.shared.cache)
        else {
            return Ok(());
        };
        let draft = cache.draft(&Digest::from_bytes([0; 32]));
        let draft = draft.map_err(LoadError::internal)?;
        process.try_out(draft.path(), cache.fingerprint()).await
    }

    /// The code that is in memory now.
    #[must_use]
    pub fn residents(&self) -> Residents {
        self.shared.residents.count()
    }

    /// Runs one attempt. Waits while `max_instances` others run. Returns when the handler has
    /// ended, a limit has ended it, or it was cancelled. The handler runs on threads of a lower
    /// priority than the caller's, unless the tenant's attempts of this plugin were quick so far.
    pub async fn invoke(&self, plugin: &Plugin, invocation: Invocation) -> Invoked {
        invoke::invoke(&self.shared, plugin, invocation).await
    }

    /// The engine, to measure what an invocation costs beyond the bare engine.
    #[doc(hidden)]
    #[must_use]
    pub fn engine(&self) -> &Engine {
        &self.shared.engine
    }
}
