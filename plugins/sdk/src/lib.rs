//! The guest side of TaskForge: a handler is one plain function over serde types, and one macro.
//!
//! ```
//! use schemars::JsonSchema;
//! use serde::{Deserialize, Serialize};
//! use taskforge_sdk::Failure;
//!
//! #[derive(Deserialize, JsonSchema)]
//! #[serde(deny_unknown_fields)]
//! struct Input {
//!     /// Whom to greet.
//!     #[schemars(length(min = 1))]
//!     name: String,
//! }
//!
//! #[derive(Serialize, JsonSchema)]
//! struct Output {
//!     greeting: String,
//! }
//!
//! fn greet(input: Input) -> Result<Output, Failure> {
//!     Ok(Output { greeting: format!("Hello, {}!", input.name) })
//! }
//!
//! taskforge_sdk::handler!(greet);
//! # // What a unit test of the handler looks like: it is a function.
//! # assert_eq!(greet(Input { name: "you".into() }).unwrap().greeting, "Hello, you!");
//! ```
//!
//! What flows in is the task's JSON input, checked by the host against the schema derived from
//! `Input`; what flows out is the JSON of `Output`, or a [`Failure`] that says whether to try
//! again. The function may be `async`, and may take a [`Task`] beside its input; see [`handler!`].
//! [`http`], [`mail`], [`config`], [`keyvalue`], [`progress()`] and [`log`] are what a handler can
//! ask its host for.
//!
//! | file | the concept |
//! |---|---|
//! | `handler` | from JSON text to a typed call and back; the [`handler!`] macro |
//! | `failure` | [`Failure`], and how errors become one |
//! | `task` | [`Task`]: which task, which attempt, how much time is left |
//! | [`http`] | requests over `wasi:http`, with typed errors |
//! | [`mail`] | sending a message through the host's mailer |
//! | [`config`] | configuration and secrets, by name |
//! | [`keyvalue`] | values that outlive an attempt |
//! | [`log`], `progress` | what the task's watchers read |
//! | `runtime` | the event loop behind an `async` handler |
//!
//! A component imports only what its handler uses: one that neither logs nor asks for anything
//! imports what Rust's standard library needs to print a panic, and no more. Every attempt runs in
//! an instance of its own, so a `static` is fresh each time.
//!
//! Compiled for any target but WebAssembly the same crate lets a handler's unit tests run natively:
//! logs and progress go to standard error, `http`, `mail` and `keyvalue` fail with an error that
//! says there is no host, and no configuration is set.

pub mod config;
mod failure;
mod handler;
pub mod http;
pub mod keyvalue;
pub mod log;
pub mod mail;
mod progress;
mod runtime;
mod task;

pub use failure::{Failure, OrFail, Retry};
pub use handler::Handler;
pub use progress::progress;
pub use runtime::sleep;
pub use task::Task;

/// For the macro's expansion only; no part of the public interface.
#[doc(hidden)]
pub mod __private {
    pub use crate::handler::{About, describe, handle};

    // Generated from `wit/` at compile time: the code cannot be changed here, and calls across the
    // canonical ABI are unsafe by nature.
    #[allow(unsafe_code, missing_docs, clippy::all, rust_2018_idioms)]
    pub mod bindings {
        wit_bindgen::generate!({
            path: "../../wit",
            world: "plugin",
            generate_all,
            pub_export_macro: true,
            default_bindings_module: "taskforge_sdk::__private::bindings",
        });
    }
}
