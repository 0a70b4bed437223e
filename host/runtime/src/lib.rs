//! The sandbox: runs handlers in wasmtime.
//!
//! [`Runtime::invoke`] runs one attempt in an instance that is made for it and dropped after it. It
//! always returns an [`Outcome`](taskforge_domain::Outcome) and the attempt's
//! [`Usage`](taskforge_domain::Usage). Nothing that a guest does reaches the caller as an error, a
//! panic or a blocked thread.
//!
//! | file | the concept |
//! |---|---|
//! | [`runtime`] | the entry points, and the configuration |
//! | [`engine`] | the engine's configuration, and the reason for each knob |
//! | [`plugin`] | a plugin: its description, and access to its code |
//! | [`code`] | linked code, and the export that takes a task |
//! | [`load`](mod@load) | from bytes to a loaded plugin: check, compile or fetch from the cache, link |
//! | [`describe`](mod@describe) | what a plugin, or its manifest, says about it |
//! | [`refusal`] | why bytes did not become a plugin |
//! | [`compiler`] | from a component to machine code: in this process, or in one of its own with limits |
//! | [`chunks`] | bulk memory in chunks, so that no instruction of a guest blocks a thread for long |
//! | [`confinement`] | privileges that processes give up |
//! | [`residents`] | the plugins whose code is in memory, within a budget |
//! | [`cache`] | compiled code on disk, by digest and engine fingerprint |
//! | [`invoke`](mod@invoke) | one attempt: instantiate and call, within its deadline |
//! | `threads` | threads of a lower priority, for attempts that compute for long |
//! | [`ending`] | how an attempt ended: the kind of failure and its message |
//! | [`words`] | what the handler wrote to standard error about its end |
//! | [`budget`] | the memory of an attempt: the sum of the guest's and of what the host holds for it |
//! | [`limiter`] | the guest's part of that sum, and the other limits that wasmtime checks |
//! | [`host`] | the host functions, and the state that they work on |
//! | [`log`] | what an attempt printed and the host added, cut at a limit |
//! | `tail` | that log while the attempt runs |
//! | [`fair`] | a semaphore that tenants share fairly |
//! | [`descriptors`] | how many descriptors outgoing connections may take |
//! | [`authorities`] | the certificate authorities that outgoing connections trust |
//! | [`egress`] | outgoing HTTP: allow-list, address guard, pools, caps |
//! | [`mailer`] | mail: to the outbox folder or an SMTP server, within limits |
//! | [`source`] | where to fetch a component whose code is needed again |
//! | [`keyvalue`] | values that a plugin keeps between attempts |
//! | [`inspect`](mod@inspect) | what a component imports and exports, without running it |
//! | [`contract`] | the bindings of `wit/`, private |
//!
//! The crate knows no queue and no database.

mod budget;
mod cache;
mod chunks;
mod code;
mod contract;
mod describe;
mod descriptors;
mod egress;
mod ending;
mod fair;
mod host;
mod limiter;
mod load;
mod log;
mod refusal;
mod residents;
mod tail;
mod threads;
mod words;

pub mod authorities;
pub mod compiler;
pub mod confinement;
pub mod engine;
pub mod inspect;
pub mod invoke;
pub mod keyvalue;
pub mod mailer;
pub mod plugin;
pub mod runtime;
pub mod source;

pub use authorities::{Authorities, AuthoritiesError};
pub use compiler::{CompileProcess, Compiler};
pub use fair::{FairSemaphore, Permit, TooManyWaiting};
pub use inspect::{Inspection, inspect};
pub use invoke::{Invocation, Invoked};
pub use keyvalue::{KeyValue, KeyValueError, MemoryKeyValue, Seen, Space};
pub use mailer::{
    MailAmount, MailAttachment, MailCounter, MailError, MailErrorKind, MailMessage, MailReceipt,
    MailRefusal, Mailer, MemoryMailCounter, OutboxMailer, SmtpMailer,
};
pub use plugin::Plugin;
pub use refusal::LoadError;
pub use residents::Residents;
pub use runtime::{Runtime, RuntimeConfig, RuntimeError};
pub use source::ComponentSource;
pub use tail::LogTail;
pub use taskforge_domain::PluginSettings;
pub use threads::background::Effort;
pub use tokio_util::sync::CancellationToken;
