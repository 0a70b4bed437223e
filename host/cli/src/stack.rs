//! The wiring: store, broker, sandbox, workers, sweeper, door — all in this process.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::Context as _;
use taskforge_api::{AlwaysReady, ApiConfig, Catalog, Metrics};
use taskforge_broker::{Broker, LocalBroker};
use taskforge_runtime::{CompileProcess, Compiler, Mailer, Plugin, Runtime, RuntimeConfig};
use taskforge_store::{SqliteStore, Store};
use taskforge_worker::{Handlers, Services, Sweeper, SweeperConfig, Worker, WorkerConfig};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// What distinguishes one embedded system from another.
pub(crate) struct StackConfig<'a> {
    pub(crate) data_dir: &'a Path,
    pub(crate) listen: SocketAddr,
    pub(crate) workers: u32,
    pub(crate) worker: WorkerConfig,
    pub(crate) plugins: Vec<Arc<Plugin>>,
    pub(crate) runtime: Runtime,
}

/// A running system.
pub(crate) struct Stack {
    pub(crate) store: Arc<SqliteStore>,
    pub(crate) broker: Arc<LocalBroker>,
    pub(crate) address: SocketAddr,
    /// Tasks that a process before this one had left running.
    pub(crate) recovered: usize,
    tasks: TaskTracker,
    sweeper: TaskTracker,
    stop_door: CancellationToken,
    stop_workers: CancellationToken,
    stop_sweeper: CancellationToken,
}

/// This program, as the compiler of components.
fn compiler() -> anyhow::Result<Compiler> {
    // Of a process that runs, Linux keeps the program, even when an upgrade has replaced its file: what compiles is always of the version
    // that will run the code.
    let program = if cfg!(target_os = "linux") {
        PathBuf::from("/proc/self/exe")
    } else {
        std::env::current_exe().context("this program cannot be found")?
    };
    Ok(Compiler::Process(CompileProcess::new(
        program,
        vec!["compile-component".into()],
    )))
}

/// The sandbox for an embedded system, with its compiled code in `cache_dir`. Components are compiled in processes of their own.
pub(crate) fn sandbox(cache_dir: PathBuf, mailer: Arc<dyn Mailer>, attempts: u32) -> anyhow::Result<Runtime> {
    let config = RuntimeConfig {
        cache_dir: Some(cache_dir),
        compiler: compiler()?,
        // More slots than this do not fit into the address space; attempts beyond it wait for an instance.
        max_instances: attempts.min(1_000),
        ..RuntimeConfig::new(mailer)
    };
    Runtime::new(config).context("the sandbox cannot be set up")
}

impl Stack {
    /// Opens the store, returns what an earlier process left running to the queue, and starts everything.
    pub(crate) async fn start(config: StackConfig<'_>) -> anyhow::Result<Self> {
        // First: what is made before the recorder is never recorded.
        let metrics = Metrics::install()?;
        let store = SqliteStore::open(&config.data_dir.join("taskforge.db")).await?;
        let broker = Arc::new(LocalBroker::new());
        let catalog = Arc::new(Catalog::new());
        catalog.set(
            config
                .plugins
                .iter()
                .map(|plugin| plugin.info().clone())
                .collect(),
        )?;
        let sweeper = Sweeper::new(SweeperConfig::default(), store.clone(), broker.clone());
        // The store's lock makes this the only process, so what is marked as running is not.
        let recovered = sweeper.recover_all().await?;
        let api = ApiConfig {
            listen: config.listen,
            ..ApiConfig::default()
        };
        let door = taskforge_api::bind(api)
            .await
            .with_context(|| format!("cannot listen on {} (--listen, TASKFORGE_LISTEN)", config.listen))?;
        let address = door.local_addr();
        let stack = Self {
            store: store.clone(),
            broker: broker.clone(),
            address,
            recovered,
            tasks: TaskTracker::new(),
            sweeper: TaskTracker::new(),
            stop_door: CancellationToken::new(),
            stop_workers: CancellationToken::new(),
            stop_sweeper: CancellationToken::new(),
        };
        let services = Services {
            store: store.clone(),
            broker: broker.clone(),
            runtime: config.runtime,
            handlers: Arc::new(Handlers::new(config.plugins)),
        };
        for _ in 0..config.workers {
            let worker = Worker::new(config.worker.clone(), services.clone());
            stack.tasks.spawn(worker.run(stack.stop_workers.clone()));
        }
        stack.sweeper.spawn(sweeper.run(stack.stop_sweeper.clone()));
        let door_services = taskforge_api::Services {
            store: store as Arc<dyn Store>,
            broker: broker as Arc<dyn Broker>,
            catalog,
            metrics,
            ready: Arc::new(AlwaysReady),
        };
        let stop_door = stack.stop_door.clone();
        stack.tasks.spawn(async move {
            if let Err(error) = door.serve(door_services, stop_door).await {
                tracing::error!(%error, "the API stopped");
            }
        });
        Ok(stack)
    }

    /// Closes the door, drains the workers, stops the sweeper and closes the store, in this order: nothing new comes in while the rest
    /// finishes, and retries find a sweeper until the last attempt has ended.
    pub(crate) async fn stop(self) {
        self.stop_door.cancel();
        self.stop_workers.cancel();
        self.tasks.close();
        self.tasks.wait().await;
        self.stop_sweeper.cancel();
        self.sweeper.close();
        self.sweeper.wait().await;
        if let Err(error) = self.store.close().await {
            tracing::warn!(%error, "the store was not closed cleanly; the next start puts that right");
        }
    }
}
