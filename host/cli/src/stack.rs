//! The embedded system: store, broker, sandbox, workers, sweeper and API in one process.

use std::{
    io::{self, ErrorKind},
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::Context as _;
use ipnet::IpNet;
use taskforge_api::{ApiConfig, BindError, Metrics, Readiness as _, Server, admin};
use taskforge_broker::{Broker, LocalBroker};
use taskforge_domain::{Limits, PluginInfo, TaskType};
use taskforge_registry::{
    Catalog, Collector, Folder, Retention, StoredComponents, StoredMailCounter, StoredValues,
    Trials,
};
use taskforge_runtime::{CompileProcess, Compiler, Mailer, Runtime, RuntimeConfig, confinement};
use taskforge_store::{PluginStore, SqliteStore, Store, StoreClock as _};
use taskforge_worker::{Services, Sweeper, SweeperConfig, Worker, WorkerConfig};
use tokio::net::TcpListener;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    address, authorities, external, output,
    registry::{self, Access, Registered, Served, Started, Trust},
};

/// Short, because a watched folder makes a version of each build.
const RETENTION: Retention = Retention { keep: 10, keep_for: Duration::from_secs(24 * 3600) };

/// What distinguishes one embedded system from another.
pub(crate) struct StackConfig<'a> {
    pub(crate) data_dir: &'a Path,
    /// Where to listen; `None`: at the default address, or the next port that is free.
    pub(crate) listen: Option<SocketAddr>,
    pub(crate) api: ApiConfig,
    pub(crate) workers: u32,
    pub(crate) worker: WorkerConfig,
    pub(crate) sandbox: SandboxConfig,
    /// The folder with plugins, and whether it is watched.
    pub(crate) folder: &'a Path,
    pub(crate) is_watched: bool,
    /// Task types that only external workers handle, besides those that the folder declares.
    pub(crate) external: &'a [TaskType],
    pub(crate) trust: Trust,
}

/// What distinguishes one sandbox from another.
pub(crate) struct SandboxConfig {
    pub(crate) cache_dir: PathBuf,
    pub(crate) mailer: Arc<dyn Mailer>,
    /// Instances for attempts; those for `describe` come on top.
    pub(crate) instances: u32,
    pub(crate) allow_private: Vec<IpNet>,
    pub(crate) ceilings: Limits,
}

/// A running system.
pub(crate) struct Stack {
    pub(crate) store: Arc<SqliteStore>,
    pub(crate) broker: Arc<LocalBroker>,
    pub(crate) address: SocketAddr,
    /// Tasks that a process before this one had left running.
    pub(crate) recovered: usize,
    /// The names and versions that run, for people.
    pub(crate) plugins: Vec<String>,
    /// The same, as the registry has them.
    pub(crate) running: Vec<PluginInfo>,
    /// The types that only external workers handle.
    pub(crate) external: Vec<TaskType>,
    catalog: Arc<Catalog>,
    started: Started,
    tasks: TaskTracker,
    /// Tasks that go on until the last attempt has ended.
    last: TaskTracker,
    stop_api: CancellationToken,
    stop_workers: CancellationToken,
    stop_last: CancellationToken,
}

/// Work that remains when the API begins to answer.
pub(crate) struct Loading {
    registered: Registered,
    served: Served,
}

/// This program, as the compiler of components.
fn compiler() -> anyhow::Result<Compiler> {
    // Linux keeps the program of a running process, even when an upgrade has replaced its file, so
    // the compiler is always of the version that will run the code.
    let program = if cfg!(target_os = "linux") {
        PathBuf::from("/proc/self/exe")
    } else {
        std::env::current_exe().context("this program cannot be found")?
    };
    Ok(Compiler::Process(CompileProcess::new(program, vec!["compile-component".into()])))
}

/// Instances besides those of attempts, for components that describe themselves while attempts have
/// all the others.
const DESCRIBING: u32 = 4;

/// Instances for attempts. A thousand in all fit into the address space.
const MAX_INSTANCES: u32 = 1_000 - DESCRIBING;

/// The instances that a worker has for so many attempts at once, with the shared overflow.
pub(crate) const fn instances(concurrency: u32) -> u32 {
    taskforge_worker::permits(concurrency as usize) as u32
}

/// The most attempts that each of so many workers of one process may run at once.
pub(crate) const fn most_concurrent(workers: u32) -> u32 {
    let mut concurrency = MAX_INSTANCES;
    while concurrency > 1 && instances(concurrency) > MAX_INSTANCES / workers {
        concurrency -= 1;
    }
    concurrency
}

