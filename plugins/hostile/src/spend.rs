//! Using more than there is.

use std::{
    hint::black_box,
    sync::atomic::{AtomicU32, Ordering},
    time::Instant,
};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Serialize, Serializer, ser::SerializeStruct};
use serde_json::{Value, json};
use taskforge_sdk::{Failure, log};

use crate::attack::Stream;

/// What the handler returns.
#[derive(Debug)]
pub enum Output {
    /// Well-behaved JSON.
    Json(Value),
    /// A JSON string of so many bytes, made while it is written so that the attack needs one copy
    /// of it and not two.
    Repeated(usize),
    /// This text as it is, JSON or not.
    Verbatim(String),
}

impl Serialize for Output {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Json(value) => value.serialize(serializer),
            Self::Repeated(bytes) => serializer.collect_str(&Repeated(*bytes)),
            Self::Verbatim(text) => {
                // The way in which serde_json passes its `RawValue` through itself, without the
                // check that comes before.
                const RAW: &str = "$serde_json::private::RawValue";
                let mut raw = serializer.serialize_struct(RAW, 1)?;
                raw.serialize_field(RAW, text)?;
                raw.end()
            }
        }
    }
}

impl JsonSchema for Output {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Output".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!(true)
    }
}

struct Repeated(usize);

impl std::fmt::Display for Repeated {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        const PIECE: &str = "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx";
        let mut left = self.0;
        while left > 0 {
            let now = left.min(PIECE.len());
            f.write_str(&PIECE[..now])?;
            left -= now;
        }
        Ok(())
    }
}

/// Never returns.
pub fn endless_loop() -> ! {
    let mut rounds = 0_u64;
    loop {
        rounds = black_box(rounds.wrapping_add(1));
    }
}

static BOTTOM: AtomicU32 = AtomicU32::new(u32::MAX);

/// Calls itself until the stack is gone.
pub fn endless_recursion() -> u32 {
    descend(0)
}

// The bottom is read at every level and the result is changed on the way up by two operations, so
// that the compiler can neither count the levels nor turn the calls into a loop. No local has an
// address: each level spends the engine's stack and not linear memory.
#[inline(never)]
fn descend(depth: u32) -> u32 {
    if depth == BOTTOM.load(Ordering::Relaxed) {
        return depth;
    }
    descend(depth + 1).rotate_left(1) ^ depth
}

/// Allocates and touches memory without end.
pub fn grow_memory() -> ! {
    let mut held = Vec::new();
    loop {
        held.push(black_box(vec![1_u8; 1 << 20]));
    }
}

/// Allocates so many bytes, touches them and lets them go.
///
/// # Errors
/// A permanent failure when there is not as much.
pub fn allocate(bytes: usize) -> Result<usize, Failure> {
    let mut memory = Vec::<u8>::new();
    memory
        .try_reserve_exact(bytes)
        .map_err(|error| Failure::permanent(format!("cannot allocate {bytes} bytes: {error}")))?;
    memory.resize(bytes, 1);
    Ok(black_box(memory).len())
}

/// Computes.
#[must_use]
pub fn busy(rounds: u64) -> u64 {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    for round in 0..rounds {
        state = (state ^ round).wrapping_mul(0xbf58_476d_1ce4_e5b9).rotate_left(31);
    }
    state
}

/// Writes many lines.
#[allow(clippy::print_stdout, reason = "standard output is a log, and this floods it")]
pub fn log_flood(lines: u64, bytes: usize, to: Stream) -> Value {
    let text = "x".repeat(bytes);
    let wants = |stream| to == stream || to == Stream::All;
    for _ in 0..lines {
        if wants(Stream::Stdout) {
            println!("{text}");
        }
        if wants(Stream::Stderr) {
            eprintln!("{text}");
        }
        if wants(Stream::Logging) {
            log::info(&text);
        }
    }
    json!({ "lines": lines })
}

/// Asks the host for the time again and again.
pub fn host_call_flood(calls: Option<u64>) -> Value {
    let mut made = 0_u64;
    while calls.is_none_or(|calls| made < calls) {
        black_box(Instant::now());
        made += 1;
    }
    json!({ "calls": made })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_can_be_huge_and_can_be_anything_but_json() {
        assert_eq!(serde_json::to_string(&Output::Repeated(100)).unwrap().len(), 102);
        assert_eq!(serde_json::to_string(&Output::Verbatim("{no".to_owned())).unwrap(), "{no");
    }

    #[test]
    fn recursion_goes_as_deep_as_it_is_told() {
        BOTTOM.store(3, Ordering::Relaxed);
        assert_eq!(
            endless_recursion(),
            ((3_u32.rotate_left(1) ^ 2).rotate_left(1) ^ 1).rotate_left(1)
        );
    }
}
