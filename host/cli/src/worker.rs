//! The role `worker`: runs tasks of a fleet.

use std::{net::SocketAddr, process::ExitCode, sync::Arc};

use anyhow::{Context as _, bail};
use taskforge_api::{Metrics, Readiness as _, admin::AdminServices};
use taskforge_registry::{Catalog, Live, Trials};
use taskforge_worker::{Services, Sweeper, SweeperConfig, Worker, WorkerConfig};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    args::WorkerArgs,
    data_folder, descriptors,
    fleet::{self, Fleet},
    mailers, output,
    registry::{self, Access, Registered, Served, Started, Trust},
    serve::serve_admin,
    signals::{INTERRUPTED, Signals},
    stack::{self, SandboxConfig},
};

/// Works until SIGTERM or Ctrl-C, then drains: running attempts may finish within the grace period,
/// the rest is handed back. A second signal ends the process at once; its tasks lapse.
pub(crate) async fn run(args: WorkerArgs) -> anyhow::Result<ExitCode> {
    let mut signals = Signals::new()?;
    // First, because metrics that are made before the recorder are lost.
    let metrics = Metrics::install()?;
    let admin = stack::bind_admin(args.admin_listen).await?;
    data_folder::prepare(&args.folders.data_dir)?;
    descriptors::raise();
    let mailer = mailers::build(&args.mail, args.folders.data_dir.join("outbox"))?;
    let instances = stack::instances(args.concurrency);
    let sandbox = SandboxConfig {
        cache_dir: args.folders.cache(),
        mailer,
        instances,
        allow_private: args.plugins.allow_private.clone(),
        ceilings: args.ceilings.ceilings(),
    };
    let trust = Trust::read(&args.trust)?;
    let (stop, stop_rest) = (CancellationToken::new(), CancellationToken::new());
    let (working, rest) = (TaskTracker::new(), TaskTracker::new());
    let start = async {
        let fleet = Fleet::join(&args.database, &args.broker).await?;
        let access = Access {
            store: fleet.store.clone(),
            broker: fleet.broker.clone(),
            runtime: stack::sandbox(sandbox, fleet.store.clone())?,
            trust,
        };
        let catalog = Arc::new(Catalog::default());
        fleet::patiently(args.database.startup_timeout, || {
            access.follow(&catalog, &rest, &stop_rest)
        })
        .await
        .context(registry::UNREADABLE)?;
        let only = (!args.types.is_empty()).then(|| args.types.clone());
        let served = access.serve(catalog, only, &rest, &stop_rest);
        let registered = registry::register_found(&args.plugins, &access, &rest, &stop_rest)?;
        anyhow::Ok((fleet, access, registered, served))
    };
    let (fleet, access, registered, served) = tokio::select! {
        started = start => started?,
        () = signals.next() => return Ok(ExitCode::from(INTERRUPTED)),
    };
    let services = Services {
        store: fleet.store.clone(),
        broker: fleet.broker.clone(),
        runtime: access.runtime.clone(),
        live: served.live.clone(),
        usage: served.usage.clone(),
    };
    let config = WorkerConfig {
        concurrency: args.concurrency as usize,
        instances: instances as usize,
        heartbeat_timeout: args.heartbeat_timeout,
        drain_grace: args.drain_grace,
        ..WorkerConfig::default()
    };
    let sweeper = SweeperConfig { retention: args.retention, ..SweeperConfig::default() };
    let trials = Trials::new(fleet.store.clone(), fleet.broker.clone());
    let sweeper = Sweeper::new(sweeper, fleet.store.clone(), fleet.broker.clone())
        .with_plugins(served.live.clone(), trials)
        .with_collector(registry::collector(fleet.store.clone(), &args.versions));
    let started = Started::default();
    let ready = {
        let (draining, registered, started) = (stop.clone(), registered.clone(), started.clone());
        move || match draining.is_cancelled() {
            true => Err("draining".to_owned()),
            false => registered.check().and_then(|()| started.check()),
        }
    };
    let address = admin.local_addr()?;
    let admin_services = AdminServices {
        store: fleet.store.clone(),
        broker: fleet.broker.clone(),
        metrics,
        ready: Arc::new(ready),
    };
    rest.spawn(serve_admin(admin, admin_services, stop_rest.clone()));
    rest.spawn(sweeper.run(stop_rest.clone()));
    working.spawn(Worker::new(config, services).run(stop.clone()));
    working.close();
    rest.close();
    tracing::info!(
        "this worker answers operators at http://{address}, and runs plugins as they become ready"
    );
    let loaded = tokio::select! {
        loaded = load(&args, &fleet, &registered, &served) => Some(loaded),
        () = signals.next() => None,
    };
    if let Some(Ok(())) = loaded {
        started.now();
        greet(&args, address, &fleet, &served.live);
        signals.next().await;
    }
    tracing::info!(grace = ?args.drain_grace, "stopping; running attempts may finish, a second signal ends at once");
    stop.cancel();
    let stopped = async {
        working.wait().await;
        // The admin address and the sweep go on until the last attempt has ended: probes still
        // come, and this may be the only worker.
        stop_rest.cancel();
        rest.wait().await;
        fleet.leave().await;
    };
    let code = signals.end(args.drain_grace, stopped).await;
    loaded.transpose().map(|_| code)
}

/// Waits until the plugins of the folder are registered and ready. Those that are ready run
/// meanwhile.
///
/// # Errors
/// When the registry does not know a type that this worker was told to serve.
async fn load(
    args: &WorkerArgs,
    fleet: &Fleet,
    registered: &Registered,
    served: &Served,
) -> anyhow::Result<()> {
    match args.types.is_empty() {
        true => registered.tried().await,
        // A named type may be one that could not be registered yet.
        false => registered.settled().await,
    }
    let catalog = served.live.catalog();
    registry::heard(&*fleet.store, catalog).await;
    let known = catalog.known();
    // A worker with a wrong name would be idle for ever, unnoticed.
    if let Some(missing) = args.types.iter().find(|name| known.plugin(name).is_none()) {
        bail!("the registry has no plugin {missing} (--types, TASKFORGE_TYPES): push it first");
    }
    served.settle().await;
    Ok(())
}

fn greet(args: &WorkerArgs, address: SocketAddr, fleet: &Fleet, live: &Live) {
    let plugins = live.plugins();
    let infos: Vec<_> = plugins.iter().map(|plugin| plugin.info().clone()).collect();
    let names: Vec<_> =
        infos.iter().map(|info| format!("{} {}", info.name, info.version)).collect();
    output::line(&format!("TaskForge {}, a worker of a fleet", env!("CARGO_PKG_VERSION")));
    output::pairs(&[
        ("  admin", format!("http://{address}")),
        ("  broker", fleet.broker.mode().as_str().to_owned()),
        ("  plugins", names.join(", ")),
        ("  memory", stack::memory(args.concurrency, &infos)),
    ]);
}
