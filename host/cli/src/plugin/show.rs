//! What a registry says of a plugin, for people.

use std::process::ExitCode;

use serde_json::Value;

use super::push::active;
use crate::{
    args::{PluginAdviseArgs, PluginEventsArgs, PluginListArgs, PluginNameArgs},
    client::Client,
    output,
};

/// The plugins of a server.
pub(crate) async fn list(args: &PluginListArgs, json: bool) -> anyhow::Result<ExitCode> {
    let answer = Client::connect(&args.server)?.get("plugins", &[]).await?;
    if json {
        output::json(&answer["plugins"])?;
        return Ok(ExitCode::SUCCESS);
    }
    let row = |plugin: &Value| {
        let state = match (&plugin["retired"], &plugin["paused"]) {
            (Value::Bool(true), _) => "retired",
            (_, Value::Bool(true)) => "paused",
            _ if plugin["kind"] == "external" => "external",
            _ if plugin["version"].is_null() => "not activated",
            _ => "runs",
        };
        let mut cells = ["name", "version", "canary", "shape", "owner"]
            .map(|field| cell(&plugin[field]))
            .to_vec();
        cells.push(state.to_owned());
        cells.push(cell(&plugin["summary"]));
        cells
    };
    let rows: Vec<_> = items(&answer["plugins"]).iter().map(row).collect();
    output::table(
        &[
            "PLUGIN", "VERSION", "CANARY", "SHAPE", "TENANT", "STATE", "SUMMARY",
        ],
        &rows,
    );
    Ok(ExitCode::SUCCESS)
}

/// A plugin: what runs, and each running version's imports beside its grants.
pub(crate) async fn one(args: &PluginNameArgs, json: bool) -> anyhow::Result<ExitCode> {
    let client = Client::connect(&args.server)?;
    let path = format!("plugins/{}", args.plugin);
    let plugin = client.get(&path, &[]).await?;
    if json {
        output::json(&plugin)?;
        return Ok(ExitCode::SUCCESS);
    }
    if plugin["kind"] == "external" {
        output::line(&format!("{}: only external workers handle it", args.plugin));
        return Ok(ExitCode::SUCCESS);
    }
    output::line(&active(args.plugin.as_str(), &plugin["rollout"]));
    let versions = client.get(&format!("{path}/versions"), &[]).await?;
    for version in items(&versions["versions"]) {
        let runs_as = version["runs_as"].as_str();
        let is_newest = items(&versions["versions"]).first() == Some(version);
        if runs_as.is_none() && !is_newest {
            continue;
        }
        output::line(&format!(
            "\n{} ({}, {}), pushed by {} at {}",
            cell(&version["version"]),
            runs_as.unwrap_or("does not run"),
            cell(&version["shape"]),
            cell(&version["pushed_by"]),
            cell(&version["pushed_at"])
        ));
        review(&version["review"]);
        let limits = version["limits"].as_object();
        let limits = limits.into_iter().flatten();
        let limits: Vec<_> = limits
            .map(|(name, value)| format!("{name} {}", cell(value)))
            .collect();
        output::line(&format!("limits: {}", limits.join(", ")));
    }
    Ok(ExitCode::SUCCESS)
}

/// The versions of a plugin.
pub(crate) async fn versions(args: &PluginNameArgs, json: bool) -> anyhow::Result<ExitCode> {
    let client = Client::connect(&args.server)?;
    let answer = client
        .get(&format!("plugins/{}/versions", args.plugin), &[])
        .await?;
    if json {
        output::json(&answer["versions"])?;
        return Ok(ExitCode::SUCCESS);
    }
    let row = |version: &Value| {
        let mut cells = [
            "version",
            "runs_as",
            "state",
            "shape",
            "size",
            "signed",
            "pushed_by",
            "pushed_at",
        ]
        .map(|field| cell(&version[field]))
        .to_vec();
        cells.push(cell(&version["digest"]).chars().take(12).collect());
        cells.push(cell(&version["reason"]));
        cells
    };
    let rows: Vec<_> = items(&answer["versions"]).iter().map(row).collect();
    output::table(
        &[
            "VERSION", "RUNS AS", "STATE", "SHAPE", "BYTES", "SIGNED", "BY", "AT", "DIGEST", "REASON",
        ],
        &rows,
    );
    Ok(ExitCode::SUCCESS)
}

