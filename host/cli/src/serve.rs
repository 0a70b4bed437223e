//! The role `serve`: the API of a fleet.

use std::{process::ExitCode, sync::Arc};

use anyhow::Context as _;
use taskforge_api::{
    ApiConfig, ApiKey, Metrics, Services,
    admin::{self, AdminServices},
};
use taskforge_registry::{Catalog, ExternalType};
use taskforge_runtime::OutboxMailer;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    args::ServeArgs,
    data_folder, external,
    fleet::{self, Fleet},
    output, plugin_folder,
    registry::{self, Access, Trust},
    signals::{INTERRUPTED, Signals},
    stack::{self, SandboxConfig},
};

/// Components that the API asks at once to describe themselves.
const PUSHES: u32 = 4;

/// Serves until SIGTERM or Ctrl-C, then lets running requests end. A second signal ends the process
/// at once.
pub(crate) async fn run(args: ServeArgs) -> anyhow::Result<ExitCode> {
    let mut signals = Signals::new()?;
    // First: what is made before the recorder is never recorded.
    let metrics = Metrics::install()?;
    let key = args
        .api_key
        .as_deref()
        .map(ApiKey::new)
        .transpose()
        .context("--api-key, TASKFORGE_API_KEY")?;
    data_folder::prepare(&args.folders.data_dir)?;
    let config = args.connections.apply(ApiConfig {
        key,
        shutdown_grace: args.shutdown_grace,
        ..ApiConfig::default()
    });
    // Before anything that takes time: an address that cannot be had is the commonest mistake.
    let api = stack::bind(args.listen, config).await?;
    let admin = match args.admin_listen {
        Some(listen) => Some(stack::bind_admin(Some(listen)).await?),
        None => None,
    };
    let catalog = Arc::new(Catalog::default());
    catalog.set_external(externals(&args)?)?;
    let trust = Trust::read(&args.trust)?;
    let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
    let start = async {
        let fleet = Fleet::join(&args.database, &args.broker).await?;
        let access = access(&args, trust, &fleet)?;
        let registered = registry::register_found(&args.plugins, &access, &tasks, &stop)?;
        fleet::patiently(args.database.startup_timeout, || access.follow(&catalog, &tasks, &stop))
            .await
            .context(registry::UNREADABLE)?;
        anyhow::Ok((fleet, access, registered))
    };
    let (fleet, access, registered) = tokio::select! {
        started = start => started?,
        () = signals.next() => return Ok(ExitCode::from(INTERRUPTED)),
    };
    let services = Services {
        store: fleet.store.clone(),
        broker: fleet.broker.clone(),
        catalog: catalog.clone(),
        registry: access.registry(),
        metrics,
        ready: Arc::new(registered.clone()),
    };
    let address = api.local_addr();
    let mut lines = vec![("  API", format!("http://{address}"))];
    if let Some(admin) = admin {
        lines.push(("  admin", format!("http://{}", admin.local_addr()?)));
        let services = AdminServices {
            store: services.store.clone(),
            broker: services.broker.clone(),
            metrics: services.metrics.clone(),
            ready: services.ready.clone(),
        };
        tasks.spawn(serve_admin(admin, services, stop.clone()));
    }
    let serving = stop.clone();
    tasks.spawn(async move {
        if let Err(error) = api.serve(services, serving).await {
            tracing::error!(%error, "the API stopped");
        }
    });
    tasks.close();
    tracing::info!(
        "the API answers at http://{address}, and offers plugins as they are registered"
    );
    let loaded = async {
        registered.tried().await;
        registry::heard(&*fleet.store, &catalog).await;
    };
    let is_loaded = tokio::select! {
        () = loaded => true,
        () = signals.next() => false,
    };
    if is_loaded {
        output::line(&format!("TaskForge {}, the API of a fleet", env!("CARGO_PKG_VERSION")));
        lines.push(("  broker", fleet.broker.mode().as_str().to_owned()));
        output::pairs(&lines);
        signals.next().await;
    }
    tracing::info!("stopping; running requests may end, a second signal ends at once");
    stop.cancel();
    let stopped = async {
        tasks.wait().await;
        fleet.leave().await;
    };
    Ok(signals.end(args.shutdown_grace, stopped).await)
}

/// What it takes to change the registry. The API runs no tasks; its sandbox is for what is pushed,
/// and sends no mail.
fn access(args: &ServeArgs, trust: Trust, fleet: &Fleet) -> anyhow::Result<Access> {
    let mailer =
        OutboxMailer::new(args.folders.data_dir.join("outbox"), "TaskForge <taskforge@localhost>")?;
    let sandbox = SandboxConfig {
        cache_dir: args.folders.cache(),
        mailer: Arc::new(mailer),
        instances: PUSHES,
        allow_private: args.plugins.allow_private.clone(),
        ceilings: args.ceilings.ceilings(),
    };
    Ok(Access {
        store: fleet.store.clone(),
        broker: fleet.broker.clone(),
        runtime: stack::sandbox(sandbox, fleet.store.clone())?,
        trust,
    })
}

/// The types that only external workers handle, of the arguments and of the folder.
fn externals(args: &ServeArgs) -> anyhow::Result<Vec<ExternalType>> {
    let folder = match plugin_folder::locate(&args.plugins) {
        Ok(folder) => Some(folder),
        // A fleet of external workers needs no folder, unless one was named.
        Err(error) if args.plugins.plugins.is_some() => return Err(error),
        Err(_) => None,
    };
    external::read(&args.external.external_types, folder.as_deref())
}

/// Answers operators until the process stops.
pub(crate) async fn serve_admin(
    listener: tokio::net::TcpListener,
    services: AdminServices,
    stop: CancellationToken,
) {
    if let Err(error) = admin::serve(listener, services, stop).await {
        tracing::error!(%error, "the listener for operators stopped");
    }
}
