//! `plugin run`: one attempt without a server, and what it used.

use std::{path::Path, process::ExitCode, sync::Arc, time::Duration};

use anyhow::Context as _;
use taskforge_domain::{
    HostRule, Json, Limits, LogLine, MailGrant, Manifest, Outcome, PluginInfo, PluginSettings,
    Progress, TaskId, TaskType, TenantId, Timestamp, one_line,
};
use taskforge_runtime::{Invocation, Invoked, LogTail, MemoryKeyValue, RuntimeConfig, inspect};
use taskforge_schema::Schema;
use tokio_util::sync::CancellationToken;

use super::sandbox::{load, outbox, read, roomy, sandbox};
use crate::{
    args::{PluginRunArgs, SandboxArgs},
    exit, mailers, output,
    plugin_folder::{self, Beside},
    task,
};

pub(super) async fn run(args: PluginRunArgs, json: bool) -> anyhow::Result<ExitCode> {
    let input = task::read_input(&args.input)?;
    let (settings, manifest) = settings(&args.file, &args.sandbox)?;
    let temporary = outbox()?;
    let outbox = match args.outbox {
        Some(folder) => folder,
        // Kept, so that the person can open the message that the log names.
        None if settings.grants.mail.allowed => temporary.keep(),
        None => temporary.path().to_owned(),
    };
    let mailer = mailers::build(&args.mail, outbox)?;
    let runtime = sandbox(RuntimeConfig {
        cache_dir: args.cache.folder(),
        ceilings: roomy(&settings.limits),
        key_value: Some(Arc::new(MemoryKeyValue::new())),
        ..RuntimeConfig::new(mailer)
    })?;
    let began = Timestamp::now();
    let manifest = manifest_of(&args.file, args.name, args.version, manifest)?;
    let plugin = load(&runtime, &args.file, settings, manifest.as_ref()).await?;
    let loading = Timestamp::now().duration_since(began).unsigned_abs();
    check_input(plugin.info(), &input)?;
    let invoked = runtime
        .invoke(
            &plugin,
            Invocation {
                tenant: TenantId::default(),
                task: TaskId::generate(),
                attempt: 1,
                max_attempts: 1,
                input,
                cancel: stop_on_interrupt(),
                progress: Some(Arc::new(show_progress)),
                log: LogTail::default(),
            },
        )
        .await;
    if json {
        print_json(plugin.info(), &invoked, loading)?;
    } else {
        print_text(plugin.info(), &invoked, loading);
    }
    Ok(match invoked.outcome {
        Outcome::Completed(_) => ExitCode::SUCCESS,
        Outcome::Failed(_) => ExitCode::from(exit::TASK_FAILED),
    })
}

/// What a component that does not describe itself is, to be run once: whatever was said of it.
fn manifest_of(
    component: &Path,
    name: Option<TaskType>,
    version: Option<String>,
    beside: Option<Manifest>,
) -> anyhow::Result<Option<Manifest>> {
    if name.is_none() && version.is_none() && beside.is_some() {
        return Ok(beside);
    }
    let exports = inspect::inspect(&read(component)?).map(|found| found.exports);
    let says_itself = exports.is_ok_and(|exports| {
        exports.iter().any(|name| name.starts_with("taskforge:plugin/handler"))
    });
    if says_itself && name.is_none() && version.is_none() {
        return Ok(None);
    }
    let stem = component.file_stem().unwrap_or_default().to_string_lossy();
    let name = match name {
        Some(name) => name,
        None => {
            TaskType::new(&stem).context("the file's name is no task type: give one with --name")?
        }
    };
    let version = version.unwrap_or_else(|| "0.0.0".to_owned());
    Ok(Some(Manifest::new(name, version, String::new())))
}

/// The settings file, with what the flags say over it.
fn settings(
    component: &Path,
    args: &SandboxArgs,
) -> anyhow::Result<(PluginSettings, Option<Manifest>)> {
    let Beside { settings, manifest } =
        plugin_folder::settings_of(component, args.settings.as_deref())?;
    let mut settings = settings.unwrap_or_default();
    let Limits { fuel, memory, deadline, .. } = &mut settings.limits;
    *fuel = args.fuel.unwrap_or(*fuel);
    *memory = args.memory.map_or(*memory, |size| size.as_u64());
    *deadline = args.deadline.unwrap_or(*deadline);
    let http = &mut settings.grants.http;
    for host in args.allow_http.iter().cloned() {
        // The flag is for all methods, whatever the file says.
        http.hosts.retain(|rule| rule.host != host);
        http.hosts.push(HostRule::from(host));
    }
    for network in &args.allow_private {
        if !http.private_networks.contains(network) {
            http.private_networks.push(*network);
        }
    }
    if args.allow_mail {
        settings.grants.mail = MailGrant::unlimited();
    }
    settings.grants.keyvalue.allowed |= args.allow_keyvalue;
    settings.grants.check().map_err(|error| anyhow::anyhow!("grants.{error}"))?;
    settings.config.extend(args.config.iter().cloned());
    for (name, variable) in &args.secret {
        // A guest reads both in the same way, and nothing of this run is kept.
        let value = std::env::var(variable)
            .with_context(|| format!("--secret {name}: the variable {variable}"))?;
        settings.config.insert(name.clone(), value);
    }
    Ok((settings, manifest))
}

