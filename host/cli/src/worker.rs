//! The role `worker`: runs tasks of a fleet.

use std::{process::ExitCode, sync::Arc};

use anyhow::{Context as _, bail};
use taskforge_api::{Metrics, Readiness as _, admin::AdminServices};
use taskforge_domain::TaskType;
use taskforge_registry::{Live, Trials};
use taskforge_worker::{Services, Sweeper, SweeperConfig, Worker, WorkerConfig};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    args::WorkerArgs,
    data_folder, descriptors,
    fleet::{self, Fleet},
    mailers, output,
    registry::{self, Access, Registered, Served, Trust},
    serve::serve_admin,
    signals::{INTERRUPTED, Signals},
    stack::{self, SandboxConfig},
};

/// Works until SIGTERM or Ctrl-C, then drains: running attempts may finish within the grace period, the rest is handed back. A second signal
/// ends the process at once; what it held lapses.
pub(crate) async fn run(args: WorkerArgs) -> anyhow::Result<ExitCode> {
    let mut signals = Signals::new()?;
    // First: what is made before the recorder is never recorded.
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
        let registered = registry::sync_if_found(&args.plugins, &access, &rest, &stop_rest).await?;
        let served = serve(&args, &access, &registered, &rest, &stop_rest).await?;
        anyhow::Ok((fleet, access, registered, served))
    };
    let (fleet, access, registered, Served { live, usage, .. }) = tokio::select! {
        started = start => started?,
        () = signals.next() => return Ok(ExitCode::from(INTERRUPTED)),
    };
    let infos: Vec<_> = live
        .plugins()
        .iter()
        .map(|plugin| plugin.info().clone())
        .collect();
    let names: Vec<_> = infos
        .iter()
        .map(|info| format!("{} {}", info.name, info.version))
        .collect();
    let services = Services {
        store: fleet.store.clone(),
        broker: fleet.broker.clone(),
        runtime: access.runtime.clone(),
        live: live.clone(),
        usage,
    };
    let config = WorkerConfig {
        concurrency: args.concurrency as usize,
        instances: instances as usize,
        heartbeat_timeout: args.heartbeat_timeout,
        drain_grace: args.drain_grace,
        ..WorkerConfig::default()
    };
    let sweeper = SweeperConfig {
        retention: args.retention,
        ..SweeperConfig::default()
    };
    let trials = Trials::new(fleet.store.clone(), fleet.broker.clone());
    let sweeper = Sweeper::new(sweeper, fleet.store.clone(), fleet.broker.clone())
        .with_plugins(live, trials)
        .with_collector(registry::collector(fleet.store.clone(), &args.versions));
    output::line(&format!(
        "TaskForge {}, a worker of a fleet",
        env!("CARGO_PKG_VERSION")
    ));
    output::pairs(&[
        ("  admin", format!("http://{}", admin.local_addr()?)),
        ("  broker", fleet.broker.mode().as_str().to_owned()),
        ("  plugins", names.join(", ")),
        ("  memory", stack::memory(args.concurrency, &infos)),
    ]);
    let draining = stop.clone();
    let ready = move || match draining.is_cancelled() {
        true => Err("draining".to_owned()),
        false => registered.check(),
    };
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

    signals.next().await;
    tracing::info!(grace = ?args.drain_grace, "stopping; running attempts may finish, a second signal ends at once");
    stop.cancel();
    let stopped = async {
        working.wait().await;
        // Until the last attempt has ended somebody may ask how this worker is, and nobody else may be there to sweep.
        stop_rest.cancel();
        rest.wait().await;
        fleet.leave().await;
    };
    Ok(signals.end(args.drain_grace, stopped).await)
}

/// Registers what is in the folder, and serves what the registry says.
async fn serve(
    args: &WorkerArgs,
    access: &Access,
    registered: &Registered,
    tasks: &TaskTracker,
    stop: &CancellationToken,
) -> anyhow::Result<Served> {
    let live = Arc::new(Live::default());
    let only = (!args.types.is_empty()).then(|| args.types.clone());
    if only.is_some() {
        // What is named below may be what could not be registered yet.
        registered.wait().await;
    }
    let snapshots = fleet::patiently(args.database.startup_timeout, || {
        access.follow(Some(&live), tasks, stop)
    })
    .await
    .context(registry::UNREADABLE)?;
    {
        let snapshot = snapshots.borrow();
        let is_known = |name: &TaskType| snapshot.plugins.iter().any(|plugin| plugin.name == *name);
        // A worker that was told a wrong name would be idle for ever, and nobody would notice.
        if let Some(missing) = args.types.iter().find(|name| !is_known(name)) {
            bail!("the registry has no plugin {missing} (--types, TASKFORGE_TYPES): push it first");
        }
    }
    let served = access.serve(live, snapshots.clone(), only, tasks, stop);
    served.settle(&snapshots).await;
    Ok(served)
}
