//! Between two points at which an attempt can be stopped it computes for at most 10 ms, whatever it
//! calls, and it is over 100 ms after its deadline.
//!
//! What counts is processor time: on a busy machine an attempt also waits for its turn, which is no
//! fault of what it calls.

mod attack;
mod instructions;

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use futures_util::{StreamExt as _, stream};
use serde_json::{Value, json};
use taskforge_domain::{FailureKind, Outcome};
use taskforge_runtime::{Invoked, Plugin};

use self::attack::{Arguments, HostFunction, Offer};
use crate::bed::{Bed, invocation};

/// The promise.
const LONGEST: Duration = Duration::from_millis(10);
const LATE: Duration = Duration::from_millis(100);

/// How much later an attempt may be over because the machine does other things meanwhile.
const BUSY: Duration = Duration::from_secs(10);

const DEADLINE: Duration = Duration::from_millis(200);

/// Resources that no function gives to a command: there are no folders, and no task comes in by
/// HTTP. A call without a handle is a trap before the host does anything.
const OUT_OF_REACH: [&str; 6] = [
    "descriptor",
    "directory-entry-stream",
    "error",
    "incoming-request",
    "response-outparam",
    "datagram-stream",
];

/// Resources that a function would give, but does not in a sandbox: no socket is granted, nothing
/// is a terminal, and nobody answers.
const REFUSED: [&str; 10] = [
    "future-incoming-response",
    "future-trailers",
    "incoming-body",
    "incoming-response",
    "outgoing-body",
    "resolve-address-stream",
    "tcp-socket",
    "terminal-input",
    "terminal-output",
    "udp-socket",
];

fn limits() -> Value {
    json!({
        "memory": "256 MiB", "fuel": u64::MAX >> 2, "host_calls": 1_000_000_000_u64,
        "deadline": format!("{}ms", DEADLINE.as_millis()),
    })
}

fn with() -> Value {
    json!({
        "limits": limits(),
        "grants": {
            "mail": true,
            "keyvalue": {"bytes": "1 GiB", "keys": 1_000_000},
            "http": {"hosts": ["*:*"], "private_networks": ["127.0.0.0/8"]},
        },
    })
}

