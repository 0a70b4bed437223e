//! Limits suggested from what attempts used, because nobody knows what a good fuel number is.

use serde::Serialize;

/// What the attempts of a version used, and which limits would fit them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Advice {
    /// The version.
    pub version: String,
    /// Attempts that were counted.
    pub attempts: u64,
    /// Those of them that failed.
    pub failed: u64,
    /// Fuel.
    pub fuel: Figure,
    /// Peak memory, in bytes.
    pub memory: Figure,
    /// Time, in microseconds.
    pub wall_micros: Figure,
    /// Output, in bytes.
    pub output: Figure,
    /// Why nothing is suggested, in a sentence, if so.
    pub reason: Option<String>,
}

/// One kind of usage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Figure {
    /// Half of the attempts used at most this.
    pub p50: u64,
    /// 99 of 100 attempts used at most this.
    pub p99: u64,
    /// The most that any used.
    pub max: u64,
    /// The limit now.
    pub limit: u64,
    /// The limit that would do, with a generous margin.
    pub suggested: Option<u64>,
}