/// Reads how many attempts a worker runs at once.
pub(crate) fn concurrency(text: &str) -> Result<u32, String> {
    let most = most_concurrent(1);
    match text.parse() {
        Ok(0) => Err("a worker that runs no attempt does nothing".to_owned()),
        Ok(attempts) if attempts > most => Err(format!(
            "a process runs at most {most} attempts at once: its pool has {MAX_INSTANCES} instances \
             for them, of which a quarter more than this number is a shared overflow; \
             for more, start more workers"
        )),
        Ok(attempts) => Ok(attempts),
        Err(_) => Err(format!("a number from 1 to {most}")),
    }
}

/// The memory that the attempts of a worker may take together, for people.
pub(crate) fn memory(concurrency: u32, infos: &[PluginInfo]) -> String {
    let Some(largest) = infos.iter().max_by_key(|info| info.limits.memory) else {
        return "nothing yet: no plugin is loaded".to_owned();
    };
    let (instances, each) = (instances(concurrency), largest.limits.memory);
    format!(
        "up to {} for {instances} attempts at once ({concurrency} and the shared overflow), if each takes the {} that {} \
         may have",
        output::bytes(u64::from(instances) * each),
        output::bytes(each),
        largest.name,
    )
}

/// The sandbox of a process, whose components and values are in a store. Components are compiled in
/// processes of their own.
pub(crate) fn sandbox(
    config: SandboxConfig,
    store: Arc<dyn PluginStore>,
) -> anyhow::Result<Runtime> {
    let config = RuntimeConfig {
        cache_dir: Some(config.cache_dir),
        compiler: compiler()?,
        max_instances: config.instances + DESCRIBING,
        allow_private: config.allow_private,
        authorities: authorities::read()?,
        ceilings: config.ceilings,
        source: Some(Arc::new(StoredComponents::new(store.clone()))),
        key_value: Some(Arc::new(StoredValues::new(store.clone()))),
        mail_counter: Some(Arc::new(StoredMailCounter::new(store))),
        ..RuntimeConfig::new(config.mailer)
    };
    let runtime = Runtime::new(config).context("the sandbox cannot be set up")?;
    // After that: the pool of instances has opened what it needs of this process in /proc.
    for what in confinement::host() {
        tracing::warn!(what, "this process keeps what it does not need");
    }
    let compiling = runtime.clone();
    tokio::spawn(async move {
        if let Err(error) = compiling.try_compiler().await {
            tracing::error!(%error, "no component can be compiled here");
        }
    });
    Ok(runtime)
}

/// Begins to listen for clients of the API.
pub(crate) async fn bind(chosen: Option<SocketAddr>, config: ApiConfig) -> anyhow::Result<Server> {
    let bind = async |listen| taskforge_api::bind(ApiConfig { listen, ..config.clone() }).await;
    let is_taken = |error: &BindError| match error {
        BindError::Io(error) => error.kind() == ErrorKind::AddrInUse,
        BindError::NeedsKey(_) => false,
    };
    let bound = address::bind(chosen, address::API, bind, is_taken).await;
    bound.map_err(|(listen, error)| {
        let what = match &error {
            BindError::NeedsKey(_) => "no key was given (--api-key, TASKFORGE_API_KEY)".to_owned(),
            BindError::Io(_) => format!("cannot listen on {listen} (--listen, TASKFORGE_LISTEN)"),
        };
        anyhow::Error::from(error).context(what)
    })
}

/// Begins to listen for operators.
pub(crate) async fn bind_admin(chosen: Option<SocketAddr>) -> anyhow::Result<TcpListener> {
    let is_taken = |error: &io::Error| error.kind() == ErrorKind::AddrInUse;
    let bound = address::bind(chosen, address::ADMIN, admin::bind, is_taken).await;
    bound.map_err(|(listen, error)| {
        let what = format!("cannot listen on {listen} (--admin-listen, TASKFORGE_ADMIN_LISTEN)");
        anyhow::Error::from(error).context(what)
    })
}

