//! JSON text that is known to parse.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// JSON text, checked once and then passed on as it is: inputs and results are not ours to reformat, and parsing a large one into
/// a tree at every hop would be the most expensive thing the host does with it.
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
        // Text that RawValue accepted can still exceed the tree parser's depth limit; it then reads as null.
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
