//! Plugins of a server, for people.

use std::time::{Duration, Instant};

use serde_json::Value;

use super::view::{rollout_pairs, show_review};
use crate::{
    answer::Answer,
    args::{AdviseArgs, PluginNameArgs, PluginServerArgs, ShowArgs},
    client::{Client, escaped},
    output::{self, cell, time},
};

/// How long the usage of an attempt may take to arrive.
const RECORDED: Duration = Duration::from_secs(2);

pub(super) async fn list(args: PluginServerArgs, as_json: bool) -> anyhow::Result<()> {
    let list = Client::connect(&args.server)?.get("plugins", &[]).await?;
    if as_json {
        return output::json(&list);
    }
    let rows = items(&list, "plugins").map(|plugin| {
        let state = match (&plugin["kind"], &plugin["retired"], &plugin["paused"]) {
            (Value::String(kind), ..) if kind == "external" => "external",
            (_, Value::Bool(true), _) => "retired",
            (_, _, Value::Bool(true)) => "paused",
            _ if plugin["version"].is_null() => "not active yet",
            _ if plugin["accepts_tasks"] == false => "its tenant's alone",
            _ => "runs",
        };
        let fields = ["name", "version", "canary", "owner"].map(|field| cell(&plugin[field]));
        let summary = plugin["summary"].as_str().unwrap_or_default();
        let last = [state.to_owned(), summary.to_owned()];
        fields.into_iter().chain(last).collect()
    });
    let head = ["NAME", "VERSION", "CANARY", "OWNER", "STATE", "SUMMARY"];
    output::table(&head, &rows.collect::<Vec<_>>());
    Ok(())
}

/// Shows a plugin with the version that runs (or, before one does, the newest), or one of its
/// versions.
pub(super) async fn plugin(args: ShowArgs, as_json: bool) -> anyhow::Result<()> {
    let client = Client::connect(&args.server)?;
    let versions = format!("plugins/{}/versions", args.name);
    if let Some(number) = &args.version {
        let version = client.get(&format!("{versions}/{}", escaped(number)), &[]).await?;
        if as_json {
            return output::json(&version);
        }
        output::pairs(&[
            ("plugin", cell(&version["name"])),
            ("version", cell(&version["version"])),
            ("state", state_of(&version)),
            ("pushed", cell(&version["pushed_at"])),
            ("by", cell(&version["pushed_by"])),
        ]);
        show_version(&version);
        return Ok(());
    }
    let plugin = client.get(&format!("plugins/{}", args.name), &[]).await?;
    if as_json {
        return output::json(&plugin);
    }
    if !plugin["rollout"].is_object() {
        // An external type has no versions.
        output::pairs(&described(&plugin));
        return Ok(());
    }
    let mut pairs = rollout_pairs(&plugin["rollout"]);
    let list = client.get(&versions, &[]).await?;
    let all = list.list("versions");
    let active = all.iter().position(|version| version["runs_as"] == "stable");
    // Newest first: what stands before the active one was pushed after it.
    let newer = all.iter().take(active.unwrap_or(all.len()));
    let waiting: Vec<_> = newer
        .filter(|version| version["runs_as"].is_null() && version["state"] == "available")
        .map(|version| cell(&version["version"]))
        .collect();
    if !waiting.is_empty() {
        pairs.push(("not active", waiting.join(", ")));
    }
    output::pairs(&pairs);
    if let Some(version) = active.map_or_else(|| all.first(), |at| all.get(at)) {
        if active.is_none() {
            output::line(&format!("\nThe newest version, {}:", cell(&version["version"])));
        }
        show_version(version);
    }
    Ok(())
}

/// What a version is, what it may reach, and who signed it.
fn show_version(version: &Answer) {
    output::line("");
    output::pairs(&described(version));
    output::line("");
    show_signature(&version.member("signature"));
    show_review(version);
}

fn described(of: &Answer) -> Vec<(&'static str, String)> {
    let words = ["owner", "summary", "digest", "shape"].map(|field| (field, cell(&of[field])));
    let trees = ["limits", "grants", "config", "input_schema"]
        .map(|field| (field, indented(&of.member(field))));
    let mut pairs: Vec<_> = words.into_iter().chain(trees).collect();
    pairs.retain(|(_, value)| value != "-");
    pairs
}

/// The state of a version: `stable`, `canary`, or why it does not run.
fn state_of(version: &Value) -> String {
    match version["runs_as"].as_str() {
        Some(role) => role.to_owned(),
        None => cell(&version["state"]).replace('_', " "),
    }
}