impl Stack {
    /// Opens the store, returns tasks that an earlier process left running to the queue, and starts
    /// everything. [`Stack::load`] registers the plugins of the folder afterwards, which may take
    /// minutes while the API already answers.
    pub(crate) async fn start(config: StackConfig<'_>) -> anyhow::Result<(Self, Loading)> {
        // First, because metrics that are made before the recorder are lost.
        let metrics = Metrics::install()?;
        // Before slow steps, because a taken address is the most common mistake.
        let api = bind(config.listen, config.api).await?;
        let address = api.local_addr();
        let catalog = Arc::new(Catalog::default());
        // Before slow steps, so that a mistake in a file is reported at once.
        let declared = external::read(config.external, Some(config.folder))?;
        catalog.set_external(declared.clone())?;
        let store = SqliteStore::open(&config.data_dir.join("taskforge.db")).await?;
        let broker = Arc::new(LocalBroker::new().on_clock(store.clock().clone()));
        let access = Access {
            store: store.clone(),
            broker: broker.clone(),
            runtime: sandbox(config.sandbox, store.clone())?,
            trust: config.trust,
        };
        let folder = match config.is_watched {
            true => Folder::watched(access.registry(), config.folder.to_owned()),
            false => Folder::new(access.registry(), config.folder.to_owned()),
        };
        let (tasks, last, stop_last) =
            (TaskTracker::new(), TaskTracker::new(), CancellationToken::new());
        access.follow(&catalog, &last, &stop_last).await.context(registry::UNREADABLE)?;
        let served = access.serve(catalog.clone(), None, &last, &stop_last);
        let live = served.live.clone();
        let trials = Trials::new(store.clone(), broker.clone());
        let sweeper = Sweeper::new(SweeperConfig::default(), store.clone(), broker.clone())
            .with_plugins(live.clone(), trials)
            .with_collector(Collector::new(store.clone(), RETENTION));
        // The store's lock makes this the only process, so tasks marked as running do not run.
        let recovered = sweeper.recover_all().await?;
        // So pauses hold from the first hint on.
        let policy = catalog.overlay(store.policy().await?);
        broker.set_policy(&policy).await?;
        let stack = Self {
            store: store.clone(),
            broker: broker.clone(),
            address,
            recovered,
            plugins: Vec::new(),
            running: Vec::new(),
            external: declared.iter().map(|external| external.name.clone()).collect(),
            catalog: catalog.clone(),
            started: Started::default(),
            tasks,
            last,
            stop_api: CancellationToken::new(),
            stop_workers: CancellationToken::new(),
            stop_last,
        };
        let services = Services {
            store: store.clone(),
            broker: broker.clone(),
            runtime: access.runtime.clone(),
            live,
            usage: served.usage.clone(),
        };
        for _ in 0..config.workers {
            let worker = Worker::new(config.worker.clone(), services.clone());
            stack.tasks.spawn(worker.run(stack.stop_workers.clone()));
        }
        stack.last.spawn(sweeper.run(stack.stop_last.clone()));
        if config.is_watched {
            stack.tasks.spawn(external::watch(
                catalog.clone(),
                config.external.to_vec(),
                config.folder.to_owned(),
                declared,
                stack.stop_api.clone(),
            ));
        }
        let registered = Registered::begin(folder, &stack.tasks, &stack.stop_api);
        let (started, ready) = (stack.started.clone(), registered.clone());
        let api_services = taskforge_api::Services {
            store: store as Arc<dyn Store>,
            broker: broker as Arc<dyn Broker>,
            catalog,
            registry: access.registry(),
            metrics,
            ready: Arc::new(move || ready.check().and_then(|()| started.check())),
        };
        let stop_api = stack.stop_api.clone();
        stack.tasks.spawn(async move {
            if let Err(error) = api.serve(api_services, stop_api).await {
                tracing::error!(%error, "the API stopped");
            }
        });
        let loading = Loading { registered, served };
        Ok((stack, loading))
    }

    /// Waits until the plugins of the folder are registered and ready. Those that are ready run
    /// meanwhile.
    pub(crate) async fn load(&mut self, loading: Loading) {
        loading.registered.tried().await;
        registry::heard(&*self.store, &self.catalog).await;
        self.plugins = registry::names(&self.catalog.known());
        loading.served.settle().await;
        self.running = registry::running(&self.catalog.known());
        self.started.now();
    }

    /// Stops the API, drains the workers, stops the sweeper and closes the store, in this order: no
    /// task comes in while the rest ends, and the sweeper runs until the last attempt has ended and
    /// its usage is written.
    pub(crate) async fn stop(self) {
        self.stop_api.cancel();
        self.stop_workers.cancel();
        self.tasks.close();
        self.tasks.wait().await;
        self.stop_last.cancel();
        self.last.close();
        self.last.wait().await;
        if let Err(error) = self.store.close().await {
            tracing::warn!(%error, "the store was not closed cleanly; the next start puts that right");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_attempts_are_promised_than_the_pool_has_instances() {
        for workers in 1..=64 {
            let most = most_concurrent(workers);
            assert!(workers * instances(most) <= MAX_INSTANCES, "{workers}");
            assert!(workers * instances(most + 1) > MAX_INSTANCES, "{workers}");
        }
        assert_eq!(concurrency("797"), Ok(797));
        for concurrent in ["798", "8000", "4294967295"] {
            let refused = concurrency(concurrent).unwrap_err();
            assert!(refused.contains("at most 797") && refused.contains("996"), "{refused}");
        }
        for concurrent in ["0", "-1", "many", ""] {
            assert!(concurrency(concurrent).is_err(), "{concurrent}");
        }
    }
}
