//! What a handler may do, and what it sees.

use std::time::Duration;

use serde_json::json;
use taskforge_domain::{FailureKind, LogLevel, Outcome, Progress, Timestamp};

use crate::bed::{Bed, invocation, output, recorder};

#[tokio::test]
async fn usage_is_reported_for_every_attempt() {
    let bed = Bed::new().await;
    let plugin = bed.hostile(json!({})).await;
    let (_, invoked) = bed.completes(&plugin, json!({"attack": "busy", "rounds": 10_000})).await;
    let usage = invoked.usage;
    assert!(
        usage.fuel > 10_000 && usage.peak_memory >= 1 << 16 && usage.wall_micros > 0,
        "{usage:?}"
    );
    assert_eq!((usage.http_requests, usage.http_bytes), (0, 0));
    // The same work costs the same fuel.
    let (_, again) = bed.completes(&plugin, json!({"attack": "busy", "rounds": 10_000})).await;
    assert_eq!(again.usage.fuel, usage.fuel);
}

#[tokio::test]
async fn a_handler_knows_its_task_and_its_deadline() {
    let bed = Bed::new().await;
    let plugin = bed.hostile(json!({"limits": {"deadline": "20s"}})).await;
    let mut invocation = invocation(json!({"attack": "task_info"}));
    (invocation.attempt, invocation.max_attempts) = (2, 5);
    let task = invocation.task;
    let before = Timestamp::now().as_millisecond();
    let said = output(&bed.runtime.invoke(&plugin, invocation).await);
    assert_eq!(said["id"], task.to_string());
    assert_eq!((&said["attempt"], &said["max_attempts"]), (&json!(2), &json!(5)));
    let left = said["deadline_ms"].as_i64().unwrap() - before;
    assert!((20_000..25_000).contains(&left), "{left} ms");
}

#[tokio::test]
async fn a_handlers_own_failure_comes_back_as_it_was_said() {
    let bed = Bed::new().await;
    let plugin = bed.hostile(json!({})).await;
    let fail = async |input| bed.fails(&plugin, input).await.0;

    let failure = fail(json!({"attack": "fail", "permanent": true, "message": "bad input"})).await;
    assert_eq!((failure.kind, failure.message.as_str()), (FailureKind::Permanent, "bad input"));
    let failure = fail(json!({"attack": "fail"})).await;
    assert_eq!((failure.kind, failure.retry_after), (FailureKind::Retryable, None));
    let failure = fail(json!({"attack": "fail", "retry_after_ms": 1500})).await;
    assert_eq!(failure.retry_after, Some(Duration::from_millis(1500)));
}

#[tokio::test]
async fn what_a_handler_prints_and_logs_becomes_its_log() {
    let bed = Bed::new().await;
    let plugin = bed.hostile(json!({})).await;
    let (reports, progress) = recorder();
    let mut invocation = invocation(json!({"attack": "chatty"}));
    invocation.progress = Some(progress);
    let invoked = bed.runtime.invoke(&plugin, invocation).await;
    output(&invoked);

    let has = |level, text: &str| {
        let found =
            invoked.logs.iter().any(|line| line.level == level && line.message.contains(text));
        assert!(found, "{level:?} {text:?} is missing in {:#?}", invoked.logs);
    };
    has(LogLevel::Trace, "trace");
    has(LogLevel::Debug, "debug");
    has(LogLevel::Info, "info");
    has(LogLevel::Warn, "warn");
    has(LogLevel::Error, "error");
    has(LogLevel::Critical, "critical");
    has(LogLevel::Info, "stdout");
    has(LogLevel::Warn, "stderr");
    assert!(invoked.logs.is_sorted_by_key(|line| line.at));
    let reports = reports.lock().unwrap();
    assert_eq!(reports[0], Progress { fraction: 0.25, note: Some("a quarter".to_owned()) });
    assert_eq!(reports.last().unwrap().fraction, 1.0);
}

#[tokio::test]
async fn a_handler_sees_no_environment_no_arguments_and_no_files() {
    let bed = Bed::new().await;
    let plugin = bed.hostile(json!({})).await;
    let (seen, _) = bed.completes(&plugin, json!({"attack": "environment"})).await;
    assert_eq!(seen["variables"], json!([]));
    assert_eq!(seen["arguments"], json!([]));
    assert_eq!(seen["stdin"], json!({"Ok": 0}));
    assert!(seen["root"]["Err"].is_string(), "{seen}");
    bed.fails_as(
        FailureKind::Permanent,
        &plugin,
        json!({"attack": "read_file", "path": "/etc/passwd"}),
    )
    .await;
}

#[tokio::test]
async fn a_raw_socket_is_refused_with_a_word_about_what_to_do() {
    let bed = Bed::new().await;
    let plugin = bed
        .hostile(
            json!({"grants": {"http": {"hosts": ["*:*"], "private_networks": ["127.0.0.0/8"]}}}),
        )
        .await;
    let input = json!({"attack": "connect", "address": "127.0.0.1:80"});
    let invoked = bed.fails_as(FailureKind::CapabilityDenied, &plugin, input).await;
    assert!(crate::bed::log(&invoked).contains("plugins have no sockets; use wasi:http"));
}

#[tokio::test]
async fn cancelling_before_the_start_runs_nothing() {
    let bed = Bed::new().await;
    let plugin = bed.hostile(json!({})).await;
    let invocation = invocation(json!({"attack": "ok"}));
    invocation.cancel.cancel();
    let invoked = bed.runtime.invoke(&plugin, invocation).await;
    assert!(
        matches!(invoked.outcome, Outcome::Failed(failure) if failure.kind == FailureKind::Cancelled)
    );
    assert_eq!(invoked.usage.fuel, 0);
}
