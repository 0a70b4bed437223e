//! The role `worker`: runs tasks of a fleet.

use std::{process::ExitCode, sync::Arc};

use anyhow::{Context as _, bail};
use taskforge_api::{
    Metrics,
    admin::{self, AdminServices},
};
use taskforge_runtime::Plugin;
use taskforge_worker::{Handlers, Services, Sweeper, SweeperConfig, Worker, WorkerConfig};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    args::WorkerArgs,
    fleet::Fleet,
    mailers, output, plugin_folder,
    serve::serve_admin,
    signals::{INTERRUPTED, Signals},
    stack,
};

/// Works until SIGTERM or Ctrl-C, then drains: running attempts may finish within the grace period, the rest is handed back. A second signal
/// ends the process at once; what it held lapses.
pub(crate) async fn run(args: WorkerArgs) -> anyhow::Result<ExitCode> {
    let mut signals = Signals::new()?;
    // First: what is made before the recorder is never recorded.
    let metrics = Metrics::install()?;
    let admin = admin::bind(args.admin_listen).await.with_context(|| {
        format!(
            "cannot listen on {} (--admin-listen, TASKFORGE_ADMIN_LISTEN)",
            args.admin_listen
        )
    })?;
    std::fs::create_dir_all(&args.folders.data_dir)
        .with_context(|| format!("cannot make the data folder {}", args.folders.data_dir.display()))?;
    let mailer = mailers::build(&args.mail, args.folders.data_dir.join("outbox"))?;
    let runtime = stack::sandbox(args.folders.cache(), mailer, args.concurrency)?;
    let start = async {
        let plugins = plugins(&args, &runtime).await?;
        anyhow::Ok((plugins, Fleet::join(&args.database, &args.broker).await?))
    };
    let (plugins, fleet) = tokio::select! {
        started = start => started?,
        () = signals.next() => return Ok(ExitCode::from(INTERRUPTED)),
    };
    let names: Vec<_> = plugins
        .iter()
        .map(|plugin| format!("{} {}", plugin.info().name, plugin.info().version))
        .collect();
    let services = Services {
        store: fleet.store.clone(),
        broker: fleet.broker.clone(),
        runtime,
        handlers: Arc::new(Handlers::new(plugins)),
    };
    let config = WorkerConfig {
        concurrency: args.concurrency as usize,
        heartbeat_timeout: args.heartbeat_timeout,
        drain_grace: args.drain_grace,
        ..WorkerConfig::default()
    };
    let sweeper = SweeperConfig {
        retention: args.retention,
        ..SweeperConfig::default()
    };
    let sweeper = Sweeper::new(sweeper, fleet.store.clone(), fleet.broker.clone());
    let (stop, stop_rest) = (CancellationToken::new(), CancellationToken::new());
    let (working, rest) = (TaskTracker::new(), TaskTracker::new());
    output::line(&format!(
        "TaskForge {}, a worker of a fleet",
        env!("CARGO_PKG_VERSION")
    ));
    output::pairs(&[
        ("  admin", format!("http://{}", admin.local_addr()?)),
        ("  broker", fleet.broker.mode().as_str().to_owned()),
        ("  plugins", names.join(", ")),
    ]);
    let draining = stop.clone();
    let ready = move || match draining.is_cancelled() {
        true => Err("draining".to_owned()),
        false => Ok(()),
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
    tokio::select! {
        () = stopped => Ok(ExitCode::SUCCESS),
        () = signals.next() => Ok(ExitCode::from(INTERRUPTED)),
    }
}

/// The plugins that this worker serves. Here one that cannot be loaded is an error: tasks of its type would wait for ever.
async fn plugins(
    args: &WorkerArgs,
    runtime: &taskforge_runtime::Runtime,
) -> anyhow::Result<Vec<Arc<Plugin>>> {
    let folder = plugin_folder::locate(&args.plugins)?;
    tracing::info!(
        "loading the plugins in {}; what was not compiled before takes some seconds",
        folder.display()
    );
    let (mut plugins, rejected) = plugin_folder::load(runtime, &folder, &args.plugins.allow_private).await?;
    for rejected in &rejected {
        tracing::error!(
            "{} was not loaded: {:#}",
            rejected.file.display(),
            rejected.reason
        );
    }
    if !args.types.is_empty() {
        let missing = args
            .types
            .iter()
            .find(|name| !plugins.iter().any(|plugin| plugin.info().name == **name));
        if let Some(missing) = missing {
            bail!(
                "no plugin in {} handles {missing} (--types, TASKFORGE_TYPES)",
                folder.display()
            );
        }
        plugins.retain(|plugin| args.types.contains(&plugin.info().name));
    }
    if plugins.is_empty() {
        bail!(
            "{} holds no plugin that can be loaded (--plugins, TASKFORGE_PLUGINS)",
            folder.display()
        );
    }
    Ok(plugins)
}
