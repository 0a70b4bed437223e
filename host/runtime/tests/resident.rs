//! What attacks on the host's memory really take: the resident memory of this process while many
//! attempts hold as much as they can at once. One test at a time, in a process of its own, so that
//! nothing else moves the figure.

// Helpers outside `#[test]` functions fail a test by panicking, too.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![allow(clippy::print_stdout, reason = "the figures are what these tests are about")]

#[allow(dead_code, reason = "shared with the other tests of the sandbox")]
#[path = "sandbox/bed.rs"]
mod bed;

use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::future::join_all;
use serde_json::{Value, json};
use taskforge_domain::{FailureKind, Outcome};
use taskforge_runtime::{Invoked, LoadError, Plugin, RuntimeConfig};
use tokio::sync::Mutex;

use crate::bed::{Bed, config, invocation};

/// Attempts at once.
const PLACES: u64 = 16;

/// The limit of each, in bytes.
const MEMORY: u64 = 16 << 20;

/// What the process may take besides, in bytes: stacks of fibres, the allocator's own, code.
const CONSTANT: u64 = 96 << 20;

/// What the host may hold beyond the limit of an attempt, in bytes.
const RESERVE: u64 = (1 << 20) + (64 << 10);

static ONE_AT_A_TIME: Mutex<()> = Mutex::const_new(());

fn resident() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    let kibibytes: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    kibibytes << 10
}

/// Looks at the resident memory until it is dropped, and knows the highest rise.
struct Watch {
    before: u64,
    highest: Arc<AtomicU64>,
    ended: Arc<AtomicBool>,
}

impl Watch {
    fn start() -> Self {
        let before = resident();
        let (highest, ended) = (Arc::new(AtomicU64::new(before)), Arc::new(AtomicBool::new(false)));
        let (seen, stop) = (Arc::clone(&highest), Arc::clone(&ended));
        std::thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                seen.fetch_max(resident(), Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(2));
            }
        });
        Self { before, highest, ended }
    }

    fn risen(&self) -> u64 {
        self.highest.load(Ordering::Relaxed).saturating_sub(self.before)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
    }
}

async fn bed() -> Bed {
    let outbox = tempfile::tempdir().unwrap();
    let config =
        RuntimeConfig { max_instances: u32::try_from(PLACES).unwrap() + 4, ..config(&outbox) };
    Bed::with(config, outbox).await
}

fn limits() -> Value {
    json!({"memory": MEMORY, "host_calls": 10_000_000, "deadline": "10min"})
}

/// Runs one attack in every place at once, and requires what the promise says.
async fn attack(bed: &Bed, plugin: &Plugin, name: &str, input: &Value) -> Vec<Invoked> {
    let watch = Watch::start();
    let attempts = (0..PLACES).map(|_| bed.runtime.invoke(plugin, invocation(input.clone())));
    let ended = join_all(attempts).await;
    let risen = watch.risen();
    println!("{name}: {} MiB resident", risen >> 20);
    assert!(risen <= PLACES * MEMORY + CONSTANT, "{name}: {} MiB of resident memory", risen >> 20);
    for invoked in &ended {
        let peak = invoked.usage.peak_memory;
        assert!(peak <= MEMORY + RESERVE, "{name}: a peak of {peak}");
    }
    ended
}

