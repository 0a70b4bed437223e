//! Pushes a component to a server, with its settings.

use anyhow::Context as _;
use reqwest::multipart::{Form, Part};
use serde::Serialize;
use serde_json::{Value, json};
use taskforge_domain::{Json, Manifest};

use super::{
    sandbox::read,
    sign,
    view::{say_when, show_review, text},
};
use crate::{
    answer::Answer,
    args::{PushArgs, SettingsArgs},
    client::{Client, escaped},
    exit::Failure,
    output,
    plugin_folder::{self, Beside},
    signals, task,
    waiting::Waiting,
};

/// Pushes a component, shows what it imports and what it is granted, and activates it unless
/// `--stage` is given.
pub(super) async fn push(args: PushArgs, as_json: bool) -> anyhow::Result<()> {
    let Beside { settings, manifest } =
        plugin_folder::settings_of(&args.file, args.settings.as_deref())?;
    let manifest = named(&args)?.or(manifest);
    let tenant = args.tenant.as_ref().map(|tenant| ("tenant", tenant.to_string()));
    let query: Vec<_> = tenant.into_iter().collect();
    let signature = sign::signature_of(&args.file, args.signature.as_deref())?;
    let client = Client::connect(&args.server)?;
    let component = read(&args.file)?;
    let size = output::bytes(component.len() as u64);
    let mut form = Form::new();
    if let Some(settings) = &settings {
        form = form.part("settings", json_part(serde_json::to_string(settings)?)?);
    }
    if let Some(manifest) = &manifest {
        form = form.part("manifest", json_part(serde_json::to_string(manifest)?)?);
    }
    if let Some(signature) = signature {
        form = form.part("signature", json_part(signature)?);
    }
    // Last, so that the server can refuse the other parts before the component is sent.
    form = form.part("component", Part::bytes(component).mime_str("application/wasm")?);
    let waiting = Waiting::begin(&format!(
        "pushing {} ({size}): the server checks and compiles it, which may take a minute",
        args.file.display()
    ));
    let pushed = waiting.until(client.push(&query, form));
    let version = signals::interruptible(pushed, || {
        "the server may still take it, and does not run it yet; the same command goes on from there"
            .to_owned()
    })
    .await?;
    drop(waiting);
    if !as_json {
        show_review(&version);
        if let Some(note) = version["settings_note"].as_str() {
            output::line(note);
        }
    }
    let (name, number) = (text(&version, "name"), text(&version, "version"));
    if args.stage {
        if as_json {
            return output::json(&version);
        }
        output::line(&format!(
            "{name} {number} is stored and does not run yet: `taskforge plugin activate {name} {number}` lets it run, \
             `taskforge plugin show {name} {number}` shows it"
        ));
        return Ok(());
    }
    let body = Json::from(json!({
        "version": number, "force": args.force, "allow_downgrade": args.allow_downgrade,
    }));
    let path = format!("plugins/{}/activate", escaped(name));
    let rollout = client.post(&path, Some(&body)).await;
    let rollout = rollout.with_context(|| format!("{name} {number} is stored and does not run"))?;
    if as_json {
        return output::json(&Pushed { version, rollout });
    }
    output::line(&runs(&version, &rollout));
    say_when();
    Ok(())
}

fn json_part(text: String) -> reqwest::Result<Part> {
    Part::text(text).mime_str("application/json")
}

/// A push as `--json` shows it.
#[derive(Serialize)]
struct Pushed {
    version: Answer,
    rollout: Answer,
}

/// The state of an activated version. A tenant's plugin may not be usable with this key.
fn runs(version: &Value, rollout: &Value) -> String {
    let (name, number) = (text(version, "name"), text(version, "version"));
    match version["owner"].as_str() {
        Some(owner) if rollout["accepts_tasks"] == false => format!(
            "{name} {number} is active for the tenant {owner} alone: with this key nobody can enqueue its tasks, \
             because the server takes them for another tenant"
        ),
        Some(owner) => format!("{name} {number} runs, for the tenant {owner} alone"),
        None => format!("{name} {number} runs"),
    }
}

/// The manifest that the flags give, for a component that does not describe itself.
fn named(args: &PushArgs) -> anyhow::Result<Option<Manifest>> {
    let (Some(name), Some(version)) = (&args.name, &args.version) else {
        return Ok(None);
    };
    let summary = args.summary.clone().unwrap_or_default();
    let mut manifest = Manifest::new(name.clone(), version.clone(), summary);
    let schema = |text: &Option<String>| text.as_deref().map(task::read_input).transpose();
    if let Some(schema) = schema(&args.input_schema).context("--input-schema")? {
        manifest.input_schema = schema;
    }
    if let Some(schema) = schema(&args.output_schema).context("--output-schema")? {
        manifest.output_schema = schema;
    }
    Ok(Some(manifest))
}

/// Sets what a version may use and reach.
pub(super) async fn settings(args: SettingsArgs, as_json: bool) -> anyhow::Result<()> {
    let Some(settings) = plugin_folder::read_settings(&args.file)?.settings else {
        return Err(Failure::usage(format!(
            "{} holds a [manifest] and no settings: say what the version may use and reach, such as [grants], [limits] or \
             [config]; an empty file stands for the defaults, without any grant",
            args.file.display()
        )));
    };
    let client = Client::connect(&args.server)?;
    let path = format!("plugins/{}/versions/{}/settings", args.name, escaped(&args.version));
    let version = client.put(&path, &Json::from(serde_json::to_value(&settings)?)).await?;
    if as_json {
        return output::json(&version);
    }
    show_review(&version);
    output::line(&format!("{} {} has these settings now", args.name, args.version));
    Ok(())
}
