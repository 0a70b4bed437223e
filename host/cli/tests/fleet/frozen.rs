//! A database that hangs.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::{bed::Bed, node::Node};

/// What an ending may take beyond its grace period, as `signals` says, and what a busy machine
/// adds.
const CLOSING: Duration = Duration::from_secs(5);
const MARGIN: Duration = Duration::from_secs(60);

async fn ends_within(mut node: Node, grace: Duration) {
    let asked = Instant::now();
    node.signal("TERM");
    node.wait_for_exit().await;
    let took = asked.elapsed();
    assert!(took < grace + CLOSING + MARGIN, "it took {took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_hangs_keeps_no_process_alive() {
    let bed = Bed::without_redis();
    let grace = Duration::from_secs(2);
    let api = Node::start(bed.api_command().args(["--shutdown-grace", "2s"]));
    let worker = bed.start_worker(&["--drain-grace", "2s"]);
    let task = bed.submit("hostile", json!({ "attack": "sleep", "ms": 30_000 })).await;
    bed.reaches(&task, "running").await;
    bed.postgres.freeze();
    // A request is under way, and an attempt whose end cannot be stored.
    let hanging = tokio::spawn({
        let (http, url) = (bed.http.clone(), bed.url("/tasks"));
        async move { http.get(url).bearer_auth(crate::bed::KEY).send().await }
    });
    tokio::join!(ends_within(api, grace), ends_within(worker, grace));
    hanging.abort();
    bed.postgres.thaw();
}
