//! The door, over a real socket, with a real database and broker behind it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on is to stop"
)]

#[path = "api/harness.rs"]
mod harness;

#[path = "api/admin.rs"]
mod admin;
#[path = "api/batch.rs"]
mod batch;
#[path = "api/dlq.rs"]
mod dlq;
#[path = "api/document.rs"]
mod document;
#[path = "api/errors.rs"]
mod errors;
#[path = "api/external.rs"]
mod external;
#[path = "api/faults.rs"]
mod faults;
#[path = "api/hangups.rs"]
mod hangups;
#[path = "api/hostile.rs"]
mod hostile;
#[path = "api/http.rs"]
mod http;
#[path = "api/key.rs"]
mod key;
#[path = "api/limits.rs"]
mod limits;
#[path = "api/logs.rs"]
mod logs;
#[path = "api/operations.rs"]
mod operations;
#[path = "api/plugins.rs"]
mod plugins;
#[path = "api/python.rs"]
mod python;
#[path = "api/queues.rs"]
mod queues;
#[path = "api/tasks.rs"]
mod tasks;
#[path = "api/wait.rs"]
mod wait;