fn ran_out(invoked: &Invoked) -> bool {
    match &invoked.outcome {
        Outcome::Failed(failure) if failure.kind == FailureKind::OutOfMemory => {
            assert!(failure.message.contains("the host held"), "{failure}");
            true
        }
        Outcome::Failed(failure) => panic!("{failure}"),
        Outcome::Completed(_) => false,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_host_holds_for_a_guest_is_on_its_bill() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let bed = bed().await;
    let plugin = bed.hostile(json!({"limits": limits()})).await;
    // Larger than what one call may carry, than a part of a request may be, and as large as it may
    // be.
    for (what, count, bytes, out_of_memory) in [
        ("authorities", 200, 1 << 20, false),
        ("authorities", 900, 1000, false),
        ("methods", 200, 1 << 20, false),
        ("methods", 900, 250, false),
        ("paths", 200, 1 << 20, false),
        ("paths", 900, 60_000, true),
        ("schemes", 200, 1 << 20, false),
        ("bodies", 300, 1 << 20, true),
        ("bodies", 300, 60_000, true),
        ("aborted_bodies", 900, 0, false),
        ("trailers", 900, 60_000, true),
        ("fields", 900, 60_000, true),
        ("small_fields", 900, 0, true),
        ("headers", 450, 60_000, true),
        ("timers", 400, 0, false),
        ("streams", 900, 0, false),
        ("options", 900, 0, false),
    ] {
        let input =
            json!({"attack": "hold", "what": what, "count": count, "bytes": bytes, "ms": 200});
        let name = format!("{what} of {bytes} bytes");
        for invoked in attack(&bed, &plugin, &name, &input).await {
            assert_eq!(ran_out(&invoked), out_of_memory, "{name}: {:?}", invoked.outcome);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_handles_are_not_free() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let bed = bed().await;
    let plugin = bed.hostile(json!({"limits": limits()})).await;
    let peak = async |what: &str, count: usize| {
        let input = json!({"attack": "hold", "what": what, "count": count, "bytes": 1});
        bed.completes(&plugin, input).await.1.usage.peak_memory
    };
    for what in ["timers", "streams", "options", "authorities", "aborted_bodies"] {
        let (few, many) = (peak(what, 10).await, peak(what, 410).await);
        assert!(many - few >= 400 * 512, "{what}: {few} and {many}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_of_empty_lines_is_a_small_log_and_a_small_row() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let bed = bed().await;
    let plugin = bed.hostile(json!({"limits": limits()})).await;
    let input = json!({"attack": "log_flood", "lines": 20_000, "bytes": 0});
    for invoked in attack(&bed, &plugin, "empty lines", &input).await {
        let row = serde_json::to_string(&invoked.logs).unwrap().len();
        assert!(row < (64 << 10) + 1000, "a row of {row} bytes");
        assert!(matches!(invoked.outcome, Outcome::Completed(_)), "{:?}", invoked.outcome);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_log_takes_from_the_memory_of_its_attempt() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let bed = bed().await;
    let mut limits = limits();
    limits["log"] = json!("4 MiB");
    limits["memory"] = json!("2 MiB");
    let plugin = bed.hostile(json!({"limits": limits})).await;
    let input = json!({"attack": "log_flood", "lines": 30_000, "bytes": 100});
    for invoked in attack(&bed, &plugin, "a large log", &input).await {
        let kept: usize = invoked.logs.iter().map(|line| line.message.len()).sum();
        assert!(kept < 2 << 20, "{kept} bytes were kept");
        assert!(invoked.usage.peak_memory <= (2 << 20) + RESERVE);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_and_batches_of_values_are_on_the_bill() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let bed = bed().await;
    let plugin = bed
        .hostile(json!({
            "limits": limits(),
            "grants": {"keyvalue": {"bytes": "16 MiB", "keys": 2000}},
        }))
        .await;
    let steps = |steps: Value| json!({"attack": "key_value", "bucket": "", "steps": steps});
    let (_, invoked) = bed
        .completes(&plugin, steps(json!([{"do": "set_many", "count": 600, "bytes": 3000}])))
        .await;
    let written = invoked.usage.peak_memory;
    let input = steps(json!([{"do": "get_many", "count": 600}, {"do": "keys"}]));
    for invoked in attack(&bed, &plugin, "a batch of values", &input).await {
        assert!(
            ran_out(&invoked) || invoked.usage.peak_memory > written.min(3 << 20),
            "the host and the guest had 1.8 MB each: {:?}",
            invoked.usage
        );
    }
}

/// Requests with a path of so many bytes, in `describe` or `handle`.
fn holder(in_describe: bool, count: u64, bytes: u64) -> Vec<u8> {
    let (describe, handle) = if in_describe { ("(call $hold)", "") } else { ("", "(call $hold)") };
    let text = include_str!("../../../plugins/hostile/wat/holding.wat")
        .replace("$IN_DESCRIBE", describe)
        .replace("$IN_HANDLE", handle)
        .replace("$COUNT", &count.to_string())
        .replace("$BYTES", &bytes.to_string());
    wat::parse_str(text).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn describe_pays_like_handle_does() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let bed = bed().await;
    let settings = || bed::settings(json!({"limits": limits()}));
    // Long ones are refused, and the component goes on; short ones are held until there is no room.
    for (count, bytes) in [(100, 1 << 20), (400, 60_000)] {
        let watch = Watch::start();
        let component = holder(true, count, bytes);
        let loads = (0..PLACES).map(|_| bed.runtime.load(component.clone(), settings()));
        let loaded = join_all(loads).await;
        let risen = watch.risen();
        println!("describe with {bytes} bytes: {} MiB resident", risen >> 20);
        assert!(risen <= PLACES * MEMORY + CONSTANT, "{} MiB resident", risen >> 20);
        for loaded in loaded {
            match loaded {
                Err(LoadError::Describe(failure)) if bytes == 60_000 => {
                    assert_eq!(failure.kind, FailureKind::OutOfMemory, "{failure}");
                    assert!(failure.message.contains("the host held"), "{failure}");
                }
                Err(error) => panic!("{error}"),
                Ok(_) => assert_ne!(bytes, 60_000),
            }
        }
    }
    let plugin = bed.runtime.load(holder(false, 400, 60_000), settings()).await.unwrap();
    for invoked in attack(&bed, &plugin, "by hand", &json!({})).await {
        assert!(ran_out(&invoked), "{:?}", invoked.outcome);
    }
}
