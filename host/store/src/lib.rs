//! The truth.
//!
//! A task exists when its row is committed here, and nothing else makes it exist. This room holds
//! the one trait [`Store`] that the rest of the system knows, the databases behind it, and the
//! [`batch`] coalescer that turns many concurrent callers into few large statements.
//!
//! | file | the concept |
//! |---|---|
//! | [`store`](mod@store) | the trait, and the rule that each operation keeps |
//! | [`plugins`](mod@plugins) | the trait for the registry of plugins, their secrets, usage and values |
//! | [`query`] | filters, pages and cursors of the read side |
//! | [`batch`] | one fsync for hundreds of tasks: callers queue up, one writer flushes |
//! | [`refused`] | outcomes that the database refuses to hold |
//! | [`sqlite`] | the embedded database |
//! | [`postgres`](mod@postgres) | the database of a fleet |
//! | `sql` | what both say in the same words |
//! | `turns` | which tasks go first when no broker says so |
//! | `ending`, `lapse`, `event`, `param` | an attempt's end, a lapse and an event as rows; times and text as columns |
//! | `report` | what a running attempt has said, as it stands in its row |
//! | [`conformance`] | the suite that every database must pass; a rule that only one keeps is a bug |
//!
//! In: tasks, claims, completions; plugins, their secrets and values. Out: what was committed, and
//! for each completion whether its lease still held. It never looks into a component or a secret,
//! runs nothing, and sends no hints: who commits, notifies.

#![allow(
    clippy::duplicate_mod,
    reason = "each database compiles the files in `sql/` for its own types"
)]

pub mod batch;
#[cfg(any(test, feature = "conformance"))]
pub mod conformance;
mod ending;
mod event;
mod lapse;
mod param;
pub mod plugins;
pub mod postgres;
pub mod query;
pub mod refused;
mod report;
mod sql;
pub mod sqlite;
pub mod store;
mod turns;

pub use batch::{Batch, Batcher, BatcherConfig};
pub use plugins::{
    Added, BUCKET_BYTES, CollectRule, CollectedVersion, KEY_BYTES, Kept, KeyQuota, KeySpace,
    MailCount, PluginStore, Quota, QuotaKind, RegistrySnapshot, RolloutChange, SETTLED_AFTER,
    SealedSecret,
};
pub use postgres::{Notices, PostgresConfig, PostgresStore};
pub use query::{Cursor, Page, TaskFilter};
pub use refused::{Ended, complete_or_fail};
pub use sqlite::SqliteStore;
pub use store::{
    CancelOutcome, ClaimBy, ClaimRequest, Claimed, Commit, Completion, Counts, DeadLetterGroup,
    History, LapsedTask, LeaseConnection, LogEntry, ProgressReport, Resolution, RetryOutcome,
    Store, StoreClock, StoreError, StoreResult, Term, Upkeep, WorkerRecord,
};
pub use taskforge_domain::QueuedTask;
