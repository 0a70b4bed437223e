//! A fleet as its operators meet it: real processes on a PostgreSQL and a Redis of their own, which
//! are killed, stopped, flushed and cut off.
//!
//! | file | what it shows |
//! |---|---|
//! | `roles` | `migrate`, `serve`, `worker` and the commands for operators |
//! | `drain` | what SIGTERM does, and a rolling restart |
//! | `lapses` | what the death of a worker costs its tasks |
//! | `attacks` | the attacks of `plugins/hostile` through the whole fleet |
//! | `plugins` | plugins that come, change and go |
//! | `chaos` | the kill matrix |
//! | `clocks` | hosts whose clocks are set |
//! | `hangups` | clients that hang up at any moment |
//! | `frozen` | a database that hangs |
//! | `startup` | what is not there yet at the start, or not what it should be |
//! | `bed`, `node` | the fleet under test |
//!
//! `TASKFORGE_CHAOS=full` makes the kill matrix as long as `docs/reliability.md` says; `make chaos`
//! sets it.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    missing_docs
)]

mod attacks;
mod bed;
#[path = "../common/binary.rs"]
mod binary;
mod chaos;
mod clocks;
mod drain;
mod frozen;
mod hangups;
mod lapses;
mod node;
mod plugins;
mod roles;
#[path = "../common/slow.rs"]
mod slow;
mod startup;
