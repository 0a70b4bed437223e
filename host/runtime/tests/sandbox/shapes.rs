//! Handlers of other shapes: WASI commands and web servers, under the limits that every handler
//! has.

use std::{sync::Arc, time::Duration};

use serde_json::{Value, json};
use taskforge_domain::{FailureKind, LogLevel, Outcome};
use taskforge_runtime::Plugin;
use taskforge_testing::guests;

use crate::bed::{Bed, invocation, log, output};

async fn command(bed: &Bed, with: Value) -> Arc<Plugin> {
    bed.shaped(guests::bytes("command"), with).await
}

async fn web(bed: &Bed, with: Value) -> Arc<Plugin> {
    bed.shaped(guests::bytes("web"), with).await
}

async fn careless(bed: &Bed, with: Value) -> Arc<Plugin> {
    bed.shaped(guests::bytes("careless"), with).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_reads_the_input_and_writes_the_output() {
    let bed = Bed::new().await;
    let plugin = command(&bed, json!({})).await;
    assert_eq!(plugin.info().shape.as_str(), "command");
    let invocation = invocation(json!({"do": "echo", "value": "grüße"}));
    let (task, input) = (invocation.task.to_string(), invocation.input.as_str().to_owned());
    let invoked = bed.runtime.invoke(&plugin, invocation).await;
    let said = output(&invoked);
    assert_eq!((&said["value"], &said["input"]), (&json!("grüße"), &json!(input)));
    assert_eq!(said["arguments"], json!(["shaped"]));
    let variables = said["variables"].as_object().unwrap();
    assert_eq!(variables["TASKFORGE_TASK_ID"], task);
    assert_eq!(variables["TASKFORGE_ATTEMPT"], "1");
    assert_eq!(variables["TASKFORGE_MAX_ATTEMPTS"], "4");
    assert!(variables["TASKFORGE_DEADLINE"].as_str().unwrap().parse::<u64>().is_ok());
    assert_eq!(variables.len(), 4, "{variables:?}");
    assert!(
        invoked.usage.fuel > 0 && invoked.usage.host_calls > 0 && invoked.usage.peak_memory > 0
    );
    assert!(invoked.logs.is_empty(), "{:?}", invoked.logs);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_that_says_nothing_says_null() {
    let bed = Bed::new().await;
    let plugin = command(&bed, json!({})).await;
    assert_eq!(bed.completes(&plugin, json!({"do": "nothing"})).await.0, Value::Null);
    let exit = json!({"do": "exit", "code": 0, "complaint": "done"});
    assert_eq!(bed.completes(&plugin, exit).await.0, Value::Null);
    let print = json!({"do": "print", "text": " \n"});
    assert_eq!(bed.completes(&plugin, print).await.0, Value::Null);
    let print = json!({"do": "print", "text": "[1,\n 2]\n"});
    assert_eq!(bed.completes(&plugin, print).await.0, json!([1, 2]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_command_prints_must_be_json() {
    let bed = Bed::new().await;
    let plugin = command(&bed, json!({})).await;
    for text in ["hello", "1 2", "{"] {
        let input = json!({"do": "print", "text": text});
        bed.fails_as(FailureKind::InvalidOutput, &plugin, input).await;
    }
    let input = json!({"do": "print", "text": "Hello, \u{1b}World!\n"});
    let (failure, _) = bed.fails(&plugin, input).await;
    assert!(
        failure.message.contains("it begins \"Hello, ")
            && failure.message.contains("World!\"")
            && !failure.message.contains('\u{1b}')
            && failure.message.contains("print one JSON value to standard output"),
        "{failure}"
    );
    let print = json!({"do": "print", "text": "\u{feff}{\"a\": 1}"});
    assert_eq!(bed.completes(&plugin, print).await.0, json!({"a": 1}));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_that_exits_with_another_status_has_failed_and_its_last_words_say_why() {
    let bed = Bed::new().await;
    let plugin = command(&bed, json!({})).await;
    let input = json!({"do": "exit", "code": 3, "complaint": "first\nthe disk is full"});
    let (failure, invoked) = bed.fails(&plugin, input).await;
    assert_eq!((failure.kind, failure.message.as_str()), (FailureKind::Exited, "the disk is full"));
    assert!(failure.kind.is_retryable());
    assert!(log(&invoked).contains("first"));
    let (failure, _) = bed.fails(&plugin, json!({"do": "fail"})).await;
    assert_eq!(failure.kind, FailureKind::Exited);
    assert!(failure.message.contains("it did not work out"), "{failure}");
    let (failure, _) = bed.fails(&plugin, json!({"do": "exit", "code": 1, "complaint": ""})).await;
    assert_eq!(failure.message, "the handler exited with status 1");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failure_is_told_in_the_words_of_its_language() {
    let bed = Bed::new().await;
    let plugin = command(&bed, json!({})).await;
    let python = "Traceback (most recent call last):\n  File \"app.py\", line 17, in handle\nValueError: boom\nand more";
    let go = "panic: boom\n\ngoroutine 1 [running]:\nmain.main()\n\t/src/main.go:26 +0x9a\nexit status 2";
    let cpp =
        "terminate called after throwing an instance of 'std::runtime_error'\n  what():  boom";
    for (written, said) in [
        (python, "ValueError: boom"),
        (go, "panic: boom"),
        (cpp, "std::runtime_error: boom"),
        ("Error: boom\n    at handle (app.js:3:11)", "Error: boom"),
    ] {
        let input = json!({"do": "exit", "code": 2, "complaint": written});
        let (failure, _) = bed.fails(&plugin, input).await;
        assert_eq!((failure.kind, failure.message.as_str()), (FailureKind::Exited, said));
    }
    // TinyGo reports on standard output, after whatever was printed there.
    let text = format!("{}\npanic: boom\n", "[1],".repeat(50_000));
    let (failure, _) = bed.fails(&plugin, json!({"do": "abort", "text": text})).await;
    assert_eq!((failure.kind, failure.message.as_str()), (FailureKind::Trap, "panic: boom"));
    // Also when the log has no room for it.
    let small = command(&bed, json!({"limits": {"log": 100}})).await;
    let input =
        json!({"do": "exit", "code": 2, "complaint": format!("{}\n{go}", "x".repeat(1000))});
    assert_eq!(bed.fails(&small, input).await.0.message, "panic: boom");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commands_standard_error_is_its_log() {
    let bed = Bed::new().await;
    let plugin = command(&bed, json!({"limits": {"log": "1 KiB"}})).await;
    let (said, invoked) = bed.completes(&plugin, json!({"do": "chat", "lines": 2})).await;
    assert_eq!(said, json!(2));
    let lines: Vec<_> =
        invoked.logs.iter().map(|line| (line.level, line.message.as_str())).collect();
    assert_eq!(lines, [(LogLevel::Warn, "line 0"), (LogLevel::Warn, "line 1")]);
    let (_, invoked) = bed.completes(&plugin, json!({"do": "chat", "lines": 10_000})).await;
    assert!(invoked.logs.len() < 50, "{}", invoked.logs.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_ends_at_the_limits_of_a_handler() {
    let bed = Bed::new().await;
    let limits = json!({"limits": {"output": "64 KiB", "fuel": 300_000_000}});
    let plugin = command(&bed, limits).await;
    let flood = |bytes: u64| json!({"do": "flood", "bytes": bytes});
    assert_eq!(bed.completes(&plugin, flood(64 << 10)).await.0, Value::Null);
    bed.fails_as(FailureKind::OutputTooLarge, &plugin, flood((64 << 10) + 1)).await;
    let invoked = bed.fails_as(FailureKind::OutputTooLarge, &plugin, flood(1 << 30)).await;
    assert!(invoked.usage.host_calls < 1000, "it ended at once: {:?}", invoked.usage);
    bed.fails_as(FailureKind::OutOfFuel, &plugin, json!({"do": "loop"})).await;
    let (failure, _) = bed.fails(&plugin, json!({"do": "panic"})).await;
    assert_eq!(failure.kind, FailureKind::Trap);
    assert!(failure.message.contains("on purpose"), "{failure}");

    let plugin =
        command(&bed, json!({"limits": {"fuel": u64::MAX >> 2, "deadline": "300ms"}})).await;
    bed.fails_as(FailureKind::Deadline, &plugin, json!({"do": "loop"})).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_web_server_is_sent_the_task_and_answers_with_the_output() {
    let bed = Bed::new().await;
    let plugin = web(&bed, json!({})).await;
    assert_eq!(plugin.info().shape.as_str(), "http");
    let invocation = invocation(json!({"a": [1, "ü"]}));
    let task = invocation.task.to_string();
    let invoked = bed.runtime.invoke(&plugin, invocation).await;
    let said = output(&invoked);
    assert_eq!((&said["method"], &said["path"]), (&json!("POST"), &json!("/")));
    assert_eq!(said["input"], json!({"a": [1, "ü"]}));
    let headers = &said["headers"];
    assert_eq!(headers["content-type"], "application/json");
    assert_eq!(headers["taskforge-task-id"], task);
    assert_eq!(headers["taskforge-attempt"], "1");
    assert_eq!(headers["taskforge-max-attempts"], "4");
    assert!(headers["taskforge-deadline"].is_string(), "{headers}");
    assert!(
        invoked.usage.fuel > 0 && invoked.usage.host_calls > 0 && invoked.usage.http_requests == 0
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_web_servers_status_says_what_follows() {
    let bed = Bed::new().await;
    let plugin = web(&bed, json!({})).await;
    let answer =
        |status: u16, body: &str| json!({"status": status, "body": body, "retry_after": 7});
    assert_eq!(bed.completes(&plugin, answer(201, "[true]")).await.0, json!([true]));
    assert_eq!(bed.completes(&plugin, answer(204, "")).await.0, Value::Null);
    let (failure, _) = bed.fails(&plugin, answer(200, "hello")).await;
    assert_eq!(failure.kind, FailureKind::InvalidOutput);
    assert!(
        failure.message.contains("it begins \"hello\": answer with one JSON value"),
        "{failure}"
    );
    let (failure, _) = bed.fails(&plugin, answer(404, "no such page")).await;
    assert_eq!(
        (failure.kind, failure.message.as_str(), failure.retry_after),
        (FailureKind::Permanent, "no such page", None)
    );
    for status in [408, 429, 500, 503] {
        let (failure, _) = bed.fails(&plugin, answer(status, "later")).await;
        assert_eq!(failure.kind, FailureKind::Retryable, "{status}");
        assert_eq!(failure.retry_after, Some(Duration::from_secs(7)), "{status}");
    }
    let (failure, _) = bed.fails(&plugin, answer(500, &"x".repeat(100_000))).await;
    assert_eq!(failure.message.len(), 2000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_web_servers_output_has_its_limit() {
    let bed = Bed::new().await;
    let plugin = web(&bed, json!({"limits": {"output": 1000}})).await;
    let answer =
        |bytes: usize| json!({"status": 200, "body": format!("\"{}\"", "x".repeat(bytes - 2))});
    bed.completes(&plugin, answer(1000)).await;
    bed.fails_as(FailureKind::OutputTooLarge, &plugin, answer(1001)).await;

    let plugin = careless(&bed, json!({})).await;
    let invoked =
        bed.fails_as(FailureKind::OutputTooLarge, &plugin, json!({"forget": "limit"})).await;
    assert!(invoked.usage.host_calls < 2000, "it ended at once: {:?}", invoked.usage);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_web_server_that_forgets_something_fails_by_name() {
    let bed = Bed::new().await;
    let plugin = careless(&bed, json!({"limits": {"fuel": 100_000_000}})).await;
    let forget = |what: &str| json!({ "forget": what });
    let (said, invoked) = bed.completes(&plugin, forget("nothing")).await;
    assert_eq!(said, json!(1));
    assert!(log(&invoked).contains("after the answer"), "{}", log(&invoked));

    for (what, word) in [("answer", "without an answer"), ("end", "without an end")] {
        let (failure, _) = bed.fails(&plugin, forget(what)).await;
        assert_eq!(failure.kind, FailureKind::Retryable, "{what}: {failure}");
        assert!(failure.message.contains(word), "{failure}");
    }
    let (failure, _) = bed.fails(&plugin, forget("response")).await;
    assert_eq!(failure.kind, FailureKind::Retryable);
    assert!(failure.message.contains("no idea"), "{failure}");
    bed.fails_as(FailureKind::OutOfFuel, &plugin, forget("return")).await;
    let plugin =
        careless(&bed, json!({"limits": {"fuel": u64::MAX >> 2, "deadline": "300ms"}})).await;
    bed.fails_as(FailureKind::Deadline, &plugin, forget("return")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_shape_can_be_called_off() {
    let bed = Bed::new().await;
    let limits = json!({"limits": {"fuel": u64::MAX >> 2, "deadline": "1h"}});
    let command = command(&bed, limits.clone()).await;
    let careless = careless(&bed, limits).await;
    for (plugin, input) in
        [(&command, json!({"do": "loop"})), (&careless, json!({"forget": "return"}))]
    {
        let invocation = invocation(input);
        let cancel = invocation.cancel.clone();
        let (invoked, ()) = tokio::join!(bed.runtime.invoke(plugin, invocation), async {
            tokio::time::sleep(Duration::from_millis(50)).await;
            cancel.cancel();
        });
        assert!(
            matches!(&invoked.outcome, Outcome::Failed(failure) if failure.kind == FailureKind::Cancelled),
            "{:?}",
            invoked.outcome
        );
    }
}
