//! The API, over a real socket, with a real database and broker behind it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on is to stop"
)]

mod admin;
mod batch;
mod dlq;
mod document;
mod errors;
mod external;
mod faults;
mod hangups;
mod harness;
mod hostile;
mod http;
mod key;
mod limits;
mod logs;
mod operations;
mod plugins;
mod python;
mod queues;
mod tasks;
mod wait;