pub(super) async fn versions(args: PluginNameArgs, as_json: bool) -> anyhow::Result<()> {
    let client = Client::connect(&args.server)?;
    let list = client.get(&format!("plugins/{}/versions", args.name), &[]).await?;
    if as_json {
        return output::json(&list);
    }
    let rows = items(&list, "versions").map(|version| {
        let size = output::bytes(version["size"].as_u64().unwrap_or_default());
        let digest = version["digest"].as_str().unwrap_or_default();
        vec![
            cell(&version["version"]),
            state_of(version),
            cell(&version["shape"]),
            size,
            digest.chars().take(12).collect(),
            if version["signed"] == true { "yes" } else { "-" }.to_owned(),
            time(&version["pushed_at"]),
            cell(&version["pushed_by"]),
        ]
    });
    let head = ["VERSION", "STATE", "SHAPE", "SIZE", "DIGEST", "SIGNED", "PUSHED", "BY"];
    output::table(&head, &rows.collect::<Vec<_>>());
    Ok(())
}

pub(super) async fn events(args: PluginNameArgs, as_json: bool) -> anyhow::Result<()> {
    let client = Client::connect(&args.server)?;
    let list = client.get(&format!("plugins/{}/events", args.name), &[]).await?;
    if as_json {
        return output::json(&list);
    }
    let rows = items(&list, "events").map(|event| {
        let what = cell(&event["kind"]).replace('_', " ");
        let fields = ["version", "by", "detail"].map(|field| cell(&event[field]));
        [time(&event["at"]), what].into_iter().chain(fields).collect()
    });
    output::table(&["WHEN", "WHAT", "VERSION", "BY", "DETAIL"], &rows.collect::<Vec<_>>());
    Ok(())
}

pub(super) async fn advice(args: AdviseArgs, as_json: bool) -> anyhow::Result<()> {
    let client = Client::connect(&args.server)?;
    let query: Vec<_> = args.version.map(|version| ("version", version)).into_iter().collect();
    let began = Instant::now();
    let advice = loop {
        let advice = client.get(&format!("plugins/{}/advice", args.name), &query).await?;
        // Workers write each second what attempts used: one that has just ended is not there yet.
        if advice["attempts"] != 0 || began.elapsed() > RECORDED {
            break advice;
        }
        tokio::time::sleep(Duration::from_millis(250)).await;
    };
    if as_json {
        return output::json(&advice);
    }
    let row = |name: &str, field: &str, form: fn(u64) -> String| {
        let figures = ["p50", "p99", "max", "limit", "suggested"].map(|part| {
            let figure = advice[field][part].as_u64();
            figure.map_or_else(|| "-".to_owned(), form)
        });
        [name.to_owned()].into_iter().chain(figures).collect()
    };
    output::line(&format!(
        "{} {}: {} attempts, {} of them failed",
        args.name,
        cell(&advice["version"]),
        advice["attempts"],
        advice["failed"]
    ));
    output::table(
        &["", "P50", "P99", "MAX", "LIMIT", "SUGGESTED"],
        &[
            row("fuel", "fuel", output::grouped),
            row("memory", "memory", output::bytes),
            row("deadline", "wall_micros", output::micros),
            row("output", "output", output::bytes),
        ],
    );
    if let Some(reason) = advice["reason"].as_str() {
        output::line(reason);
    }
    if advice["attempts"] == 0 {
        output::aside("An attempt is counted within two seconds of its end.");
    }
    Ok(())
}

/// Who signed a version, and what they allow it.
fn show_signature(signature: &Answer) {
    if signature.is_null() {
        return;
    }
    let keys = items(signature, "keys").map(cell).collect::<Vec<_>>().join(", ");
    let by = if keys.is_empty() { "no key that the server trusts".to_owned() } else { keys };
    output::pairs(&[
        ("signed by", by),
        ("problem", cell(&signature["problem"])),
        ("signed", indented(&signature.member("statement"))),
    ]);
    output::line("");
}

fn items<'a>(list: &'a Value, field: &str) -> impl Iterator<Item = &'a Value> {
    list[field].as_array().into_iter().flatten()
}

/// JSON as it was written: a number may have more digits than the tree keeps.
fn indented(json: &Answer) -> String {
    if json.is_null() {
        return "-".to_owned();
    }
    output::indented(json.text())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_settings_and_schemas_stay_as_they_were_written() {
        let text = r#"{"summary":"s","config":{"key":12345678901234567890123},
            "input_schema":{"maximum":1e400,"multipleOf":1.10},"grants":null}"#;
        let pairs = described(&Answer::parse(text.to_owned()).unwrap());
        let value = |name: &str| {
            let pair = pairs.iter().find(|(other, _)| *other == name);
            pair.map(|(_, value)| value.as_str())
        };
        assert_eq!(value("config"), Some("{\n  \"key\": 12345678901234567890123\n}"));
        let schema = "{\n  \"maximum\": 1e400,\n  \"multipleOf\": 1.10\n}";
        assert_eq!(value("input_schema"), Some(schema));
        assert_eq!(value("grants"), None);
    }
}
