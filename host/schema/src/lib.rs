//! Compiles, checks against and compares JSON Schemas of strangers.
//!
//! A plugin describes the inputs of its tasks by a JSON Schema. The API checks inputs against it,
//! the registry checks whether a new version's schema still takes what the previous one took, and a
//! worker checks inputs again that were accepted under another version. Every check ends soon,
//! whatever the schema is.
//!
//! | file | the concept |
//! |---|---|
//! | [`schema`] | a compiled schema, and checks against it that always end soon |
//! | [`compatibility`] | whether a new schema takes everything that the old one took |
//! | [`text`] | pointers and texts that strangers made up |
//!
//! The crate knows no plugin, no task and no HTTP.

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
