//! Files that nobody meant to be plugins: damaged, cut, random, and small ones of every kind. None
//! crashes or holds up the host, and each is refused in one line.

use std::time::{Duration, Instant};

use taskforge_runtime::{LoadError, PluginSettings, Runtime, RuntimeConfig};
use taskforge_testing::guests;

use crate::bed::{Bed, config};

/// What all variants of one test may take together; it ends early on a slow machine.
const ALL: Duration = Duration::from_secs(10);

/// What one may take. They take milliseconds; the bound is for busy machines.
const EACH: Duration = Duration::from_secs(60);

/// Loads bytes that may or may not be a plugin. What is refused must be refused in a sentence.
async fn endures(runtime: &Runtime, bytes: Vec<u8>) {
    let load = runtime.load(bytes, PluginSettings::default());
    let Err(error) = tokio::time::timeout(EACH, load).await.expect("a file holds up the host")
    else {
        return;
    };
    assert!(!matches!(error, LoadError::Internal(_)), "the host is to blame: {error}");
    let text = error.to_string();
    assert!(text.len() < 1000 && !text.contains(char::is_control), "{text:?}");
}

/// One of the ways to damage a file.
fn damaged(random: &mut fastrand::Rng, whole: &[u8]) -> Vec<u8> {
    let mut bytes = whole.to_vec();
    let place = random.usize(..bytes.len());
    let length = random.usize(1..=64).min(bytes.len() - place);
    match random.u8(..6) {
        0 => bytes.truncate(place),
        1 => bytes[place] ^= 1 << random.u8(..8),
        2 => random.fill(&mut bytes[place..place + length]),
        3 => drop(bytes.drain(place..place + length)),
        4 => {
            let piece = bytes[place..place + length].to_vec();
            bytes.splice(place..place, piece);
        }
        // The beginning is where the structure is.
        _ => {
            let place = random.usize(8..256.min(whole.len()));
            bytes[place] = random.u8(..);
        }
    }
    bytes
}

async fn endures_damage_to(whole: &[u8], seed: u64) {
    let outbox = tempfile::tempdir().unwrap();
    let bed = Bed::with(config(&outbox), outbox).await;
    let runtime = uncached();
    let mut random = fastrand::Rng::with_seed(seed);
    let begun = Instant::now();
    while begun.elapsed() < ALL {
        endures(&runtime, damaged(&mut random, whole)).await;
    }
    bed.neighbour_completes().await;
}

/// What is loaded here is not worth a place among the code that other tests keep.
fn uncached() -> Runtime {
    let outbox = tempfile::tempdir().unwrap();
    Runtime::new(RuntimeConfig { cache_dir: None, ..config(&outbox) }).unwrap()
}

#[tokio::test]
async fn a_damaged_handler_harms_nobody() {
    endures_damage_to(&guests::bytes("fibonacci"), 1).await;
}

#[tokio::test]
async fn a_damaged_small_component_harms_nobody() {
    endures_damage_to(&wat::parse_str(guests::wat("well_behaved")).unwrap(), 2).await;
}

#[tokio::test]
async fn noise_harms_nobody() {
    let runtime = uncached();
    let mut random = fastrand::Rng::with_seed(3);
    for round in 0..2000 {
        let mut bytes = vec![0; random.usize(..512)];
        random.fill(&mut bytes);
        // Half of it begins as a component or a module does.
        let header: &[u8] = match round % 4 {
            0 => b"\0asm\x0d\0\x01\0",
            1 => b"\0asm\x01\0\0\0",
            _ => b"",
        };
        endures(&runtime, [header, &bytes].concat()).await;
    }
}

#[tokio::test]
async fn hand_written_components_and_modules_harm_nobody() {
    let runtime = uncached();
    for name in [
        "bad_discriminant",
        "bad_name",
        "bad_realloc",
        "bad_schema",
        "endless_describe",
        "endless_start",
        "huge_minimum_memory",
        "invalid_utf8",
        "lying_output",
        "many_memories",
        "no_handler",
        "too_many_instances",
        "too_many_memories",
        "too_many_tables",
        "trapping_describe",
        "unknown_import",
    ] {
        endures(&runtime, wat::parse_str(guests::wat(name)).unwrap()).await;
    }
    for text in [
        "(module)",
        "(module (func unreachable) (start 0))",
        "(module (memory 65536))",
        "(component)",
        "(component (core module))",
        "(component (component (component)))",
        r#"(component (instance $i) (export "taskforge:plugin/handler@0.1.0" (instance $i)))"#,
        r#"(component (instance $i) (export "wasi:cli/run@0.2.0" (instance $i)))"#,
        r#"(component (core module $m (func unreachable) (start 0)) (core instance (instantiate $m)) (instance $i)
            (export "taskforge:plugin/handler@0.1.0" (instance $i)))"#,
    ] {
        endures(&runtime, wat::parse_str(text).unwrap()).await;
    }
}
