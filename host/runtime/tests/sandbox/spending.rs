//! Using more than there is.

use std::time::Duration;

use serde_json::json;
use taskforge_domain::{FailureKind, Outcome};
use taskforge_runtime::{Invoked, RuntimeConfig};

use crate::bed::{Bed, config, invocation, log};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_endless_loop_runs_out_of_fuel() {
    let bed = Bed::new().await;
    let plugin = bed.hostile(json!({"limits": {"fuel": 500_000_000}})).await;
    let invoked =
        bed.fails_as(FailureKind::OutOfFuel, &plugin, json!({"attack": "endless_loop"})).await;
    assert_eq!(invoked.usage.fuel, 500_000_000);
    assert!(invoked.usage.peak_memory > 0 && invoked.usage.wall_micros > 0);
}

#[tokio::test]
async fn an_endless_loop_lets_its_neighbours_run_on_the_same_thread() {
    let bed = Bed::new().await;
    let plugin = bed.hostile(json!({"limits": {"fuel": 500_000_000}})).await;
    bed.fails_as(FailureKind::OutOfFuel, &plugin, json!({"attack": "endless_loop"})).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_endless_loop_ends_at_its_deadline() {
    let bed = Bed::new().await;
    let plugin = bed.hostile(json!({"limits": {"fuel": u64::MAX >> 2, "deadline": "300ms"}})).await;
    let invoked =
        bed.fails_as(FailureKind::Deadline, &plugin, json!({"attack": "endless_loop"})).await;
    assert!(invoked.usage.fuel > 1_000_000, "fuel is known after a deadline: {:?}", invoked.usage);
    assert!((300_000..5_000_000).contains(&invoked.usage.wall_micros), "{:?}", invoked.usage);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn endless_recursion_overflows_the_guests_own_stack() {
    let bed = Bed::new().await;
    let plugin = bed.hostile(json!({})).await;
    bed.fails_as(FailureKind::StackOverflow, &plugin, json!({"attack": "endless_recursion"})).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_memory_that_grows_without_end_runs_out_of_memory() {
    let bed = Bed::new().await;
    let plugin = bed.hostile(json!({"limits": {"memory": "32 MiB"}})).await;
    let invoked =
        bed.fails_as(FailureKind::OutOfMemory, &plugin, json!({"attack": "grow_memory"})).await;
    let peak = invoked.usage.peak_memory;
    assert!((16 << 20..=32 << 20).contains(&peak), "peak {peak}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handler_that_copes_without_the_memory_fails_in_its_own_way() {
    let bed = Bed::new().await;
    let plugin = bed.hostile(json!({"limits": {"memory": "32 MiB"}})).await;
    let input = json!({"attack": "allocate", "bytes": 64 << 20});
    bed.fails_as(FailureKind::Permanent, &plugin, input).await;
    let (output, invoked) =
        bed.completes(&plugin, json!({"attack": "allocate", "bytes": 8 << 20})).await;
    assert_eq!(output, json!({"allocated": 8 << 20}));
    assert!(invoked.usage.peak_memory >= 8 << 20, "{:?}", invoked.usage);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_small_memories_are_one_sum() {
    let bed = Bed::new().await;
    let plugin = bed.wat("many_memories", json!({"limits": {"memory": "64 MiB"}})).await;
    let invoked = bed.fails_as(FailureKind::OutOfMemory, &plugin, json!({})).await;
    assert!((48 << 20..=64 << 20).contains(&invoked.usage.peak_memory), "{:?}", invoked.usage);

    let plugin = bed.wat("many_memories", json!({"limits": {"memory": "128 MiB"}})).await;
    let (_, invoked) = bed.completes(&plugin, json!({})).await;
    assert!(invoked.usage.peak_memory >= 96 << 20, "{:?}", invoked.usage);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_that_grows_without_end_runs_out_of_memory() {
    let bed = Bed::new().await;
    let plugin = bed.wat("grow_tables", json!({"limits": {"table_elements": 50_000}})).await;
    bed.fails_as(FailureKind::OutOfMemory, &plugin, json!({})).await;
    // The elements alone would be allowed; their bytes are not.
    let plugin = bed.wat("grow_tables", json!({"limits": {"memory": "256 KiB"}})).await;
    bed.fails_as(FailureKind::OutOfMemory, &plugin, json!({})).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_output_of_a_hundred_megabytes_is_too_large() {
    let bed = Bed::new().await;
    let plugin = bed.hostile(json!({"limits": {"memory": "512 MiB"}})).await;
    let input = json!({"attack": "huge_output", "bytes": 100_000_000});
    bed.fails_as(FailureKind::OutputTooLarge, &plugin, input).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_output_at_the_limit_is_taken_and_one_byte_more_is_not() {
    let bed = Bed::new().await;
    let plugin = bed.hostile(json!({"limits": {"output": 10_000}})).await;
    let of = |bytes: usize| json!({"attack": "huge_output", "bytes": bytes});
    let (output, _) = bed.completes(&plugin, of(9_998)).await;
    assert_eq!(output.as_str().unwrap().len(), 9_998);
    bed.fails_as(FailureKind::OutputTooLarge, &plugin, of(9_999)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_flood_is_cut_and_says_so() {
    let bed = Bed::new().await;
    let plugin = bed.hostile(json!({"limits": {"log": "64 KiB"}})).await;
    let input = json!({"attack": "log_flood", "lines": 2000, "bytes": 1000});
    let (_, invoked) = bed.completes(&plugin, input).await;
    let kept: usize = invoked.logs.iter().map(|line| line.message.len()).sum();
    assert!((60_000..66_000).contains(&kept), "{kept} bytes were kept");
    let last = &invoked.logs.last().unwrap().message;
    assert!(
        last.starts_with("[log cut at 65536 bytes; ") && last.ends_with(" more were dropped]"),
        "{last}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn too_many_host_calls_end_the_attempt() {
    let bed = Bed::new().await;
    let plugin = bed.hostile(json!({"limits": {"host_calls": 5_000}})).await;
    let input = json!({"attack": "host_call_flood"});
    let invoked = bed.fails_as(FailureKind::HostCallLimit, &plugin, input).await;
    assert_eq!(invoked.usage.host_calls, 5_001);
    let (_, invoked) =
        bed.completes(&plugin, json!({"attack": "host_call_flood", "calls": 4_000})).await;
    assert!((4_000..5_000).contains(&invoked.usage.host_calls), "{:?}", invoked.usage);
}

#[tokio::test]
async fn a_flood_of_host_calls_lets_its_neighbours_run_and_ends_at_its_deadline() {
    let bed = Bed::new().await;
    let limits = json!({"host_calls": u64::MAX, "deadline": "300ms", "fuel": u64::MAX >> 2});
    let plugin = bed.hostile(json!({"limits": limits})).await;
    bed.fails_as(FailureKind::Deadline, &plugin, json!({"attack": "host_call_flood"})).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn handles_are_a_limit_like_the_others() {
    let bed = Bed::new().await;
    let timers = |count: u32| json!({"attack": "hold", "what": "timers", "count": count});
    // A timer is two: as many as engines keep until they collect their garbage.
    let plugin = bed.hostile(json!({})).await;
    let (held, _) = bed.completes(&plugin, timers(9_000)).await;
    assert_eq!(held["held"], 9_000);
    let plugin = bed.hostile(json!({"limits": {"handles": 100}})).await;
    bed.completes(&plugin, timers(40)).await;
    let (failure, _) = bed.fails(&plugin, timers(60)).await;
    assert_eq!(failure.kind, FailureKind::HostCallLimit);
    assert!(
        failure.message.contains("more than 100 handles at once (`handles` under [limits])"),
        "{failure}"
    );
    // What they take comes out of the memory.
    let plugin = bed.hostile(json!({"limits": {"handles": 1_000_000, "memory": "8 MiB"}})).await;
    bed.fails_as(FailureKind::OutOfMemory, &plugin, timers(50_000)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_error_of_a_host_function_is_a_trap() {
    let bed = Bed::new().await;
    let plugin = bed.hostile(json!({})).await;
    for (input, word) in [
        (json!({"attack": "empty_poll"}), "empty poll list"),
        (json!({"attack": "long_header", "bytes": 70_000}), ""),
    ] {
        let (failure, _) = bed.fails(&plugin, input).await;
        assert_eq!(failure.kind, FailureKind::Trap, "{failure}");
        assert!(failure.message.contains(word), "{failure}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sleep_ends_at_the_deadline() {
    let bed = Bed::new().await;
    let plugin = bed.hostile(json!({"limits": {"deadline": "200ms"}})).await;
    let invoked = bed
        .fails_as(FailureKind::Deadline, &plugin, json!({"attack": "sleep", "ms": 60_000}))
        .await;
    assert!((200_000..5_000_000).contains(&invoked.usage.wall_micros), "{:?}", invoked.usage);
    assert!(invoked.usage.fuel > 0 && invoked.usage.host_calls > 0, "{:?}", invoked.usage);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_panic_is_a_trap_that_tells_what_the_panic_said() {
    let bed = Bed::new().await;
    let plugin = bed.hostile(json!({})).await;
    let (failure, invoked) =
        bed.fails(&plugin, json!({"attack": "panic", "message": "seven of nine"})).await;
    assert_eq!(failure.kind, FailureKind::Trap);
    assert!(failure.message.contains("the handler panicked: seven of nine"), "{failure}");
    assert!(log(&invoked).contains("Warn seven of nine"), "{}", log(&invoked));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_exit_is_an_exit() {
    let bed = Bed::new().await;
    let plugin = bed.hostile(json!({})).await;
    let (failure, _) = bed.fails(&plugin, json!({"attack": "exit", "code": 3})).await;
    assert_eq!(failure.kind, FailureKind::Exited);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_changed_global_is_not_seen_by_the_next_attempt() {
    let bed = Bed::new().await;
    let plugin = bed.hostile(json!({})).await;
    for _ in 0..50 {
        let (output, _) = bed.completes(&plugin, json!({"attack": "mutate_global"})).await;
        assert_eq!(output, json!({"value": 1}));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_output_that_is_not_json_is_invalid() {
    let bed = Bed::new().await;
    let plugin = bed.hostile(json!({})).await;
    bed.fails_as(FailureKind::InvalidOutput, &plugin, json!({"attack": "invalid_json"})).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_output_that_nests_too_deep_is_invalid() {
    let bed = Bed::new().await;
    let plugin = bed.hostile(json!({})).await;
    let nested = |levels: usize| {
        let text = format!("{}{}", "[".repeat(levels), "]".repeat(levels));
        json!({"attack": "invalid_json", "text": text})
    };
    bed.completes(&plugin, nested(100)).await;
    for levels in [101, 200_000] {
        let (failure, _) = bed.fails(&plugin, nested(levels)).await;
        assert_eq!(failure.kind, FailureKind::InvalidOutput);
        let expected = "the output nests deeper than 100 levels, at byte 100";
        assert_eq!(failure.message, expected);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancelled_attempt_ends_at_once_and_keeps_its_usage() {
    let bed = Bed::new().await;
    let plugin = bed.hostile(json!({"limits": {"fuel": u64::MAX >> 2, "deadline": "1h"}})).await;
    for attack in [json!({"attack": "endless_loop"}), json!({"attack": "sleep"})] {
        let steps = json!([{"attack": "chatty"}, attack]);
        let invocation = invocation(json!({"attack": "cope", "steps": steps}));
        let (cancel, log) = (invocation.cancel.clone(), invocation.log.clone());
        let attempt = async {
            tokio::join!(bed.runtime.invoke(&plugin, invocation), async {
                while log.is_empty() {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                cancel.cancel();
            })
        };
        let attempt = tokio::time::timeout(Duration::from_secs(60), attempt).await;
        let (invoked, ()) = attempt.expect("it goes on");
        let Outcome::Failed(failure) = &invoked.outcome else { panic!("{:?}", invoked.outcome) };
        assert_eq!(failure.kind, FailureKind::Cancelled);
        assert!(invoked.usage.fuel > 0, "{:?}", invoked.usage);
    }
}

#[tokio::test]
async fn an_attempt_that_waits_for_an_instance_can_be_cancelled() {
    let outbox = tempfile::tempdir().unwrap();
    let config = RuntimeConfig { max_instances: 1, ..config(&outbox) };
    let bed = Bed::with(config, outbox).await;
    let plugin = bed.hostile(json!({"limits": {"deadline": "1h"}})).await;

    let (holding, waiting) =
        (invocation(json!({"attack": "sleep"})), invocation(json!({"attack": "ok"})));
    let (holder, waiter) = (holding.cancel.clone(), waiting.cancel.clone());
    // Polled in this order, so the first takes the only instance and the second waits.
    let (held, ()) = tokio::join!(bed.runtime.invoke(&plugin, holding), async {
        let (waited, ()) =
            tokio::join!(bed.runtime.invoke(&plugin, waiting), async { waiter.cancel() });
        assert_eq!((kind(&waited), waited.usage.fuel), (FailureKind::Cancelled, 0));
        holder.cancel();
    });
    assert_eq!(kind(&held), FailureKind::Cancelled);
    assert!(held.usage.fuel > 0, "{:?}", held.usage);
}

fn kind(invoked: &Invoked) -> FailureKind {
    match &invoked.outcome {
        Outcome::Failed(failure) => failure.kind,
        Outcome::Completed(output) => panic!("completed with {output:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_attempts_than_instances_wait_and_all_complete() {
    let bed = Bed::new().await;
    let plugin = bed.hostile(json!({})).await;
    let attempts = (0..100).map(|_| {
        bed.runtime.invoke(&plugin, invocation(json!({"attack": "busy", "rounds": 100_000})))
    });
    for invoked in futures_util::future::join_all(attempts).await {
        assert!(matches!(invoked.outcome, Outcome::Completed(_)), "{:?}", invoked.outcome);
    }
}
