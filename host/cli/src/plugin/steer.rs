//! Which versions run, and what they may use.

use std::{io::Read as _, process::ExitCode, time::Duration};

use anyhow::{Context as _, bail};
use reqwest::Method;
use serde_json::{Value, json};
use taskforge_domain::{Json, TaskType};

use super::{push::active, show};
use crate::{
    args::{PluginCommand, PluginSecretCommand, PluginSecretSetArgs, ServerArgs},
    client::Client,
    output, plugin_folder,
};

/// The commands that change something.
pub(crate) async fn run(command: PluginCommand, as_json: bool) -> anyhow::Result<ExitCode> {
    match command {
        PluginCommand::Activate(args) => {
            let body = json!({ "version": args.number, "force": args.force });
            steer(&args.server, &args.plugin, "activate", Some(body), as_json).await
        }
        PluginCommand::Rollback(args) => steer(&args.server, &args.plugin, "rollback", None, as_json).await,
        PluginCommand::Canary(args) => {
            let guard = json!({ "min_attempts": args.min_attempts, "failure_margin": args.failure_margin,
                "latency_factor": args.latency_factor });
            let body = json!({ "version": args.number, "percent": args.percent, "guard": guard, "force": args.force });
            steer(&args.server, &args.plugin, "canary", Some(body), as_json).await
        }
        PluginCommand::CanaryStop(args) => {
            let path = format!("plugins/{}/canary", args.plugin);
            let client = Client::connect(&args.server)?;
            let rollout = client
                .request(Method::DELETE, &path, &[], None, Duration::ZERO)
                .await?;
            said(&args.plugin, &rollout, as_json)
        }
        PluginCommand::Pause(args) => steer(&args.server, &args.plugin, "pause", None, as_json).await,
        PluginCommand::Resume(args) => steer(&args.server, &args.plugin, "resume", None, as_json).await,
        PluginCommand::Retire(args) => {
            let body = args.number.map(|version| json!({ "version": version }));
            steer(&args.server, &args.plugin, "retire", body, as_json).await
        }
        PluginCommand::Settings(args) => {
            let settings = plugin_folder::read_settings(&args.file)?;
            let body = Json::from(serde_json::to_value(settings)?);
            let path = format!("plugins/{}/versions/{}/settings", args.plugin, args.number);
            let client = Client::connect(&args.server)?;
            let version = client
                .request(Method::PUT, &path, &[], Some(&body), Duration::ZERO)
                .await?;
            if as_json {
                output::json(&version)?;
            } else {
                show::review(&version["review"]);
            }
            Ok(ExitCode::SUCCESS)
        }
        PluginCommand::Secret(command) => secret(command, as_json).await,
        // Those that change nothing were carried out before.
        _ => bail!("this command is not about a server"),
    }
}

async fn steer(
    server: &ServerArgs,
    plugin: &TaskType,
    verb: &str,
    body: Option<Value>,
    as_json: bool,
) -> anyhow::Result<ExitCode> {
    let client = Client::connect(server)?;
    let body = body.map(Json::from);
    let rollout = client
        .post(&format!("plugins/{plugin}/{verb}"), body.as_ref())
        .await?;
    said(plugin, &rollout, as_json)
}

fn said(plugin: &TaskType, rollout: &Value, as_json: bool) -> anyhow::Result<ExitCode> {
    if as_json {
        output::json(rollout)?;
    } else {
        output::line(&active(plugin.as_str(), rollout));
    }
    Ok(ExitCode::SUCCESS)
}

async fn secret(command: PluginSecretCommand, as_json: bool) -> anyhow::Result<ExitCode> {
    let zero = Duration::ZERO;
    let secrets = match command {
        PluginSecretCommand::Set(args) => {
            let body = Json::from(json!({ "value": value(&args)? }));
            let path = format!("plugins/{}/secrets/{}", args.secret.plugin, args.secret.key);
            let client = Client::connect(&args.secret.server)?;
            client.request(Method::PUT, &path, &[], Some(&body), zero).await?
        }
        PluginSecretCommand::List(args) => {
            let client = Client::connect(&args.server)?;
            client
                .get(&format!("plugins/{}/secrets", args.plugin), &[])
                .await?
        }
        PluginSecretCommand::Delete(args) => {
            let path = format!("plugins/{}/secrets/{}", args.plugin, args.key);
            let client = Client::connect(&args.server)?;
            client.request(Method::DELETE, &path, &[], None, zero).await?
        }
    };
    show::secrets(&secrets["secrets"], as_json)?;
    Ok(ExitCode::SUCCESS)
}

/// The secret, from where it leaves no trace in the history of a shell or the list of processes.
fn value(args: &PluginSecretSetArgs) -> anyhow::Result<String> {
    if let Some(variable) = &args.from_env {
        return std::env::var(variable)
            .with_context(|| format!("the variable {variable} cannot be read (--from-env)"));
    }
    let mut text = String::new();
    std::io::stdin()
        .read_to_string(&mut text)
        .context("the secret cannot be read from standard input")?;
    // What `echo` adds.
    let text = text.strip_suffix('\n').unwrap_or(&text);
    let text = text.strip_suffix('\r').unwrap_or(text);
    if text.is_empty() {
        bail!("the secret is empty: give it on standard input, or name a variable with --from-env");
    }
    Ok(text.to_owned())
}
