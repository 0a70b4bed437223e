//! The sandbox: wasmtime, and nothing but wasmtime.
//!
//! One door: [`Runtime::invoke`] runs one attempt of one plugin in an instance that is made for it and dropped after it, and always comes
//! back with an [`Outcome`] and the [`Usage`] that led to it. Nothing that a guest does reaches the caller as an error, a panic or a
//! blocked thread.
//!
//! | file | the concept |
//! |---|---|
//! | [`engine`] | the engine's configuration, and the reason for each knob |
//! | [`plugin`] | from bytes to a loaded plugin: check, compile or fetch from the cache, ask `describe` |
//! | [`cache`] | compiled code on disk, by digest and engine fingerprint |
//! | [`invoke`](mod@invoke) | one attempt: instantiate, call, classify how it ended |
//! | [`limiter`] | memory as a sum, and the other ceilings that wasmtime asks about |
//! | [`host`] | the state behind a store, and the host functions: logging, progress, mail |
//! | [`egress`] | outgoing HTTP: allow-list, address guard, pools, caps |
//! | [`mailer`] | where mail goes: the outbox folder or an SMTP server |
//! | [`inspect`](mod@inspect) | what a component imports and exports, without running it |
//!
//! It knows no queue and no database.