/// What a component imports beside what it is granted.
pub(super) fn review(review: &Value) {
    let row = |reviewed: &Value| {
        let imported = match (&reviewed["imported"], &reviewed["wanted"]) {
            (Value::Bool(true), Value::Bool(true)) => "yes, and wants it",
            (Value::Bool(true), _) => "yes",
            (_, Value::Bool(true)) => "wants it",
            _ => "no",
        };
        let granted = cell(&reviewed["granted"]);
        let granted = if reviewed["is_missing"] == true {
            format!("{granted}  <- calls will fail")
        } else {
            granted
        };
        vec![cell(&reviewed["capability"]), imported.to_owned(), granted]
    };
    let rows: Vec<_> = items(review).iter().map(row).collect();
    if rows.is_empty() {
        output::line("it imports nothing that needs a grant");
    } else {
        output::table(&["CAPABILITY", "IMPORTED", "GRANTED"], &rows);
    }
}

/// Secrets, without what they say.
pub(super) fn secrets(secrets: &Value, json: bool) -> anyhow::Result<()> {
    if json {
        return output::json(secrets);
    }
    let row = |secret: &Value| {
        ["name", "updated_at", "can_open"]
            .map(|field| cell(&secret[field]))
            .to_vec()
    };
    let rows: Vec<_> = items(secrets).iter().map(row).collect();
    output::table(&["SECRET", "SET AT", "SERVER CAN OPEN IT"], &rows);
    Ok(())
}

/// What attempts used, and limits that would fit.
pub(crate) async fn advice(args: &PluginAdviseArgs, json: bool) -> anyhow::Result<ExitCode> {
    let query: Vec<_> = args
        .number
        .iter()
        .map(|number| ("version", number.clone()))
        .collect();
    let client = Client::connect(&args.server)?;
    let advice = client
        .get(&format!("plugins/{}/advice", args.plugin), &query)
        .await?;
    if json {
        output::json(&advice)?;
        return Ok(ExitCode::SUCCESS);
    }
    output::line(&format!(
        "{} {}: {} attempts, {} of them failed",
        args.plugin,
        cell(&advice["version"]),
        cell(&advice["attempts"]),
        cell(&advice["failed"])
    ));
    let row = |name: &str, field: &str, show: fn(u64) -> String| {
        let figure = &advice[field];
        let mut cells = vec![name.to_owned()];
        cells.extend(
            ["p50", "p99", "max", "limit", "suggested"]
                .map(|part| figure[part].as_u64().map(show).unwrap_or_default()),
        );
        cells
    };
    output::table(
        &["", "P50", "P99", "MAX", "LIMIT", "SUGGESTED"],
        &[
            row("fuel", "fuel", output::grouped),
            row("memory", "memory", output::bytes),
            row("time", "wall_micros", output::micros),
            row("output", "output", output::bytes),
        ],
    );
    if let Some(reason) = advice["reason"].as_str() {
        output::line(reason);
    }
    Ok(ExitCode::SUCCESS)
}

/// What happened to a plugin.
pub(crate) async fn events(args: &PluginEventsArgs, json: bool) -> anyhow::Result<ExitCode> {
    let client = Client::connect(&args.server)?;
    let answer = client
        .get(
            &format!("plugins/{}/events", args.plugin),
            &[("limit", args.last.to_string())],
        )
        .await?;
    if json {
        output::json(&answer["events"])?;
        return Ok(ExitCode::SUCCESS);
    }
    let row = |event: &Value| {
        ["at", "kind", "version", "by", "detail"]
            .map(|field| cell(&event[field]))
            .to_vec()
    };
    let rows: Vec<_> = items(&answer["events"]).iter().map(row).collect();
    output::table(&["AT", "WHAT", "VERSION", "BY", "DETAIL"], &rows);
    Ok(ExitCode::SUCCESS)
}

fn items(list: &Value) -> &[Value] {
    list.as_array().map(Vec::as_slice).unwrap_or_default()
}

/// A value for people, on one line.
fn cell(value: &Value) -> String {
    let text = match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    // What a plugin says of itself is a stranger's text.
    text.chars()
        .take(120)
        .map(|letter| if letter.is_control() { ' ' } else { letter })
        .collect()
}
