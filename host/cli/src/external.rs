//! Task types that have no component: external workers handle them over HTTP.
//!
//! A type is declared by name (`--external-types`), which takes any input, or by a file
//! `NAME.external.toml` in the plugins folder, with schemas.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, bail};
use serde::Deserialize;
use serde_json::Value;
use taskforge_domain::{Json, TaskType};
use taskforge_registry::{Catalog, ExternalType};
use tokio_util::sync::CancellationToken;

const ENDING: &str = ".external.toml";

/// Between two looks at a folder that is watched.
const POLL: Duration = Duration::from_millis(500);

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

/// The types that are named, and those that a folder declares. A file says more than a name.
///
/// # Errors
/// When a file cannot be used; the error names it.
pub(crate) fn read(named: &[TaskType], folder: Option<&Path>) -> anyhow::Result<Vec<ExternalType>> {
    let mut types = folder.map(load).transpose()?.unwrap_or_default();
    for name in named {
        if types.iter().all(|declared| declared.name != *name) {
            types.push(ExternalType {
                name: name.clone(),
                summary: String::new(),
                input_schema: Json::from(Value::Bool(true)),
                output_schema: None,
            });
        }
    }
    types.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(types)
}

/// Follows a folder until `stop`: files that come, change or go become the types that are offered.
/// Something that cannot be used is logged, and what was declared before stays.
pub(crate) async fn watch(
    catalog: Arc<Catalog>,
    named: Vec<TaskType>,
    folder: PathBuf,
    declared: Vec<ExternalType>,
    stop: CancellationToken,
) {
    let mut interval = tokio::time::interval(POLL);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut done = Ok(declared);
    let mut seen = done.clone();
    while stop.run_until_cancelled(interval.tick()).await.is_some() {
        let now = read(&named, Some(&folder)).map_err(|error| format!("{error:#}"));
        // A file that is still being written reads otherwise at the next look.
        let is_still = now == seen;
        seen = now;
        if !is_still || seen == done {
            continue;
        }
        done = seen.clone();
        let names = |types: &[ExternalType]| {
            let names: Vec<_> = types.iter().map(|external| external.name.as_str()).collect();
            names.join(", ")
        };
        let taken = seen.clone().and_then(|types| {
            let names = names(&types);
            let set = catalog.set_external(types).map_err(|error| error.to_string());
            set.map(|()| names)
        });
        match taken {
            Ok(names) => tracing::info!("external types: {names}"),
            Err(error) => tracing::error!("the external types stay as they were: {error}"),
        }
    }
}

/// Reads every `NAME.external.toml` of a folder.
fn load(folder: &Path) -> anyhow::Result<Vec<ExternalType>> {
    let entries =
        std::fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
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
    Ok(types)
}
