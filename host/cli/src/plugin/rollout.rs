//! Which versions of a plugin run on a server.

use serde_json::{Map, Value, json};
use taskforge_domain::Json;

use super::view::{rollout_pairs, say_when};
use crate::{
    answer::Answer,
    args::{ActivateArgs, CanaryArgs, PluginNameArgs, PrunePluginArgs, RetireArgs},
    client::Client,
    confirm,
    output::{self, cell},
};

pub(super) async fn activate(args: ActivateArgs, as_json: bool) -> anyhow::Result<()> {
    let body = json!({
        "version": args.version, "force": args.force, "allow_downgrade": args.allow_downgrade,
    });
    let client = Client::connect(&args.server)?;
    let path = format!("plugins/{}/activate", args.name);
    show(&client.post(&path, Some(&Json::from(body))).await?, as_json)?;
    say_when();
    Ok(())
}

/// Rollback, pause, resume: a word that needs no more.
pub(super) async fn steer(args: PluginNameArgs, verb: &str, as_json: bool) -> anyhow::Result<()> {
    let client = Client::connect(&args.server)?;
    let path = format!("plugins/{}/{verb}", args.name);
    show(&client.post(&path, None).await?, as_json)?;
    if verb == "rollback" {
        say_when();
    }
    Ok(())
}

pub(super) async fn start_canary(args: CanaryArgs, as_json: bool) -> anyhow::Result<()> {
    let mut guard = Map::new();
    guard.extend(args.min_attempts.map(|count| ("min_attempts".to_owned(), json!(count))));
    guard.extend(args.failure_margin.map(|share| ("failure_margin".to_owned(), json!(share))));
    guard.extend(args.latency_factor.map(|factor| ("latency_factor".to_owned(), json!(factor))));
    let body = json!({
        "version": args.version, "percent": args.percent, "guard": guard, "force": args.force,
        "allow_downgrade": args.allow_downgrade,
    });
    let client = Client::connect(&args.server)?;
    let path = format!("plugins/{}/canary", args.name);
    show(&client.post(&path, Some(&Json::from(body))).await?, as_json)
}

pub(super) async fn stop_canary(args: PluginNameArgs, as_json: bool) -> anyhow::Result<()> {
    let client = Client::connect(&args.server)?;
    show(&client.delete(&format!("plugins/{}/canary", args.name)).await?, as_json)
}

pub(super) async fn retire(args: RetireArgs, as_json: bool) -> anyhow::Result<()> {
    let body = args.version.map(|version| Json::from(json!({ "version": version })));
    let client = Client::connect(&args.server)?;
    let path = format!("plugins/{}/retire", args.name);
    show(&client.post(&path, body.as_ref()).await?, as_json)
}

/// Deletes versions that nothing refers to.
pub(super) async fn prune(args: PrunePluginArgs, as_json: bool) -> anyhow::Result<()> {
    let client = Client::connect(&args.server)?;
    let path = format!("plugins/{}/prune", args.name);
    let ask = async |dry_run: bool| {
        let body = Json::from(json!({ "keep": args.keep, "dry_run": dry_run }));
        client.post(&path, Some(&body)).await
    };
    let mut pruned = match args.confirm.yes {
        true => Answer::from(Json::from(Value::Null)),
        false => ask(true).await?,
    };
    let would = pruned["versions"].as_array().map_or(0, Vec::len);
    let is_confirmed =
        confirm::is_confirmed(&args.confirm, &format!("delete {would} versions of {}", args.name))?;
    if is_confirmed {
        pruned = ask(false).await?;
    }
    if as_json {
        return output::json(&pruned);
    }
    let versions = pruned["versions"].as_array().into_iter().flatten();
    let rows = versions.map(|version| {
        let size = output::bytes(version["size"].as_u64().unwrap_or_default());
        let digest = version["digest"].as_str().unwrap_or_default();
        vec![cell(&version["version"]), size, digest.chars().take(12).collect()]
    });
    let rows: Vec<_> = rows.collect();
    output::table(&["VERSION", "SIZE", "DIGEST"], &rows);
    let count = rows.len();
    output::line(&match is_confirmed {
        false => format!("{count} versions of {} would be deleted", args.name),
        true => format!(
            "{count} versions of {} deleted, and {} components",
            args.name, pruned["components"]
        ),
    });
    Ok(())
}

fn show(rollout: &Answer, as_json: bool) -> anyhow::Result<()> {
    if as_json {
        return output::json(rollout);
    }
    output::pairs(&rollout_pairs(rollout));
    Ok(())
}
