//! What one instance leaves in memory is never there for another.

use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::bed::{Bed, invocation, output};

const MARKER: u32 = 0x5eed_cafe;

fn fill() -> Value {
    json!({"attack": "fill_memory", "marker": MARKER, "bytes": 8 << 20})
}

fn scan() -> Value {
    json!({"attack": "scan_memory", "marker": MARKER, "bytes": 8 << 20})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_page_of_one_instance_is_seen_by_another() {
    let bed = Bed::new().await;
    let limits = json!({"limits": {"memory": "64 MiB"}});
    let (writer, reader) = (bed.hostile(limits.clone()).await, bed.hostile(limits).await);

    // The search finds what is there, in the part that is set back by hand and in the part that the
    // kernel takes back.
    let mut input = scan();
    input["after_filling"] = json!(true);
    let (said, _) = bed.completes(&writer, input).await;
    assert!(said["found"].as_u64().unwrap() >= 2, "{said}");

    // As many at once as there are slots, so that each slot is filled, and over again, so that each
    // is reused.
    for _ in 0..12 {
        let filled =
            join_all((0..8).map(|_| bed.runtime.invoke(&writer, invocation(fill())))).await;
        for invoked in &filled {
            assert!(output(invoked)["filled"].as_u64().unwrap() > 8 << 20);
        }
        let scanned =
            join_all((0..8).map(|_| bed.runtime.invoke(&reader, invocation(scan())))).await;
        for invoked in &scanned {
            let said = output(invoked);
            assert_eq!(said["found"], 0, "{said}");
            assert!(said["scanned"].as_u64().unwrap() > 8 << 20, "{said}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nor_by_another_component() {
    let bed = Bed::new().await;
    let writer = bed.hostile(json!({})).await;
    for _ in 0..4 {
        join_all((0..8).map(|_| bed.runtime.invoke(&writer, invocation(fill())))).await;
        // Its own instances take the slots of the others' memories.
        for _ in 0..8 {
            bed.neighbour_completes().await;
        }
        let (said, _) = bed.completes(&writer, scan()).await;
        assert_eq!(said["found"], 0, "{said}");
    }
}
