//! All roles in one process, on embedded stores.

use std::process::ExitCode;

use anyhow::Context as _;
use taskforge_worker::WorkerConfig;

use crate::{
    args::DevArgs,
    mailers, output, plugin_folder,
    registry::Trust,
    signals::{INTERRUPTED, Signals},
    stack::{self, SandboxConfig, Stack, StackConfig},
};

/// Runs until SIGTERM or Ctrl-C, then drains. A second signal ends the process at once; the next start recovers.
pub(crate) async fn run(args: DevArgs) -> anyhow::Result<ExitCode> {
    let mut signals = Signals::new()?;
    std::fs::create_dir_all(&args.data_dir)
        .with_context(|| format!("cannot make the data folder {}", args.data_dir.display()))?;
    let folder = plugin_folder::locate(&args.plugins)?;
    let mailer = mailers::build(&args.mail, args.data_dir.join("outbox"))?;
    let cache = args
        .cache_dir
        .clone()
        .unwrap_or_else(|| args.data_dir.join("cache"));
    let instances = stack::instances(1, args.concurrency);
    let stack = Stack::start(StackConfig {
        data_dir: &args.data_dir,
        listen: args.listen,
        workers: 1,
        worker: WorkerConfig {
            concurrency: args.concurrency as usize,
            instances: instances as usize,
            drain_grace: args.drain_grace,
            ..WorkerConfig::default()
        },
        sandbox: SandboxConfig {
            cache_dir: cache,
            mailer,
            instances,
            allow_private: args.plugins.allow_private.clone(),
            ceilings: args.ceilings.ceilings(),
        },
        folder: &folder,
        is_watched: true,
        trust: Trust::read(&args.trust)?,
    })
    .await?;
    greet(&args, &stack, &folder);
    signals.next().await;
    tracing::info!(grace = ?args.drain_grace, "stopping; running attempts may finish, a second signal ends at once");
    tokio::select! {
        () = stack.stop() => Ok(ExitCode::SUCCESS),
        () = signals.next() => Ok(ExitCode::from(INTERRUPTED)),
    }
}

fn greet(args: &DevArgs, stack: &Stack, folder: &std::path::Path) {
    let url = format!("http://{}", stack.address);
    output::line(&format!(
        "TaskForge {}, everything in one process",
        env!("CARGO_PKG_VERSION")
    ));
    output::pairs(&[
        ("  API", url.clone()),
        ("  docs", format!("{url}/docs/")),
        ("  metrics", format!("{url}/metrics")),
        ("  data", args.data_dir.display().to_string()),
        (
            "  plugins",
            format!(
                "{} (and what comes into {})",
                stack.plugins.join(", "),
                folder.display()
            ),
        ),
    ]);
    if stack.recovered > 0 {
        output::line(&format!(
            "  {} tasks that ran when the last process ended go on",
            stack.recovered
        ));
    }
    output::line(&format!(
        "A first task:\n  curl -s {url}/tasks -H 'content-type: application/json' -d '{{\"task_type\": \"fibonacci\", \"input\": {{\"n\": 10}}}}'"
    ));
}
