//! Schemas of strangers: compiled, checked against, compared.
//!
//! A plugin says with a JSON Schema what its tasks look like. The door checks inputs against it,
//! the registry looks whether a new version's schema still takes what the one before took, and a
//! worker checks again what was accepted under another version. All of that must end soon, whatever
//! a stranger wrote.
//!
//! | file | the concept |
//! |---|---|
//! | [`schema`] | a compiled schema, and checks against it that always end soon |
//! | [`compatibility`] | whether a new schema takes everything that the old one took |
//! | [`text`] | pointers and texts that strangers made up |
//!
//! It knows no plugin, no task and no HTTP.

pub mod compatibility;
pub mod schema;
pub mod text;

pub use compatibility::{Break, breaks};
pub use schema::{MAX_ERRORS, Schema};

/// Something wrong with an input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Where, as a JSON pointer (RFC 6901).
    pub pointer: String,
    /// What is wrong there.
    pub detail: String,
}

impl Fault {
    /// Something wrong at a place.
    pub fn at(pointer: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { pointer: pointer.into(), detail: detail.into() }
    }
}
