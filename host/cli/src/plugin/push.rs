//! A component on its way into a registry.

use std::{path::Path, process::ExitCode, time::Duration};

use anyhow::Context as _;
use serde_json::{Value, json};
use taskforge_domain::{Json, Manifest};
use taskforge_registry::signature;

use super::show;
use crate::{
    args::{ManifestArgs, PluginPushArgs},
    client::Client,
    output, plugin_folder,
};

/// A component of an interpreter takes half a minute to compile, and may wait for its turn.
const PATIENCE: Duration = Duration::from_secs(180);

/// Pushes a component, shows what it imports beside what it is granted, and lets it run.
pub(crate) async fn push(args: PluginPushArgs, json: bool) -> anyhow::Result<ExitCode> {
    let component =
        std::fs::read(&args.file).with_context(|| format!("cannot read {}", args.file.display()))?;
    let settings = match &args.settings {
        Some(file) => Some(plugin_folder::read_settings(file)?),
        None if args.file.with_extension("toml").exists() => {
            Some(plugin_folder::settings_beside(&args.file)?)
        }
        None => None,
    };
    let mut query = Vec::new();
    if let Some(settings) = settings {
        query.push(("settings", serde_json::to_string(&settings)?));
    }
    if let Some(tenant) = &args.tenant {
        query.push(("tenant", tenant.to_string()));
    }
    if let Some(manifest) = manifest(&args.manifest)? {
        query.push(("manifest", serde_json::to_string(&manifest)?));
    }
    if let Some(text) = signature_of(&args)? {
        query.push(("signature", text));
    }
    let client = Client::connect(&args.server)?;
    let version = client
        .send_component("plugins", &query, component, PATIENCE)
        .await?;
    let text = |field: &str| version[field].as_str().unwrap_or_default().to_owned();
    let (name, number) = (text("name"), text("version"));
    if !json {
        let digest: String = text("digest").chars().take(12).collect();
        output::line(&format!("pushed {name} {number} ({}, {digest}…)", text("shape")));
        show::review(&version["review"]);
    }
    if args.stage {
        if json {
            output::json(&version)?;
        } else {
            output::line(&format!(
                "it does not run yet: taskforge plugin activate {name} {number}"
            ));
        }
        return Ok(ExitCode::SUCCESS);
    }
    let body = Json::from(json!({ "version": number, "force": args.force }));
    let rollout = client
        .post(&format!("plugins/{name}/activate"), Some(&body))
        .await?;
    if json {
        output::json(&json!({ "version": version, "rollout": rollout }))?;
    } else {
        output::line(&active(&name, &rollout));
    }
    Ok(ExitCode::SUCCESS)
}

/// Says what runs now.
pub(super) fn active(name: &str, rollout: &Value) -> String {
    let number = |value: &Value| value.as_str().unwrap_or("no version").to_owned();
    let mut text = format!("{name}: {} runs", number(&rollout["active"]));
    if let Some(canary) = rollout["canary"].as_object() {
        text.push_str(&format!(
            ", {} on trial for {} % of the tasks",
            number(&canary["version"]),
            canary["percent"]
        ));
    }
    if let Some(previous) = rollout["previous"].as_str() {
        text.push_str(&format!(", {previous} ran before"));
    }
    if rollout["paused"] == true {
        text.push_str("; paused: its tasks wait");
    }
    if rollout["retired"] == true {
        text.push_str("; retired: it takes no more tasks");
    }
    text
}

/// What the arguments say of a component that cannot say it itself.
pub(super) fn manifest(args: &ManifestArgs) -> anyhow::Result<Option<Manifest>> {
    let (Some(name), Some(version)) = (&args.name, &args.version) else {
        return Ok(None);
    };
    let summary = args.summary.clone().unwrap_or_default();
    let mut manifest = Manifest::new(name.clone(), version.clone(), summary);
    if let Some(text) = &args.input_schema {
        manifest.input_schema = schema("--input-schema", text)?;
    }
    if let Some(text) = &args.output_schema {
        manifest.output_schema = schema("--output-schema", text)?;
    }
    Ok(Some(manifest))
}

fn schema(flag: &str, text: &str) -> anyhow::Result<Json> {
    let text = match text.strip_prefix('@') {
        Some(file) => std::fs::read_to_string(file).with_context(|| format!("{flag}: cannot read {file}"))?,
        None => text.to_owned(),
    };
    Json::parse(text).with_context(|| format!("{flag} is not JSON"))
}

/// The signature that was named, or the one beside the component.
fn signature_of(args: &PluginPushArgs) -> anyhow::Result<Option<String>> {
    let beside = sig_file(&args.file);
    let file = match &args.signature {
        Some(file) => file,
        None if beside.exists() => &beside,
        None => return Ok(None),
    };
    let text = std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    // Checked here, so that a wrong file is named and not a parameter.
    signature::from_text(&text).with_context(|| format!("{} holds no signature", file.display()))?;
    Ok(Some(text.trim().to_owned()))
}

/// Where the signature of a component lies.
pub(super) fn sig_file(component: &Path) -> std::path::PathBuf {
    let mut name = component.as_os_str().to_owned();
    name.push(".sig");
    name.into()
}
