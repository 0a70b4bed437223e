//! The registry with a real store, a real sandbox and real components.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod bed;
mod collecting;
mod folder;
mod following;
mod pushing;
mod rollout;
mod sharing;
mod signing;
mod values;
