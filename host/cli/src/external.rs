//! Task types that have no component: external workers handle them over HTTP.

use std::path::Path;

use anyhow::{Context as _, bail};
use serde::Deserialize;
use serde_json::Value;
use taskforge_api::ExternalType;
use taskforge_domain::{Json, TaskType};

const ENDING: &str = ".external.toml";

/// A file `NAME.external.toml`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    /// One sentence for people.
    #[serde(default)]
    summary: String,
    /// JSON Schemas, written as TOML tables. Without one anything goes.
    input_schema: Option<Value>,
    output_schema: Option<Value>,
}

/// Reads every `NAME.external.toml` of a folder. One that cannot be read is an error that names it.
pub(crate) fn load(folder: &Path) -> anyhow::Result<Vec<ExternalType>> {
    let entries = std::fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    let mut types = Vec::new();
    for entry in entries {
        let file = entry?.path();
        let Some(name) = file
            .file_name()
            .and_then(|name| name.to_str())
            .and_then(|name| name.strip_suffix(ENDING))
        else {
            continue;
        };
        let read = || {
            let name = TaskType::new(name)?;
            let settings: File = toml::from_str(&std::fs::read_to_string(&file)?)?;
            if types.iter().any(|other: &ExternalType| other.name == name) {
                bail!("{name} is there twice");
            }
            Ok(ExternalType {
                name,
                summary: settings.summary,
                input_schema: Json::from(settings.input_schema.unwrap_or(Value::Bool(true))),
                output_schema: settings.output_schema.map(Json::from),
            })
        };
        let read = read().with_context(|| format!("cannot use {}", file.display()))?;
        types.push(read);
    }
    types.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(types)
}
