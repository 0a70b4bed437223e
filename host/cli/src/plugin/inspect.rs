//! `plugin inspect`: what a component is, without running it.

use std::process::ExitCode;

use anyhow::Context as _;
use serde_json::{Value, json};
use taskforge_domain::Json;
use taskforge_runtime::{RuntimeConfig, inspect};

use super::sandbox::{outbox, read, sandbox};
use crate::{
    args::{MailArgs, PluginInspectArgs},
    mailers, output,
    plugin_folder::{self, Beside},
};

pub(super) async fn describe(args: PluginInspectArgs, json: bool) -> anyhow::Result<ExitCode> {
    let bytes = read(&args.file)?;
    let found =
        inspect::inspect(&bytes).with_context(|| format!("cannot read {}", args.file.display()))?;
    let temporary = outbox()?;
    let mailer = mailers::build(
        &MailArgs { mailer: "log".to_owned(), mail_from: "taskforge@localhost".to_owned() },
        temporary.path().to_owned(),
    )?;
    let runtime =
        sandbox(RuntimeConfig { cache_dir: args.cache.folder(), ..RuntimeConfig::new(mailer) })?;
    // A component that is no plugin can still be looked at.
    let Beside { settings, manifest } = plugin_folder::settings_of(&args.file, None)?;
    let settings = settings.unwrap_or_default();
    let plugin = runtime.load_as(bytes, settings, manifest.as_ref()).await;
    if json {
        let plugin = match &plugin {
            Ok(plugin) => serde_json::to_value(plugin.info())?,
            Err(error) => json!({ "error": error.to_string() }),
        };
        output::json(&json!({
            "imports": found.imports, "exports": found.exports, "size": found.size, "digest": found.digest, "plugin": plugin,
        }))?;
        return Ok(ExitCode::SUCCESS);
    }
    output::pairs(&[
        ("size", output::bytes(found.size)),
        ("digest", found.digest.to_string()),
        ("imports", found.imports.join("\n")),
        ("exports", found.exports.join("\n")),
    ]);
    match plugin {
        Ok(plugin) => {
            let info = plugin.info();
            output::pairs(&[
                ("name", info.name.to_string()),
                ("version", info.version.clone()),
                ("summary", info.summary.clone()),
                ("wants", info.capabilities.join(", ")),
                ("input", indented(&info.input_schema)),
                ("output", indented(&info.output_schema)),
            ]);
        }
        Err(error) => output::line(&format!("not a plugin: {error}")),
    }
    Ok(ExitCode::SUCCESS)
}

fn indented(schema: &Json) -> String {
    let value: Value = schema.to_value();
    format!("{value:#}")
}