/// The same check that the server makes when a task is enqueued.
fn check_input(info: &PluginInfo, input: &Json) -> anyhow::Result<()> {
    let schema = Schema::compile(info.input_schema.as_str());
    let schema = schema.map_err(|reason| {
        anyhow::anyhow!("the input schema of {} cannot be used: {reason}", info.name)
    })?;
    let mut faults = Vec::new();
    schema.check(&input.to_value(), input.as_str().len(), "/input", &mut faults);
    anyhow::ensure!(
        faults.is_empty(),
        "the input does not match the plugin's schema:{}",
        faults
            .iter()
            .map(|fault| format!("\n  {}: {}", fault.pointer, fault.detail))
            .collect::<String>()
    );
    Ok(())
}

fn stop_on_interrupt() -> CancellationToken {
    let cancel = CancellationToken::new();
    let on_interrupt = cancel.clone();
    tokio::spawn(async move {
        if tokio::signal::ctrl_c().await.is_ok() {
            on_interrupt.cancel();
        }
    });
    cancel
}

/// On standard error, for a person who waits.
fn show_progress(progress: Progress) {
    if output::is_watched() {
        let note = progress.note.unwrap_or_default();
        output::aside(&format!("{:3.0}% {}", progress.fraction * 100.0, one_line(&note)));
    }
}

fn print_text(info: &PluginInfo, invoked: &Invoked, loading: Duration) {
    for LogLine { level, message, .. } in &invoked.logs {
        let message = one_line(message);
        output::line(&format!("{:<8} {message}", format!("{level:?}").to_lowercase()));
    }
    match &invoked.outcome {
        Outcome::Completed(result) => output::line(result.as_str()),
        Outcome::Failed(failure) => {
            output::line(&format!("failed ({}): {}", failure.kind, one_line(&failure.message)));
        }
    }
    let share = |used: u64, limit: u64| {
        // A share for people to read.
        #[allow(clippy::cast_precision_loss)]
        let percent = 100.0 * used as f64 / limit.max(1) as f64;
        format!("{percent:.2}%")
    };
    let (usage, limits) = (&invoked.usage, &info.limits);
    let deadline = u64::try_from(limits.deadline.as_micros()).unwrap_or(u64::MAX);
    let row = |name: &str, used: u64, limit: u64, form: fn(u64) -> String| {
        vec![name.to_owned(), form(used), form(limit), share(used, limit)]
    };
    output::line("");
    output::table(
        &["", "USED", "LIMIT", "SHARE"],
        &[
            row("fuel", usage.fuel, limits.fuel, output::grouped),
            row("memory", usage.peak_memory, limits.memory, output::bytes),
            row("time", usage.wall_micros, deadline, output::micros),
            row("host calls", usage.host_calls, limits.host_calls, output::grouped),
            row(
                "http requests",
                u64::from(usage.http_requests),
                u64::from(limits.http_requests),
                output::grouped,
            ),
            row("http bytes", usage.http_bytes, limits.http_bytes, output::bytes),
        ],
    );
    let loading = output::micros(u64::try_from(loading.as_micros()).unwrap_or(u64::MAX));
    output::line(&format!("{} {} loaded in {loading}", info.name, info.version));
}

fn print_json(info: &PluginInfo, invoked: &Invoked, loading: Duration) -> anyhow::Result<()> {
    let (status, result, error, kind) = match &invoked.outcome {
        Outcome::Completed(result) => ("completed", Some(result), None, None),
        Outcome::Failed(failure) => ("failed", None, Some(&failure.message), Some(failure.kind)),
    };
    #[derive(serde::Serialize)]
    struct Report<'a> {
        plugin: &'a taskforge_domain::TaskType,
        version: &'a str,
        status: &'a str,
        result: Option<&'a Json>,
        error: Option<&'a String>,
        error_kind: Option<taskforge_domain::FailureKind>,
        logs: &'a [LogLine],
        usage: taskforge_domain::Usage,
        limits: &'a Limits,
        load_micros: u128,
    }
    output::json(&Report {
        plugin: &info.name,
        version: &info.version,
        status,
        result,
        error,
        error_kind: kind,
        logs: &invoked.logs,
        usage: invoked.usage,
        limits: &info.limits,
        load_micros: loading.as_micros(),
    })
}
