//! What is known of a loaded plugin.

use std::{collections::BTreeMap, fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::{Digest, Grants, Json, Limits, PluginSettings, TaskType};

/// How a component takes a task and gives its result.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Default,
    Serialize,
    Deserialize,
    utoipa::ToSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Shape {
    /// It exports `taskforge:plugin/handler`, and describes itself.
    #[default]
    Handler,
    /// A WASI command (`wasi:cli/run`): the input on standard input, the output on standard output,
    /// standard error into the log.
    Command,
    /// A WASI web server (`wasi:http/incoming-handler`): the task arrives as `POST /`, and the
    /// answer's body is the output.
    Http,
}

impl Shape {
    /// Every shape.
    pub const ALL: [Self; 3] = [Self::Handler, Self::Command, Self::Http];

    /// The name that the API and the store use.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Handler => "handler",
            Self::Command => "command",
            Self::Http => "http",
        }
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Shape {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|shape| shape.as_str() == text);
        found.ok_or_else(|| format!("{text:?} is not a shape of handler"))
    }
}

/// What a component cannot say of itself unless it exports `describe`: whoever pushes a WASI
/// command or a WASI web server says it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// The task type.
    pub name: TaskType,
    /// Semantic version.
    pub version: String,
    /// One line for people.
    #[serde(default)]
    pub summary: String,
    /// JSON Schema of the input; anything by default.
    #[serde(default = "anything")]
    pub input_schema: Json,
    /// JSON Schema of the output; anything by default.
    #[serde(default = "anything")]
    pub output_schema: Json,
}

impl Manifest {
    /// Of a component that takes and gives anything.
    #[must_use]
    pub fn new(name: TaskType, version: String, summary: String) -> Self {
        Self { name, version, summary, input_schema: anything(), output_schema: anything() }
    }
}

fn anything() -> Json {
    Json::from(serde_json::json!({}))
}

/// A plugin as the host sees it: what it says about itself, what it is, and what the operator
/// allows it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PluginInfo {
    /// The task type that it handles.
    pub name: TaskType,
    /// Semantic version.
    pub version: String,
    /// How it takes a task.
    pub shape: Shape,
    /// SHA-256 of the component.
    pub digest: Digest,
    /// One line for people.
    pub summary: String,
    /// JSON Schema of the input.
    pub input_schema: Json,
    /// JSON Schema of the output.
    pub output_schema: Json,
    /// Capabilities that it says it wants.
    pub capabilities: Vec<String>,
    /// Interfaces that it imports, as `package:name/interface@version`.
    pub imports: Vec<String>,
    /// Interfaces that it exports.
    pub exports: Vec<String>,
    /// Size of the component, in bytes.
    pub size: u64,
    /// What one attempt may use.
    pub limits: Limits,
    /// What it may reach.
    pub grants: Grants,
    /// What it reads through `wasi:config`, without the secrets.
    pub config: BTreeMap<String, String>,
}

impl PluginInfo {
    /// The same plugin under other settings.
    #[must_use]
    pub fn with_settings(self, settings: PluginSettings) -> Self {
        Self { limits: settings.limits, grants: settings.grants, config: settings.config, ..self }
    }

    /// What the operator set.
    #[must_use]
    pub fn settings(&self) -> PluginSettings {
        PluginSettings {
            limits: self.limits.clone(),
            grants: self.grants.clone(),
            config: self.config.clone(),
        }
    }
}
