//! Outgoing HTTP: what is granted arrives, what is not does not leave.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use http::Response;
use serde_json::{Value, json};
use taskforge_domain::{FailureKind, TenantId};
use taskforge_runtime::{Invoked, Plugin, RuntimeConfig};
use taskforge_testing::web::{Server, closed_port};

use crate::bed::{Bed, config, invocation, log, output};

/// May ask anyone, and only public addresses.
fn anyone() -> Value {
    json!({"grants": {"http": {"hosts": ["*:*"]}}})
}

/// May ask anyone, loopback included.
fn anyone_and_loopback() -> Value {
    json!({"grants": {"http": {"hosts": ["*:*"], "private_networks": ["127.0.0.0/8", "::1/128"]}}})
}

fn get(url: &str) -> Value {
    json!({"attack": "http_get", "url": url})
}

async fn denied(bed: &Bed, plugin: &Plugin, input: Value) -> Invoked {
    bed.fails_as(FailureKind::CapabilityDenied, plugin, input).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_spelling_of_a_private_address_is_reached() {
    let bed = Bed::new().await;
    let server = Server::with_page("secret").await;
    let port = server.port();
    let plugin = bed.hostile(anyone()).await;
    for host in [
        "127.0.0.1",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "169.254.169.254",
        "2130706433",
        "127.1",
        "0x7f.0.0.1",
        "0177.0.0.1",
        "[::ffff:7f00:1]",
        "[64:ff9b::7f00:1]",
        "0.0.0.0",
        "10.0.0.1",
        // A name that resolves to a private address.
        "localhost",
        "LOCALHOST",
    ] {
        let invoked = denied(&bed, &plugin, get(&format!("http://{host}:{port}/"))).await;
        let log = log(&invoked);
        assert!(
            log.contains("is not a public address") && log.contains("http.private_networks"),
            "{host}: {log}"
        );
        assert_eq!(invoked.usage.http_requests, 1);
    }
    assert_eq!(server.connections(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_explains_a_failure_only_when_nothing_else_does() {
    let bed = Bed::new().await;
    let plugin = bed.hostile(json!({})).await;
    let denied = get("http://example.com/");
    let socket = json!({"attack": "connect", "address": "127.0.0.1:80"});
    for refused in [denied, socket] {
        let then = |last: Value| json!({"attack": "cope", "steps": [refused, last]});
        for (last, kind, said) in [
            (json!({"attack": "fail", "message": "busy"}), FailureKind::Retryable, "busy"),
            (
                json!({"attack": "fail", "message": "access denied by the ledger, later"}),
                FailureKind::Retryable,
                "access denied by the ledger, later",
            ),
            (
                json!({"attack": "fail", "permanent": true, "message": "no such account"}),
                FailureKind::Permanent,
                "no such account",
            ),
            (json!({"attack": "panic", "message": "seven"}), FailureKind::Trap, "seven"),
        ] {
            let (failure, _) = bed.fails(&plugin, then(last)).await;
            assert_eq!(failure.kind, kind, "{failure}");
            assert!(failure.message.contains(said), "{failure}");
            assert!(!failure.message.contains("refused"), "{failure}");
        }
        let wish = json!({"attack": "fail", "retry_after_ms": 1500});
        let (failure, _) = bed.fails(&plugin, then(wish)).await;
        assert_eq!(failure.retry_after, Some(Duration::from_millis(1500)));
        // Without a word, and with words about it.
        for last in [json!({"attack": "exit", "code": 1}), refused.clone()] {
            let (failure, _) = bed.fails(&plugin, then(last)).await;
            assert_eq!(failure.kind, FailureKind::CapabilityDenied, "{failure}");
        }
        bed.completes(&plugin, then(json!({"attack": "ok"}))).await;
    }
}

/// A program that aborts may do so because of a refusal; one that goes astray has a bug.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_explains_no_fault() {
    let bed = Bed::new().await;
    let plugin = bed.hostile(json!({"limits": {"memory": "32 MiB"}})).await;
    let (fetch, growth) =
        (get("http://example.com/"), json!({"attack": "allocate", "bytes": 64 << 20}));
    for (refused, fault, kind) in [
        (&fetch, "call_nothing", FailureKind::Trap),
        (&fetch, "read_nowhere", FailureKind::Trap),
        (&growth, "call_nothing", FailureKind::Trap),
        // Programs that do not look at what their allocator returned go there.
        (&growth, "read_nowhere", FailureKind::OutOfMemory),
    ] {
        let input = json!({"attack": "cope", "steps": [refused, {"attack": fault}]});
        let (failure, _) = bed.fails(&plugin, input).await;
        assert_eq!(failure.kind, kind, "{fault}: {failure}");
        assert!(!failure.message.contains("refused"), "{failure}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_that_is_not_granted_is_refused_and_the_log_names_the_grant() {
    let bed = Bed::new().await;
    let server = Server::with_page("secret").await;
    let grants = json!({"grants": {"http": {"hosts": ["example.com"], "private_networks": ["127.0.0.0/8"]}}});
    let plugin = bed.hostile(grants).await;
    let invoked = denied(&bed, &plugin, get(&server.url("/"))).await;
    let expected = format!("http.hosts = [\"{}\"]", server.address());
    assert!(log(&invoked).contains(&expected), "{}", log(&invoked));
    assert_eq!(server.connections(), 0);
}

/// The server would take the beginning of the next request on the connection for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_without_a_body_announces_none() {
    let bed = Bed::new().await;
    let server = Server::with_page("page").await;
    let plugin = bed.hostile(anyone_and_loopback()).await;
    let announcing = |lengths: &[&str]| {
        let headers: Vec<_> = lengths.iter().map(|length| ("content-length", length)).collect();
        json!({"attack": "http_get", "url": server.url("/"), "headers": headers})
    };
    for lengths in [&["40"][..], &["0", "40"], &["+0"], &["0, 40"]] {
        bed.fails(&plugin, announcing(lengths)).await;
    }
    assert_eq!(server.connections(), 0);
    bed.completes(&plugin, announcing(&["0"])).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redirect_is_checked_like_the_first_request() {
    let bed = Bed::new().await;
    let secret = Server::with_page("secret").await;
    let public = Server::redirecting_to(format!("http://localhost:{}/", secret.port())).await;
    let hosts = json!([public.address().to_string()]);
    let plugin = bed
        .hostile(json!({"grants": {"http": {"hosts": hosts, "private_networks": ["127.0.0.0/8"]}}}))
        .await;

    // The redirect itself reaches the guest, which decides.
    let (answer, _) = bed.completes(&plugin, get(&public.url("/"))).await;
    assert_eq!(answer["status"], 302);
    let follow = json!({"attack": "http_get", "url": public.url("/"), "follow": true});
    denied(&bed, &plugin, follow).await;
    assert_eq!(secret.connections(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redirect_to_a_private_address_is_refused() {
    let bed = Bed::new().await;
    // 127.0.0.1 stands for the public server: it alone is excepted from the guard.
    let plugin = bed
        .hostile(
            json!({"grants": {"http": {"hosts": ["*:*"], "private_networks": ["127.0.0.1/32"]}}}),
        )
        .await;
    for location in [
        "http://127.0.0.2/",
        "http://169.254.169.254/latest/",
        "http://[::1]/",
        "http://2130706434/",
    ] {
        let public = Server::redirecting_to(location.to_owned()).await;
        let input = json!({"attack": "http_get", "url": public.url("/"), "follow": true});
        let invoked = denied(&bed, &plugin, input).await;
        assert!(log(&invoked).contains("is not a public address"), "{location}: {}", log(&invoked));
        assert_eq!((public.connections(), invoked.usage.http_requests), (1, 2));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_granted_arrives_as_it_was_sent() {
    let bed = Bed::new().await;
    let seen = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&seen);
    let server = Server::answering(move |request| {
        sink.lock().unwrap().push(request);
        Response::new(Bytes::from_static(b"hello"))
    })
    .await;
    let plugin = bed.hostile(anyone_and_loopback()).await;
    let input =
        json!({"attack": "http_get", "url": server.url("/a?b=c"), "headers": [["x-mine", "1"]]});
    let (answer, invoked) = bed.completes(&plugin, input).await;
    assert_eq!((&answer["status"], &answer["bytes"]), (&json!(200), &json!(5)));
    assert_eq!((invoked.usage.http_requests, invoked.usage.http_bytes), (1, 5));

    let seen = seen.lock().unwrap();
    let request = &seen[0];
    assert_eq!(request.uri(), "/a?b=c");
    assert_eq!(request.headers()["host"], server.address().to_string());
    assert_eq!(request.headers()["x-mine"], "1");
    assert!(!request.headers().contains_key("transfer-encoding"), "{:?}", request.headers());
}

/// The SDK sends what it is given, and encodes what the host would not take.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_query_may_have_any_character() {
    let bed = Bed::new().await;
    let seen = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&seen);
    let server = Server::answering(move |request| {
        sink.lock().unwrap().push(request.uri().to_string());
        Response::new(Bytes::new())
    })
    .await;
    let plugin = bed.hostile(anyone_and_loopback()).await;
    let target = r#"/"a"?filter={"a":[1]}&b=<'^|\`> ü"#;
    let input = json!({"attack": "count_runs", "url": server.url(target)});
    bed.completes(&plugin, input).await;
    let sent = r#"/"a"?filter={%22a%22:[1]}&b=%3C'^|\%60%3E%20%C3%BC"#;
    assert_eq!(*seen.lock().unwrap(), [sent]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tricks_with_the_authority_do_not_move_the_request() {
    let bed = Bed::new().await;
    let server = Server::with_page("secret").await;
    let hosts = json!(["example.com", "*.example.com"]);
    let grants = json!({"http": {"hosts": hosts, "private_networks": ["127.0.0.0/8"]}});
    let plugin = bed.hostile(json!({ "grants": grants })).await;
    let address = server.address();
    for input in [
        json!({"attack": "http_get", "url": "http://example.com/", "authority": format!("example.com@{address}")}),
        json!({"attack": "http_get", "url": "http://example.com/", "path": server.url("/")}),
        json!({"attack": "http_get", "url": "http://example.com/", "authority": format!("{address}#.example.com")}),
        json!({"attack": "http_get", "url": "http://example.com/", "authority": format!("{address}\\.example.com")}),
        json!({"attack": "http_get", "url": "http://example.com/", "headers": [["host", address.to_string()]]}),
    ] {
        let (failure, _) = bed.fails(&plugin, input.clone()).await;
        let kinds = [FailureKind::CapabilityDenied, FailureKind::Permanent];
        assert!(kinds.contains(&failure.kind), "{input}: {failure}");
    }
    assert_eq!(server.connections(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_never_answers_is_ended_by_the_deadline() {
    let bed = Bed::new().await;
    let server = Server::silent().await;
    let mut grants = anyone_and_loopback();
    grants["limits"] = json!({"deadline": "300ms"});
    let plugin = bed.hostile(grants).await;
    let invoked = bed.fails_as(FailureKind::Deadline, &plugin, get(&server.url("/"))).await;
    assert!(invoked.usage.wall_micros < 5_000_000 && invoked.usage.fuel > 0, "{:?}", invoked.usage);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_sends_a_byte_a_second_is_ended_by_the_deadline() {
    let bed = Bed::new().await;
    let server = Server::dripping(Duration::from_secs(1)).await;
    let mut grants = anyone_and_loopback();
    grants["limits"] = json!({"deadline": "1500ms"});
    let plugin = bed.hostile(grants).await;
    let invoked = bed.fails_as(FailureKind::Deadline, &plugin, get(&server.url("/"))).await;
    assert!((1..=3).contains(&invoked.usage.http_bytes), "{:?}", invoked.usage);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_connection_and_a_missing_name_may_be_tried_again() {
    let bed = Bed::new().await;
    let plugin = bed.hostile(anyone_and_loopback()).await;
    let (failure, _) = bed.fails(&plugin, get(&format!("http://{}/", closed_port().await))).await;
    assert_eq!(failure.kind, FailureKind::Retryable);
    assert!(failure.message.contains("connection refused"), "{failure}");
    let (failure, _) = bed.fails(&plugin, get("http://no-such-name.invalid/")).await;
    assert_eq!(failure.kind, FailureKind::Retryable);
    assert!(failure.message.contains("does not resolve"), "{failure}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broken_answer_is_told_from_a_refused_one() {
    let bed = Bed::new().await;
    let plugin = bed.hostile(anyone_and_loopback()).await;
    let short = Server::raw("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nabc").await;
    let (failure, _) = bed.fails(&plugin, get(&short.url("/"))).await;
    assert!(
        failure.message.contains("incomplete") || failure.message.contains("broke"),
        "{failure}"
    );
    let not_http = Server::raw("SSH-2.0-OpenSSH_9.9\r\n").await;
    let (failure, _) = bed.fails(&plugin, get(&not_http.url("/"))).await;
    assert!(failure.message.contains("not HTTP"), "{failure}");
    let no_tls = Server::raw("HTTP/1.1 400 Bad Request\r\n\r\n").await;
    let url = format!("https://{}/", no_tls.address());
    let (failure, _) = bed.fails(&plugin, get(&url)).await;
    assert_eq!(failure.kind, FailureKind::Retryable, "{failure}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn responses_are_capped_in_number_and_bytes() {
    let bed = Bed::new().await;
    let server = Server::answering(|_| Response::new(Bytes::from(vec![b'x'; 100_000]))).await;
    let mut grants = anyone_and_loopback();
    grants["limits"] = json!({"http_requests": 3, "http_bytes": 250_000});
    let plugin = bed.hostile(grants).await;
    let times = |times: u32| json!({"attack": "http_get", "url": server.url("/"), "times": times});
    let (_, invoked) = bed.completes(&plugin, times(2)).await;
    assert_eq!((invoked.usage.http_requests, invoked.usage.http_bytes), (2, 200_000));

    let invoked = bed.fails_as(FailureKind::HostCallLimit, &plugin, times(3)).await;
    assert!(invoked.usage.http_bytes <= 250_000, "{:?}", invoked.usage);
    assert!(log(&invoked).contains("the limit is 250000 bytes"), "{}", log(&invoked));

    let small = Server::with_page("x").await;
    let input = json!({"attack": "http_get", "url": small.url("/"), "times": 4});
    // Its library takes that for a server that has too many, asks for another attempt, and gets it.
    let invoked = bed.fails_as(FailureKind::Retryable, &plugin, input).await;
    assert!(log(&invoked).contains("the limit is 3 requests"), "{}", log(&invoked));
    assert_eq!(small.connections().min(1), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_are_kept_for_the_tenant_that_made_them() {
    let bed = Bed::new().await;
    let server = Server::with_page("x").await;
    let plugin = bed.hostile(anyone_and_loopback()).await;
    let ask = async |tenant: &str| {
        let mut invocation = invocation(get(&server.url("/")));
        invocation.tenant = TenantId::new(tenant).unwrap();
        output(&bed.runtime.invoke(&plugin, invocation).await);
    };
    ask("one").await;
    ask("one").await;
    assert_eq!(server.connections(), 1, "the second request of a tenant reuses its connection");
    ask("two").await;
    assert_eq!(server.connections(), 2, "another tenant makes its own");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_may_be_granted_for_some_methods_only() {
    let bed = Bed::new().await;
    let server = Server::with_page("x").await;
    let grant = async |methods: Value| {
        let host = json!({"host": server.address().to_string(), "methods": methods});
        bed.hostile(
            json!({"grants": {"http": {"hosts": [host], "private_networks": ["127.0.0.0/8"]}}}),
        )
        .await
    };
    let poster = grant(json!(["POST"])).await;
    let invoked = denied(&bed, &poster, get(&server.url("/"))).await;
    let expected = format!(
        r#"grant it with `http.hosts = [{{ host = "{}", methods = ["GET"] }}]`"#,
        server.address()
    );
    assert!(log(&invoked).contains(&expected), "{}", log(&invoked));
    assert_eq!(server.connections(), 0);
    let getter = grant(json!(["POST", "GET"])).await;
    bed.completes(&getter, get(&server.url("/"))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn this_hosts_exceptions_hold_for_every_plugin_that_may_ask_there() {
    let outbox = tempfile::tempdir().unwrap();
    let config =
        RuntimeConfig { allow_private: vec!["127.0.0.1/32".parse().unwrap()], ..config(&outbox) };
    let bed = Bed::with(config, outbox).await;
    let server = Server::with_page("x").await;
    let plugin = bed.hostile(anyone()).await;
    bed.completes(&plugin, get(&server.url("/"))).await;
    let elsewhere = format!("http://127.0.0.2:{}/", server.port());
    denied(&bed, &plugin, get(&elsewhere)).await;
    let without = bed.hostile(json!({})).await;
    denied(&bed, &without, get(&server.url("/"))).await;
    assert_eq!(server.connections(), 1);
}
