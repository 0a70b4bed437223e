//! What an operator sets for one version of a plugin.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{Grants, Limits};

/// What the operator sets for one version: what an attempt may use, what it may reach, and the
/// configuration that it reads through `wasi:config`. This is also the form of a settings file.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PluginSettings {
    /// What one attempt may use.
    pub limits: Limits,
    /// What it may reach.
    pub grants: Grants,
    /// Values that the plugin reads by name. Nothing secret: they are shown to everybody who may
    /// read the plugin. Secrets are kept apart, and [`Grants::secrets`] says which of them this
    /// version reads, under the same names.
    pub config: BTreeMap<String, String>,
}
