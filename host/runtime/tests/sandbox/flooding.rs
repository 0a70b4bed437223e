//! Answers made to overwhelm whoever reads them, and requests made to overwhelm the host.

use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use http::Response;
use serde_json::{Value, json};
use taskforge_domain::{FailureKind, Outcome};
use taskforge_runtime::{CancellationToken, Invocation, RuntimeConfig};
use taskforge_testing::{guests, web::Server};

use crate::bed::{Bed, config, invocation, settings};

fn loopback() -> Value {
    json!({"http": {"hosts": ["*:*"], "private_networks": ["127.0.0.0/8"]}})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_with_ten_thousand_headers_is_an_error_and_no_more() {
    let bed = Bed::new().await;
    let plugin = bed.hostile(json!({ "grants": loopback() })).await;
    for (count, length) in [(10_000, 10), (1_001, 10), (90, 4000)] {
        let headers: String =
            (0..count).map(|n| format!("x-{n}: {}\r\n", "y".repeat(length))).collect();
        let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n{headers}\r\n");
        let server = Server::raw(answer).await;
        let input = json!({"attack": "http_get", "url": server.url("/")});
        let (failure, _) = bed.fails(&plugin, input).await;
        assert_eq!(failure.kind, FailureKind::Permanent, "{count}: {failure}");
        assert!(
            failure.message.contains("response headers are larger"),
            "{count} × {length}: {failure}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_decompression_bomb_costs_a_page_and_no_more() {
    let bed = Bed::new().await;
    // A gigabyte of blanks, compressed twice.
    let bomb = Bytes::from_static(include_bytes!("../fixtures/bomb.gz.gz"));
    let server = Server::answering(move |_| {
        Response::builder()
            .header("content-type", "text/html")
            .header("content-encoding", "gzip, gzip")
            .body(bomb.clone())
            .unwrap()
    })
    .await;
    let with =
        json!({"grants": loopback(), "limits": {"memory": "128 MiB", "fuel": 20_000_000_000_u64}});
    let plugin = bed.runtime.load(guests::bytes("scraper"), settings(with)).await.unwrap();
    let invoked = bed.run(&plugin, json!({"url": server.url("/")})).await;
    let Outcome::Completed(page) = &invoked.outcome else { panic!("{:?}", invoked.outcome) };
    assert_eq!(page.to_value()["truncated"], true, "{page:?}");
    assert!(invoked.usage.peak_memory < 64 << 20, "{:?}", invoked.usage);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_slow_requests_hold_up_nobody_else() {
    let outbox = tempfile::tempdir().unwrap();
    let config = RuntimeConfig { max_instances: 12, ..config(&outbox) };
    let bed = Bed::with(config, outbox).await;
    let server = Server::silent().await;
    let plugin = bed
        .hostile(json!({"grants": loopback(), "limits": {"deadline": "90s", "handles": 1000}}))
        .await;
    let slow =
        |count: u32| json!({"attack": "slow_requests", "url": server.url("/"), "count": count});

    // One attempt cannot hold as many: each answer that it waits for is a handle.
    bed.fails_as(FailureKind::HostCallLimit, &plugin, slow(1000)).await;
    // Ten of them make a thousand at once, and are called off when the neighbours have run beside
    // all of these.
    let (before, cancel) = (server.connections(), CancellationToken::new());
    let attempts = join_all((0..10).map(|_| {
        let invocation = Invocation { cancel: cancel.clone(), ..invocation(slow(100)) };
        bed.runtime.invoke(&plugin, invocation)
    }));
    let neighbours = async {
        let _end = cancel.clone().drop_guard();
        while server.connections() < before + 1000 {
            bed.neighbour_completes().await;
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        for _ in 0..20 {
            bed.neighbour_completes().await;
        }
    };
    let (attempts, neighbours) =
        tokio::join!(attempts, tokio::time::timeout(Duration::from_secs(60), neighbours));
    neighbours.expect("a thousand requests were under way at once");
    for invoked in attempts {
        assert_eq!(invoked.usage.http_requests, 100);
        assert!(
            matches!(&invoked.outcome, Outcome::Failed(failure) if failure.kind == FailureKind::Cancelled),
            "{:?}",
            invoked.outcome
        );
    }
}
