//! The loop: claim, invoke, commit.
//!
//! A worker takes hints from the broker, claims the tasks in the store, runs each in the sandbox,
//! decides with the domain's rule what follows, and commits that under the lease it claimed with.
//! Everything that can go wrong on the way ends in one of two places: the commit of a failure, or a
//! lapsed lease that the sweeper puts right.
//!
//! | file | the concept |
//! |---|---|
//! | [`worker`](mod@worker) | one boot of a worker: starts the loops below, drains them at the end |
//! | [`config`] | its knobs |
//! | [`claim`] | hints and claims |
//! | `admission` | which tasks a worker claims, and which of them run |
//! | [`attempt`] | one task from claim to commit |
//! | `orphans` | tasks that the store says this worker runs, and that it does not |
//! | [`running`] | what runs now, and how to stop it |
//! | `heartbeat` | the lease on everything that the worker holds, on a thread of its own |
//! | `cancels` | attempts whose own lease is gone |
//! | `notifier` | what the broker is told of tasks that ended, many in a round trip |
//! | [`progress`] | what running attempts say, written in batches |
//! | [`sweeper`] | puts right what crashes left behind: due retries, lapsed workers, missing hints; one leads at a time |
//!
//! Which plugin runs a task is the registry's to say: [`Live`](taskforge_registry::Live) is asked
//! for every attempt.
//!
//! In: hints. Out: committed outcomes and signals. It knows no HTTP route and no SQL.

mod admission;
pub mod attempt;
mod cancels;
pub mod claim;
pub mod config;
mod heartbeat;
mod notifier;
mod orphans;
pub mod progress;
pub mod running;
pub mod sweeper;
pub mod worker;

pub use admission::permits;
pub use config::{SweeperConfig, WorkerConfig};
pub use sweeper::Sweeper;
pub use worker::{Services, Worker};
