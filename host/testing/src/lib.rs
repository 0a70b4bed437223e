//! Test support: guests, loopback web servers, database servers, waiting on a condition.
//!
//! Only tests depend on this room. Everything listens on 127.0.0.1 and a port that the system
//! picks, and ends with the value that started it.
//!
//! | file | the concept |
//! |---|---|
//! | [`clock`] | a host whose clock is set |
//! | [`guests`] | finding compiled plugins, and the hand-written components |
//! | [`web`] | web servers on loopback: well-behaved ones, silent ones, slow ones |
//! | [`smtp`] | a mail server that keeps what it is sent |
//! | [`server`] | PostgreSQL and Redis servers of a test's own, to be killed at will |
//! | [`disk`] | a disk that can be filled |
//! | [`proxy`] | a TCP proxy that can cut the wire |
//! | [`hangup`] | HTTP clients that hang up at any moment |
//! | [`tls`] | servers with a certificate of a private authority |
//! | [`wait`] | waiting until something is true, with a deadline |

// Test support fails a test by panicking.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

pub mod clock;
pub mod disk;
pub mod guests;
pub mod hangup;
pub mod proxy;
pub mod server;
pub mod smtp;
pub mod tls;
pub mod wait;
pub mod web;

pub use wait::wait_until;
