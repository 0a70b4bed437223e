//! What is known of a loaded plugin.

use serde::Serialize;

use crate::{Digest, Grants, Json, Limits, TaskType};

/// A plugin as the host sees it: what it says about itself, what it is, and what the operator allows it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PluginInfo {
    /// The task type that it handles.
    pub name: TaskType,
    /// Semantic version.
    pub version: String,
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
}
