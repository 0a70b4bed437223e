//! The sandbox: wasmtime, and nothing but wasmtime.
//!
//! One door: [`Runtime::invoke`] runs one attempt of one plugin in an instance that is made for it
//! and dropped after it, and always comes back with an [`Outcome`](taskforge_domain::Outcome) and
//! the [`Usage`](taskforge_domain::Usage) that led to it. Nothing that a guest does reaches the
//! caller as an error, a panic or a blocked thread.
//!
//! | file | the concept |
//! |---|---|
//! | [`runtime`] | the door, and what a runtime is made from |
//! | [`engine`] | the engine's configuration, and the reason for each knob |
//! | [`plugin`] | what is known of a plugin, and the place of its code |
//! | [`code`] | linked code, and which of its exports a task enters by |
//! | [`load`](mod@load) | from bytes to a loaded plugin: check, compile or fetch from the cache, link |
//! | [`describe`](mod@describe) | what a plugin says about itself, or its manifest for it |
//! | [`refusal`] | why bytes did not become a plugin |
//! | [`compiler`] | from a component to machine code: here, or apart under caps |
//! | [`chunks`] | bulk memory in chunks, so that no instruction of a guest holds a thread |
//! | [`confinement`] | what processes give up that they do not need |
//! | [`residents`] | whose code is in memory, and who makes room |
//! | [`cache`] | compiled code on disk, by digest and engine fingerprint |
//! | [`invoke`](mod@invoke) | one attempt: instantiate, call, and the time it may take |
//! | `background` | threads of a lower priority, for attempts that compute for long |
//! | `processors` | what the threads of attempts leave to others |
//! | [`verdict`] | how an attempt ended: the kind of failure, and a sentence about it |
//! | [`words`] | what the handler itself wrote about its end |
//! | [`budget`] | the memory of an attempt: one sum of what the guest has and the host holds for it |
//! | [`limiter`] | the guest's part of it, and the other ceilings that wasmtime asks about |
//! | [`host`] | the state behind a store, and the host functions: logging, progress, mail, configuration, values |
//! | [`log`] | what an attempt printed and what the host has to add, cut at a limit |
//! | `tail` | a look at that log while the attempt runs |
//! | [`fair`] | a semaphore that tenants share fairly |
//! | [`descriptors`] | how many descriptors outgoing connections may take |
//! | [`authorities`] | whose certificates outgoing connections believe |
//! | [`egress`] | outgoing HTTP: allow-list, address guard, pools, caps |
//! | [`mailer`] | where mail goes, the outbox folder or an SMTP server, and how much of it |
//! | [`source`] | where components come from when their code is needed again |
//! | [`keyvalue`] | what a plugin keeps between attempts |
//! | [`inspect`](mod@inspect) | what a component imports and exports, without running it |
//! | [`contract`] | the bindings of `wit/`, private |
//!
//! It knows no queue and no database.

mod budget;
mod cache;
mod chunks;
mod code;
mod contract;
mod describe;
mod descriptors;
mod egress;
mod fair;
mod host;
mod limiter;
mod load;
mod log;
mod processors;
mod refusal;
mod residents;
mod tail;
mod verdict;
mod words;

pub mod authorities;
mod background;
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
pub use background::Effort;
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
pub use tokio_util::sync::CancellationToken;
