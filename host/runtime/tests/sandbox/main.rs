//! The sandbox against real guests: each attack ends with its own kind of failure, and a
//! well-behaved task beside it completes.

// Helpers outside `#[test]` functions fail a test by panicking, too.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod bed;
mod behaving;
mod compatibility;
mod confining;
mod flooding;
mod fuzzing;
mod keeping;
mod leaking;
mod loading;
mod mailing;
mod malformed;
mod pages;
mod reaching;
mod residing;
mod shapes;
mod spending;
mod stopping;
mod texting;
