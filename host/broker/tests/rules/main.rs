//! The rules of the queue, for the broker in a process and for Redis alike.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

#[path = "../support/hints.rs"]
mod hints;
#[path = "../support/server.rs"]
#[allow(dead_code, reason = "other tests use the rest")]
mod server;

#[macro_use]
mod fixture;
mod alike;
mod lanes;
mod order;
mod sharing;
mod waits;
