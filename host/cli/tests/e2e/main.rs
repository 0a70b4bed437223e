//! The binary as its users meet it: real processes, real components, a real browser.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod access;
mod addresses;
#[path = "../common/binary.rs"]
mod binary;
mod browser;
mod clocks;
mod commands;
mod compiling;
mod crash;
mod descriptors;
mod drain;
mod external;
mod first_task;
mod pushing;
mod registry;
mod server;
mod shell;
#[path = "../common/slow.rs"]
mod slow;
mod starting;
mod terminal;
mod waiting;
