//! Values that outlive an attempt, over `wasi:keyvalue`. Needs the grant `keyvalue`. Each tenant's
//! are kept apart, within a quota.
//!
//! ```
//! use taskforge_sdk::{Failure, keyvalue};
//!
//! fn count_visit(page: &str) -> Result<u64, Failure> {
//!     let visits = keyvalue::open("visits")?;
//!     Ok(visits.increment(page, 1)?)
//! }
//! ```
//!
//! A task may run more than once and beside others of its kind: what has to be changed in one step
//! is changed with [`Bucket::increment`], for reading a value and writing another is two steps.

use std::fmt;

#[cfg(target_family = "wasm")]
use crate::__private::bindings::wasi::keyvalue::{atomics, store};

/// What class of error it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The operator has not granted `keyvalue` to this plugin.
    Denied,
    /// This host keeps no values.
    Missing,
    /// A key or value is too large, the quota is used up, a number is none, or the values cannot be
    /// reached.
    Other,
}

/// Why a value was not read or written. Returned from a handler by `?` it is retried if it is
/// [`ErrorKind::Other`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    kind: ErrorKind,
    message: String,
}

impl Error {
    /// An error, for unit tests of handlers.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }

    /// What class of error it is.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// Whether another attempt may succeed.
    #[must_use]
    pub const fn is_retryable(&self) -> bool {
        matches!(self.kind, ErrorKind::Other)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

#[cfg(target_family = "wasm")]
impl From<store::Error> for Error {
    fn from(error: store::Error) -> Self {
        match error {
            store::Error::AccessDenied => Self::new(
                ErrorKind::Denied,
                "the host denies this plugin the use of a key-value store",
            ),
            store::Error::NoSuchStore => {
                Self::new(ErrorKind::Missing, "the host has no key-value store")
            }
            store::Error::Other(message) => Self::new(ErrorKind::Other, message),
        }
    }
}

/// A collection of values, each under a key.
#[derive(Debug)]
pub struct Bucket {
    #[cfg(target_family = "wasm")]
    bucket: store::Bucket,
    #[cfg(not(target_family = "wasm"))]
    none: std::convert::Infallible,
}

/// Opens a bucket, which need not have been made before.
///
/// # Errors
/// When the operator has not granted it, or the host has none: see [`ErrorKind`].
#[cfg(target_family = "wasm")]
pub fn open(name: &str) -> Result<Bucket, Error> {
    Ok(Bucket { bucket: store::open(name)? })
}

/// Opens a bucket, which need not have been made before.
///
/// # Errors
/// When the operator has not granted it, or the host has none: see [`ErrorKind`].
#[cfg(not(target_family = "wasm"))]
pub fn open(_name: &str) -> Result<Bucket, Error> {
    Err(Error::new(ErrorKind::Missing, "there is no key-value store outside a TaskForge host"))
}

// One list of what a bucket can do; outside a component there never is a bucket to do it.
macro_rules! bucket {
    ($($(#[$doc:meta])* fn $name:ident(&self $(, $arg:ident: $Arg:ty)*) -> $Answer:ty = |$bucket:ident| $call:expr;)*) => {
        impl Bucket {$(
            $(#[$doc])*
            ///
            /// # Errors
            /// See [`ErrorKind`].
            pub fn $name(&self $(, $arg: $Arg)*) -> Result<$Answer, Error> {
                #[cfg(target_family = "wasm")]
                {
                    let $bucket = &self.bucket;
                    $call
                }
                #[cfg(not(target_family = "wasm"))]
                {
                    $(let _ = $arg;)*
                    match self.none {}
                }
            }
        )*}
    };
}

bucket! {
    /// The value of a key; `None` when there is none.
    fn get(&self, key: &str) -> Option<Vec<u8>> = |bucket| Ok(bucket.get(key)?);

    /// Writes a value, over the one that is there.
    fn set(&self, key: &str, value: &[u8]) -> () = |bucket| Ok(bucket.set(key, value)?);

    /// Deletes a value; it is no error when there is none.
    fn delete(&self, key: &str) -> () = |bucket| Ok(bucket.delete(key)?);

    /// Whether there is a value.
    fn exists(&self, key: &str) -> bool = |bucket| Ok(bucket.exists(key)?);

    /// Every key, in the order of their bytes.
    fn keys(&self) -> Vec<String> = |bucket| all_keys(bucket);

    /// Adds to a number, 0 while there is none, and returns the sum. No other change comes between.
    /// The number is kept as decimal text.
    fn increment(&self, key: &str, delta: u64) -> u64 = |bucket| Ok(atomics::increment(bucket, key, delta)?);
}

#[cfg(target_family = "wasm")]
fn all_keys(bucket: &store::Bucket) -> Result<Vec<String>, Error> {
    let mut keys = Vec::new();
    let mut cursor = None;
    loop {
        let mut page = bucket.list_keys(cursor)?;
        keys.append(&mut page.keys);
        cursor = page.cursor;
        if cursor.is_none() {
            return Ok(keys);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outside_a_host_there_is_no_bucket_and_the_error_says_so() {
        let error = open("visits").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Missing);
        assert!(!error.is_retryable());
    }
}
