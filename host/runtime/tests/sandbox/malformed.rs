//! Components that no compiler makes: they answer in ways that the canonical ABI forbids.

use serde_json::json;
use taskforge_domain::FailureKind;

use crate::bed::Bed;

#[tokio::test]
async fn a_minimal_component_is_a_plugin() {
    let bed = Bed::new().await;
    let plugin = bed.wat("well_behaved", json!({})).await;
    let (output, invoked) = bed.completes(&plugin, json!({})).await;
    assert_eq!(output, json!({"ok": true}));
    assert_eq!(
        (invoked.usage.peak_memory, invoked.usage.host_calls),
        // Its one page, and the output that the host has read.
        ((1 << 16) + 11, 0)
    );
}

#[tokio::test]
async fn an_output_that_is_not_text_is_invalid() {
    let bed = Bed::new().await;
    let plugin = bed.wat("invalid_utf8", json!({})).await;
    bed.fails_as(FailureKind::InvalidOutput, &plugin, json!({})).await;
}

#[tokio::test]
async fn an_output_that_lies_about_its_length_fails() {
    let bed = Bed::new().await;
    let plugin = bed.wat("lying_output", json!({})).await;
    let (failure, _) = bed.fails(&plugin, json!({})).await;
    assert!(
        matches!(failure.kind, FailureKind::OutputTooLarge | FailureKind::InvalidOutput),
        "{failure}"
    );
}

#[tokio::test]
async fn a_result_that_is_neither_ok_nor_an_error_is_invalid() {
    let bed = Bed::new().await;
    let plugin = bed.wat("bad_discriminant", json!({})).await;
    bed.fails_as(FailureKind::InvalidOutput, &plugin, json!({})).await;
}

#[tokio::test]
async fn an_allocator_that_lies_is_a_trap() {
    let bed = Bed::new().await;
    let plugin = bed.wat("bad_realloc", json!({})).await;
    bed.fails_as(FailureKind::Trap, &plugin, json!({"long": "enough to be allocated"})).await;
}

#[tokio::test]
async fn code_that_runs_around_the_call_is_metered_too() {
    let bed = Bed::new().await;
    for name in ["endless_realloc", "endless_post_return"] {
        let plugin = bed.wat(name, json!({"limits": {"fuel": 100_000_000}})).await;
        bed.fails_as(FailureKind::OutOfFuel, &plugin, json!({"n": 1})).await;
    }
}
