//! JSON text that is known to parse.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// Arrays and objects inside each other that a text may have. Below the limit of `serde_json`
/// (128), which handlers in Rust have too, and far below what a recursive schema check needs for a
/// stack.
pub const MAX_DEPTH: usize = 100;

/// The offset of the bracket that goes one level deeper than [`MAX_DEPTH`]. Takes one pass and no
/// stack, whatever the text is.
#[must_use]
pub fn too_deep(text: &str) -> Option<usize> {
    let (mut depth, mut in_string, mut escaped) = (0_usize, false, false);
    for (at, byte) in text.bytes().enumerate() {
        if in_string {
            match byte {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'"' => in_string = false,
                _ => {}
            }
            continue;
        }
        match byte {
            b'"' => in_string = true,
            b'[' | b'{' => {
                depth += 1;
                if depth > MAX_DEPTH {
                    return Some(at);
                }
            }
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    None
}

/// JSON text, checked once and then passed on unchanged: inputs and results must not be
/// reformatted, and parsing a large one into a tree at every step would be the most expensive thing
/// that the host does with it.
#[derive(Clone, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Json(Box<RawValue>);

impl Json {
    /// Checks that `text` is one JSON value.
    ///
    /// # Errors
    /// When it is not, with the line and column.
    pub fn parse(text: String) -> Result<Self, serde_json::Error> {
        RawValue::from_string(text).map(Self)
    }

    /// The value as JSON text.
    ///
    /// # Errors
    /// When the value's own `Serialize` fails, or a map key is not a string.
    pub fn from_value(value: &impl Serialize) -> Result<Self, serde_json::Error> {
        serde_json::value::to_raw_value(value).map(Self)
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        self.0.get()
    }

    /// The text parsed as a tree.
    #[must_use]
    pub fn to_value(&self) -> serde_json::Value {
        // Text that RawValue accepted can still exceed the tree parser's depth limit; it then reads
        // as null.
        serde_json::from_str(self.as_str()).unwrap_or_default()
    }
}

impl fmt::Debug for Json {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl PartialEq for Json {
    fn eq(&self, other: &Self) -> bool {
        self.as_str() == other.as_str()
    }
}

impl Eq for Json {}

impl From<serde_json::Value> for Json {
    fn from(value: serde_json::Value) -> Self {
        // A `Value` always serialises: its keys are strings and its numbers finite.
        RawValue::from_string(value.to_string())
            .map(Self)
            .unwrap_or_else(|_| Self(RawValue::NULL.to_owned()))
    }
}
