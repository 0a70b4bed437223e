//! Configuration and secrets that the operator set, over `wasi:config`. A secret is read like any
//! other value, once the operator has granted it to this version.
//!
//! ```
//! use taskforge_sdk::{Failure, config};
//!
//! fn gateway() -> Result<String, Failure> {
//!     config::require("gateway_url")
//! }
//! // There is no operator outside a host.
//! assert!(!gateway().unwrap_err().is_retryable());
//! ```

use crate::Failure;

/// The value of a name; `None` when the operator has not set it.
#[must_use]
pub fn get(name: &str) -> Option<String> {
    #[cfg(target_family = "wasm")]
    {
        use crate::__private::bindings::wasi::config::store;
        // A host that cannot read its own configuration is one that has none for us.
        store::get(name).ok().flatten()
    }
    #[cfg(not(target_family = "wasm"))]
    {
        let _ = name;
        None
    }
}

/// The value of a name that the handler cannot do without.
///
/// # Errors
/// A permanent failure that names it, when the operator has not set it or has left it empty.
pub fn require(name: &str) -> Result<String, Failure> {
    get(name).filter(|value| !value.is_empty()).ok_or_else(|| {
        Failure::permanent(format!(
            "{name} is not set: the operator sets it under [config], or as a secret that is granted to this plugin"
        ))
    })
}
