//! All roles in one process, on embedded stores.

use std::process::ExitCode;

use anyhow::Context as _;
use taskforge_api::{ApiConfig, ApiKey};
use taskforge_domain::TaskType;
use taskforge_worker::WorkerConfig;

use crate::{
    args::DevArgs,
    data_folder, health, mailers, output, plugin_folder,
    registry::Trust,
    signals::{INTERRUPTED, Signals},
    stack::{self, SandboxConfig, Stack, StackConfig},
};

/// Runs until SIGTERM or Ctrl-C, then drains. A second signal ends the process at once; the next
/// start recovers.
pub(crate) async fn run(args: DevArgs) -> anyhow::Result<ExitCode> {
    let mut signals = Signals::new()?;
    data_folder::prepare(&args.data_dir)?;
    let key = key(&args)?;
    let folder = plugin_folder::locate_or_make(&args.plugins)?;
    let mailer = mailers::build(&args.mail, args.data_dir.join("outbox"))?;
    let cache = args.cache_dir.clone().unwrap_or_else(|| args.data_dir.join("cache"));
    let instances = stack::instances(args.concurrency);
    let start = Stack::start(StackConfig {
        data_dir: &args.data_dir,
        listen: args.listen,
        api: args.connections.apply(ApiConfig {
            key: key.as_ref().map(Key::parsed).transpose()?,
            ..ApiConfig::default()
        }),
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
        external: &args.external.external_types,
        trust: Trust::read(&args.trust)?,
    });
    let (mut stack, loading) = tokio::select! {
        started = start => started?,
        () = signals.next() => return Ok(ExitCode::from(INTERRUPTED)),
    };
    tracing::info!(
        "the API answers at http://{}, and plugins run as they become ready",
        stack.address
    );
    // Client commands find the server there, and send the key to nobody else.
    let reached = health::within_reach(stack.address);
    if let Err(error) = data_folder::keep_address(&args.data_dir, reached) {
        let error = format!("{error:#}");
        tracing::warn!(%error, "client commands do not find this server, nor its key, by themselves");
    }
    let is_loaded = tokio::select! {
        () = stack.load(loading) => true,
        () = signals.next() => false,
    };
    if is_loaded {
        greet(&args, &stack, &folder, key.as_ref());
        signals.next().await;
    }
    tracing::info!(grace = ?args.drain_grace, "stopping; running attempts may finish, a second signal ends at once");
    // Before the port is free for somebody else.
    data_folder::forget_address(&args.data_dir, reached);
    // The API ends beside the workers.
    let grace = args.drain_grace.max(ApiConfig::default().shutdown_grace);
    Ok(signals.end(grace, stack.stop()).await)
}

/// The key that clients must send.
enum Key {
    /// Of a flag or a variable. Whoever set it knows it, so it is not shown.
    Given(String),
    /// Of the data folder.
    Kept(String),
}

impl Key {
    fn parsed(&self) -> anyhow::Result<ApiKey> {
        let (Self::Given(text) | Self::Kept(text)) = self;
        ApiKey::new(text).context("--api-key, TASKFORGE_API_KEY")
    }
}

fn key(args: &DevArgs) -> anyhow::Result<Option<Key>> {
    Ok(match &args.api_key {
        Some(key) => Some(Key::Given(key.clone())),
        None if args.no_key => None,
        None => Some(Key::Kept(data_folder::key_or_new(&args.data_dir)?)),
    })
}

fn greet(args: &DevArgs, system: &Stack, folder: &std::path::Path, key: Option<&Key>) {
    let url = format!("http://{}", system.address);
    let key_file = args.data_dir.join("key");
    // Behind a #, which browsers keep to themselves: neither a log nor another site ever sees it.
    let (fragment, asked, header) = match key {
        Some(Key::Kept(key)) => (
            format!("#key={key}"),
            format!("in {}, which the command line reads by itself", key_file.display()),
            format!(" -H \"authorization: Bearer $(cat {})\"", key_file.display()),
        ),
        Some(Key::Given(_)) => (
            String::new(),
            "the one that was given".to_owned(),
            " -H \"authorization: Bearer $TASKFORGE_API_KEY\"".to_owned(),
        ),
        None => (
            String::new(),
            "none: everybody on this machine may do everything".to_owned(),
            String::new(),
        ),
    };
    output::line(&format!("TaskForge {}, everything in one process", env!("CARGO_PKG_VERSION")));
    output::pairs(&[
        ("  API", url.clone()),
        ("  docs", format!("{url}/docs/{fragment}")),
        ("  key", asked),
        ("  metrics", format!("{url}/metrics")),
        ("  data", args.data_dir.display().to_string()),
        (
            "  plugins",
            match system.plugins.is_empty() {
                true => format!(
                    "none yet: what comes into {} runs; `make plugins` builds the built-in ones",
                    folder.display()
                ),
                false => format!(
                    "{} (and what comes into {})",
                    system.plugins.join(", "),
                    folder.display()
                ),
            },
        ),
        ("  memory", stack::memory(args.concurrency, &system.running)),
    ]);
    if !system.external.is_empty() {
        let names: Vec<_> = system.external.iter().map(TaskType::as_str).collect();
        output::pairs(&[(
            "  external",
            format!("{} (for workers of your own: POST /task/next)", names.join(", ")),
        )]);
    }
    if system.recovered > 0 {
        output::line(&format!(
            "  {} tasks that ran when the last process ended go on",
            system.recovered
        ));
    }
    let first = match system.plugins.is_empty() {
        true => "A first task, once the plugin is there",
        false => "A first task",
    };
    output::line(&format!(
        "{first}:\n  curl -s {url}/tasks{header} \\\n       -H 'content-type: application/json' -d '{{\"task_type\": \"fibonacci\", \"input\": {{\"n\": 10}}}}'"
    ));
}