/// The folder of a package that the host is built from.
fn package(name: &str) -> PathBuf {
    let listed = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version=1", "--locked", "--offline"])
        .args(["--filter-platform", "x86_64-unknown-linux-gnu"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(listed.status.success(), "{}", String::from_utf8_lossy(&listed.stderr));
    let listed: Value = serde_json::from_slice(&listed.stdout).unwrap();
    let package = listed["packages"]
        .as_array()
        .unwrap()
        .iter()
        .find(|package| package["name"] == name)
        .unwrap();
    let manifest = package["manifest_path"].as_str().unwrap();
    Path::new(manifest).parent().unwrap().to_path_buf()
}

/// What the linker offers: the WIT that its bindings are made from.
fn offer() -> Offer {
    let wasi = package("wasmtime-wasi-http").join("wit");
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let exported = ["taskforge:plugin/handler", "wasi:http/incoming-handler", "wasi:cli/run"];
    Offer::new(&[&wasi, &here.join("../../wit"), &here.join("wit")], &exported)
}

/// The sizes at which one call comes near what it may carry, or a bound of one host function.
const SIZES: [u32; 5] = [4 << 20, 2 << 20, 1 << 20, 256 << 10, 60 << 10];

fn variants(offer: &Offer, function: &HostFunction) -> Vec<Arguments> {
    let of = |size, short, character| Arguments { character, short, size };
    if !offer.is_sized(function) {
        return vec![of(2, false, b'a')];
    }
    // Some bytes less, for what else a call carries.
    SIZES
        .into_iter()
        .map(|size| size - 256)
        .flat_map(|size| [of(size, false, b'\n'), of(size, true, b'a')])
        .collect()
}

/// What one attempt took beyond the promise, in a sentence.
fn broken(name: &str, invoked: &Invoked) -> Option<String> {
    let (longest, computed) = (invoked.effort.longest, invoked.effort.computed);
    let wall = Duration::from_micros(invoked.usage.wall_micros);
    let ending = match &invoked.outcome {
        Outcome::Completed(_) => "completed".to_owned(),
        Outcome::Failed(failure) => failure.to_string(),
    };
    let late = computed > DEADLINE + LATE || wall > DEADLINE + LATE + BUSY;
    let misjudged = match &invoked.outcome {
        Outcome::Completed(_) => false,
        Outcome::Failed(failure) => matches!(
            failure.kind,
            FailureKind::Internal | FailureKind::OutputTooLarge | FailureKind::InvalidOutput
        ),
    };
    (longest > LONGEST || late || misjudged).then(|| {
        format!("{name}: {longest:?} at once, {computed:?} in all, {wall:?} on the clock; {ending}")
    })
}

/// One attempt. Again if it took too long, for the machine itself may have stood still for a
/// moment, which looks like work that does not come back.
async fn best(bed: &Bed, plugin: &Plugin, input: Value) -> Invoked {
    let mut best = bed.runtime.invoke(plugin, invocation(input.clone())).await;
    for _ in 0..2 {
        if best.effort.longest <= LONGEST {
            break;
        }
        let again = bed.runtime.invoke(plugin, invocation(input.clone())).await;
        if again.effort.longest < best.effort.longest {
            best = again;
        }
    }
    best
}

/// Whether the component did not get the handles that it needs.
fn is_unreachable(invoked: &Invoked) -> bool {
    matches!(&invoked.outcome, Outcome::Failed(failure) if failure.message.contains("`unreachable`"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_host_function_holds_a_thread() {
    let bed = Bed::new().await;
    let offer = offer();
    assert!(offer.functions.len() > 150, "{}", offer.functions.len());
    let mut attacks = Vec::new();
    let mut out_of_reach = Vec::new();
    for function in &offer.functions {
        let name = offer.full_name(function);
        for arguments in variants(&offer, function) {
            match offer.component(function, arguments) {
                Some(component) => attacks.push((format!("{name} {arguments:?}"), component)),
                None => {
                    out_of_reach.push(name);
                    break;
                }
            }
        }
    }
    println!("{} attacks; out of reach: {out_of_reach:#?}", attacks.len());
    let runs = attacks.into_iter().map(|(name, component)| {
        let bed = &bed;
        async move {
            let plugin = bed.shaped(component, with()).await;
            (name, best(bed, &plugin, json!(null)).await)
        }
    });
    let mut ended: Vec<_> = stream::iter(runs).buffer_unordered(2).collect().await;
    ended.sort_by_key(|(_, invoked)| std::cmp::Reverse(invoked.effort.longest));
    for (name, invoked) in ended.iter().take(25) {
        println!("{:?} {name} {:?}", invoked.effort, invoked.outcome);
    }
    for name in &out_of_reach {
        let known = OUT_OF_REACH.iter().any(|resource| name.contains(resource));
        assert!(known, "no function gives what {name} needs");
    }
    for (name, invoked) in &ended {
        let refused = REFUSED.iter().any(|resource| name.contains(resource));
        assert!(refused || !is_unreachable(invoked), "{name} was never called");
    }
    let broken: Vec<_> = ended.iter().filter_map(|(name, invoked)| broken(name, invoked)).collect();
    assert!(broken.is_empty(), "{} broke it: {broken:#?}", broken.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_output_holds_a_thread() {
    let bed = Bed::new().await;
    let most = 16 << 20;
    let limits = json!({"output": most, "memory": "512 MiB"});
    let plugin = bed.hostile(json!({"limits": limits})).await;
    let input = json!({"attack": "huge_output", "bytes": most - 2});
    let invoked = best(&bed, &plugin, input).await;
    println!("{:?}", invoked.effort);
    assert!(matches!(&invoked.outcome, Outcome::Completed(_)), "{:?}", invoked.outcome);
    assert!(invoked.effort.longest <= LONGEST, "{:?}", invoked.effort);
}
