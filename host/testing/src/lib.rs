//! Test support: guests, loopback web servers, database servers, waiting on a condition.
//!
//! Only tests depend on this crate. Every server listens on 127.0.0.1 and a port that the system
//! picks, and ends with the value that started it.
//!
//! | file | the concept |
//! |---|---|
//! | [`clock`] | a host whose clock is set |
//! | [`guests`] | finding compiled plugins, and the hand-written components |
//! | [`web`] | web servers on loopback: well-behaved ones, silent ones, slow ones |
//! | [`smtp`] | a mail server that keeps its mail |
//! | [`server`] | PostgreSQL and Redis servers of a test's own, which it can kill |
//! | [`disk`] | a disk that can be filled |
//! | [`proxy`] | a TCP proxy that can break connections |
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
