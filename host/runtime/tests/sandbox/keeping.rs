//! Configuration, secrets, and values that outlive an attempt.

use serde_json::{Value, json};
use taskforge_domain::{FailureKind, Outcome, TenantId};
use taskforge_runtime::{Plugin, RuntimeConfig};
use taskforge_testing::guests;

use crate::bed::{Bed, config, invocation, log, output};

fn read(name: &str) -> Value {
    json!({"attack": "config", "key": name})
}

fn keep(steps: &Value) -> Value {
    json!({"attack": "key_value", "bucket": "b", "steps": steps})
}

fn granted() -> Value {
    json!({"grants": {"keyvalue": true}})
}

async fn kept_for(bed: &Bed, plugin: &Plugin, tenant: &str, steps: Value) -> Value {
    let mut invocation = invocation(keep(&steps));
    invocation.tenant = TenantId::new(tenant).unwrap();
    output(&bed.runtime.invoke(plugin, invocation).await)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plugin_reads_its_configuration_and_the_secrets_that_it_was_handed() {
    let bed = Bed::new().await;
    let with = json!({"config": {"url": "https://example.com", "both": "configured"}});
    let secrets = [("key", "hunter2"), ("both", "sealed")];
    let plugin = bed.registered("hostile", with, &secrets).await;
    // The handler's own output is the only place where a secret may be.
    assert_eq!(bed.completes(&plugin, read("url")).await.0, "https://example.com");
    assert_eq!(bed.completes(&plugin, read("key")).await.0, "hunter2");
    assert_eq!(bed.completes(&plugin, read("both")).await.0, "sealed");
    assert_eq!(bed.completes(&plugin, read("missing")).await.0, Value::Null);
    let (all, invoked) = bed.completes(&plugin, json!({"attack": "config"})).await;
    assert_eq!(
        all,
        json!([["both", "sealed"], ["key", "hunter2"], ["url", "https://example.com"]])
    );
    assert!(invoked.usage.host_calls >= 1);

    let shown =
        format!("{plugin:?} {} {}", serde_json::to_string(plugin.info()).unwrap(), log(&invoked));
    assert!(!shown.contains("hunter2") && !shown.contains("sealed"), "{shown}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reading_configuration_counts_as_calls() {
    let bed = Bed::new().await;
    let plugin = bed.hostile(json!({"config": {"a": "1"}})).await;
    let (_, without) = bed.completes(&plugin, json!({"attack": "ok"})).await;
    let (_, with) = bed.completes(&plugin, read("a")).await;
    assert_eq!(with.usage.host_calls, without.usage.host_calls + 1);
}

#[tokio::test]
async fn configuration_is_there_under_its_older_names() {
    let bed = Bed::new().await;
    let plugin = bed.wat("old_config", json!({})).await;
    assert_eq!(plugin.info().imports.len(), 3);
    assert_eq!(bed.completes(&plugin, json!({})).await.0, json!({"ok": true}));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keeping_values_needs_its_grant() {
    let bed = Bed::new().await;
    let plugin = bed.hostile(json!({})).await;
    let invoked = bed.fails_as(FailureKind::CapabilityDenied, &plugin, keep(&json!([]))).await;
    assert!(
        log(&invoked).contains("grant it with `keyvalue = true` under [grants]"),
        "{}",
        log(&invoked)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_without_values_says_so() {
    let outbox = tempfile::tempdir().unwrap();
    let config = RuntimeConfig { key_value: None, ..config(&outbox) };
    let bed = Bed::with(config, outbox).await;
    let plugin = bed.hostile(granted()).await;
    let (failure, _) = bed.fails(&plugin, keep(&json!([]))).await;
    assert_eq!(failure.kind, FailureKind::Permanent);
    assert!(failure.message.contains("no key-value store"), "{failure}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_attempt_keeps_the_next_one_finds() {
    let bed = Bed::new().await;
    let plugin = bed.hostile(granted()).await;
    let steps = json!([
        {"do": "get", "key": "a"},
        {"do": "set", "key": "a", "value": "grüße"},
        {"do": "increment", "key": "n", "delta": 40},
        {"do": "exists", "key": "a"},
    ]);
    let (said, _) = bed.completes(&plugin, keep(&steps)).await;
    assert_eq!(said, json!([null, true, 40, true]));
    let steps = json!([
        {"do": "get", "key": "a"},
        {"do": "increment", "key": "n", "delta": 2},
        {"do": "keys"},
        {"do": "delete", "key": "a"},
        {"do": "exists", "key": "a"},
        {"do": "get", "key": "n"},
        {"do": "set", "key": "n", "value": "-5"},
        {"do": "increment", "key": "n", "delta": 1},
    ]);
    let (said, _) = bed.completes(&plugin, keep(&steps)).await;
    let error = &said[7]["error"];
    assert_eq!(said, json!(["grüße", 42, ["a", "n"], true, false, "42", true, {"error": error}]));
    assert!(error.as_str().unwrap().contains("less than 0"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenant_never_sees_anothers_values() {
    let bed = Bed::new().await;
    let plugin = bed.hostile(granted()).await;
    let set = json!([{"do": "set", "key": "secret", "value": "of one"}]);
    kept_for(&bed, &plugin, "one", set).await;
    let look = json!([{"do": "get", "key": "secret"}, {"do": "keys"}, {"do": "increment", "key": "secret", "delta": 1}]);
    let said = kept_for(&bed, &plugin, "two", look).await;
    assert_eq!(said, json!([null, [], 1]));
    let look = json!([{"do": "get", "key": "secret"}]);
    assert_eq!(kept_for(&bed, &plugin, "one", look).await, json!(["of one"]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_come_in_pages_whose_cursors_are_good_for_the_attempt() {
    let bed = Bed::new().await;
    let quota = json!({"grants": {"keyvalue": {"bytes": "1 MiB", "keys": 5000}}});
    let plugin = bed.hostile(quota).await;
    let steps = json!([
        {"do": "set_many", "count": 1000, "bytes": 1},
        {"do": "set", "key": "last", "value": ""},
        {"do": "page", "cursor": null},
        {"do": "page", "cursor": 1},
        {"do": "page", "cursor": 0},
        {"do": "page", "cursor": u64::MAX},
        {"do": "get_many", "count": 1000},
        {"do": "delete_many", "count": 1000},
        {"do": "page", "cursor": 1},
        {"do": "keys"},
    ]);
    let (said, _) = bed.completes(&plugin, keep(&steps)).await;
    assert_eq!(said[2], json!({"keys": 1000, "last": "0999", "cursor": 1}));
    assert_eq!(said[3], json!({"keys": 1, "last": "last", "cursor": null}));
    for unknown in [&said[4], &said[5]] {
        assert!(unknown["error"].as_str().unwrap().contains("cursor is not known"), "{unknown}");
    }
    assert_eq!(said[6], json!(1000));
    // A place outlives the key that it was named by.
    assert_eq!(said[8], json!({"keys": 1, "last": "last", "cursor": null}));
    assert_eq!(said[9], json!(["last"]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_keys_values_and_batches_have_bounds() {
    let bed = Bed::new().await;
    let quota = json!({"grants": {"keyvalue": {"bytes": "100 MiB", "keys": 5000}}});
    let plugin = bed.hostile(quota).await;
    let steps = json!([
        {"do": "set_huge", "key": 1024, "value": 1 << 20},
        {"do": "set_huge", "key": 1025, "value": 1},
        {"do": "set_huge", "key": 1, "value": (1 << 20) + 1},
        {"do": "set", "key": "", "value": ""},
        {"do": "get_many", "count": 1001},
        {"do": "increment", "key": "n", "delta": u64::MAX},
    ]);
    let (said, _) = bed.completes(&plugin, keep(&steps)).await;
    assert_eq!(said[0], json!(true));
    for (index, word) in [
        (1, "limit is 1024"),
        (2, "limit is 1048576"),
        (3, "empty"),
        (4, "limit is 1000"),
        (5, "added at once"),
    ] {
        let error = said[index]["error"].as_str().unwrap();
        assert!(error.contains(word), "{index}: {error}");
    }
    // What one batch brings back has a bound as well.
    for start in 0..6 {
        let steps = json!([{"do": "set_many", "count": 1, "bytes": 1 << 20}]);
        let input = json!({"attack": "key_value", "bucket": format!("x{start}"), "steps": steps});
        bed.completes(&plugin, input).await;
    }
    let steps: Vec<_> = (0..10)
        .map(|n| json!({"do": "set", "key": format!("{n:04}"), "value": "x".repeat(600_000)}))
        .collect();
    bed.completes(&plugin, keep(&json!(steps))).await;
    let (said, _) = bed.completes(&plugin, keep(&json!([{"do": "get_many", "count": 10}]))).await;
    assert!(said[0]["error"].as_str().unwrap().contains("the batch found"), "{said}");

    let input = json!({"attack": "key_value", "bucket": "b".repeat(256), "steps": []});
    let (failure, _) = bed.fails(&plugin, input).await;
    assert!(failure.message.contains("limit is 255"), "{failure}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_quota_is_the_operators() {
    let bed = Bed::new().await;
    let plugin = bed.hostile(json!({"grants": {"keyvalue": {"bytes": 100, "keys": 2}}})).await;
    let steps = json!([
        {"do": "set_huge", "key": 1, "value": 99},
        {"do": "set", "key": "a", "value": ""},
        {"do": "delete", "key": "k"},
        {"do": "set_many", "count": 3, "bytes": 1},
        {"do": "keys"},
    ]);
    let (said, _) = bed.completes(&plugin, keep(&steps)).await;
    assert_eq!(said[0], json!(true));
    assert!(said[1]["error"].as_str().unwrap().contains("quota is 100"), "{said}");
    assert!(said[3]["error"].as_str().unwrap().contains("quota is 2"), "{said}");
    assert_eq!(said[4], json!([]));
}

/// A handler that imports the second draft.
async fn keeper(bed: &Bed, grants: Value) -> std::sync::Arc<Plugin> {
    bed.shaped(guests::bytes("keeper"), json!({ "grants": grants })).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn values_are_kept_under_the_second_draft_too() {
    let bed = Bed::new().await;
    let plugin = keeper(&bed, json!({"keyvalue": true})).await;
    let steps = json!([
        {"do": "get", "key": "a"},
        {"do": "set", "key": "a", "value": "grüße"},
        {"do": "exists", "key": "a"},
        {"do": "increment", "key": "n", "delta": -40},
        {"do": "increment", "key": "n", "delta": 2},
        {"do": "increment", "key": "a", "delta": 2},
        {"do": "set_many", "keys": ["b", "c"], "value": "v"},
        {"do": "get_many", "keys": ["a", "none", "c"]},
        {"do": "delete_many", "keys": ["b", "none"]},
        {"do": "delete", "key": "c"},
        {"do": "keys"},
        {"do": "keys", "cursor": "a"},
        {"do": "get", "key": ""},
        {"do": "keys", "cursor": "k".repeat(2000)},
    ]);
    let (said, _) = bed.completes(&plugin, steps).await;
    let error = |n: usize| said[n]["error"].as_str().unwrap_or_default();
    assert!(
        error(5).contains("no number")
            && error(12).contains("empty")
            && error(13).contains("cursor"),
        "{said}"
    );
    assert_eq!(
        said.as_array().unwrap()[..5],
        [json!(null), json!(null), json!(true), json!(-40), json!(-38)]
    );
    assert_eq!(said[7], json!([["a", "grüße"], ["none", null], ["c", "v"]]));
    assert_eq!(said[10], json!({"keys": ["a", "n"], "cursor": null}));
    assert_eq!(said[11], json!({"keys": ["n"], "cursor": null}));
    let (said, _) = bed.completes(&plugin, json!([{"do": "get", "key": "n"}])).await;
    assert_eq!(said, json!(["-38"]), "the next attempt finds it");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_value_is_swapped_only_if_nobody_changed_it() {
    let bed = Bed::new().await;
    let plugin = keeper(&bed, json!({"keyvalue": {"bytes": 100, "keys": 2}})).await;
    let steps = json!([
        {"do": "swap", "key": "a", "value": "1"},
        {"do": "swap", "key": "a", "value": "2", "meanwhile": "other"},
        {"do": "get", "key": "a"},
        {"do": "swap", "key": "a", "value": "v".repeat(100)},
        {"do": "swap", "key": "", "value": "1"},
        {"do": "hold", "key": "a", "handles": 900},
        {"do": "get", "key": "a"},
    ]);
    let (said, _) = bed.completes(&plugin, steps).await;
    assert_eq!(said[0], json!([null, true]));
    assert_eq!(said[1], json!(["1", false, "other", true]));
    assert_eq!(said[2], "2");
    let error = |n: usize| said[n]["error"].as_str().unwrap_or_default();
    assert!(error(3).contains("quota") && error(4).contains("empty"), "{said}");
    assert_eq!((&said[5], &said[6]), (&json!(900), &json!("2")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_second_draft_needs_the_same_grant() {
    let bed = Bed::new().await;
    let plugin = keeper(&bed, json!({})).await;
    let invoked = bed.fails_as(FailureKind::CapabilityDenied, &plugin, json!([])).await;
    assert!(log(&invoked).contains("grant it with `keyvalue = true`"), "{}", log(&invoked));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenant_never_sees_what_another_has_sent_or_said() {
    let bed = Bed::new().await;
    let granted = json!({"grants": {"mail": true, "http": {"hosts": ["*:*"]}, "keyvalue": true}});
    let plugin = bed.hostile(granted).await;
    let run = async |tenant: &str, input: Value| {
        let mut invocation = invocation(input);
        invocation.tenant = TenantId::new(tenant).unwrap();
        bed.runtime.invoke(&plugin, invocation).await
    };
    let letter = json!({"attack": "mail", "to": ["a@example.com"], "subject": "ours", "text": "a secret of tenant a"});
    let sent = run("a", letter).await;
    let receipt = output(&sent).to_string();
    run("a", json!({"attack": "log_flood", "lines": 3, "bytes": 20})).await;
    let letters = || {
        let files = std::fs::read_dir(bed.outbox.path()).unwrap();
        let mut files: Vec<_> = files.map(|file| file.unwrap().path()).collect();
        files.sort();
        files
    };
    let before = letters();
    assert_eq!(before.len(), 1);
    let written = std::fs::read_to_string(&before[0]).unwrap();
    assert!(written.contains("a secret of tenant a"));

    let (folder, file) = (bed.outbox.path().display().to_string(), before[0].display().to_string());
    for path in [
        file.clone(),
        format!("./{file}"),
        format!("../../../../../..{file}"),
        format!("//proc/self/root{file}"),
        format!("/proc/self/cwd/{file}"),
        format!("file://{file}"),
        folder,
        "/".to_owned(),
        ".".to_owned(),
    ] {
        let tried = run("b", json!({"attack": "read_file", "path": path})).await;
        assert!(matches!(tried.outcome, Outcome::Failed(_)), "{path}: {tried:?}");
        assert!(!format!("{tried:?}").contains("a secret"), "{path}");
    }
    let by_http = run("b", json!({"attack": "http_get", "url": format!("file://{file}")})).await;
    assert!(matches!(by_http.outcome, Outcome::Failed(_)), "{by_http:?}");
    let seen = run("b", json!({"attack": "environment"})).await;
    let seen = format!("{:?} {:?}", output(&seen), seen.logs);
    assert!(!seen.contains("a secret") && !seen.contains(&receipt), "{seen}");
    // Nor does it overwrite it: its own letter is another file.
    let own = json!({"attack": "mail", "to": ["b@example.com"], "subject": "ours", "text": "of tenant b"});
    output(&run("b", own).await);
    assert_eq!(letters().len(), 2);
    assert_eq!(std::fs::read_to_string(&before[0]).unwrap(), written);
}
