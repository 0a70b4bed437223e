//! Components that were compiled for what the contract was go on running.

use std::{fs, path::Path};

use serde_json::json;
use taskforge_runtime::PluginSettings;

use crate::bed::{Bed, settings};

fn fixture(name: &str) -> Vec<u8> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let path = folder.join(name);
    fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn components_of_contract_0_1_0_run() {
    let bed = Bed::new().await;
    let load = async |name: &str, with| {
        let bytes = fixture(&format!("contract-0.1.0/{name}.wasm"));
        bed.runtime.load(bytes, with).await.unwrap()
    };
    let fibonacci = load("fibonacci", PluginSettings::default()).await;
    let (said, _) = bed.completes(&fibonacci, json!({"n": 10})).await;
    assert_eq!(said, json!({"result": 55}));

    let email = load("email", settings(json!({"grants": {"mail": true}}))).await;
    let letter = json!({"to": "ann@example.com", "subject": "Hello", "text": "From long ago."});
    let (said, _) = bed.completes(&email, letter).await;
    assert_eq!(said["accepted"], json!(["ann@example.com"]));

    let hostile = load("hostile", PluginSettings::default()).await;
    let (said, _) = bed.completes(&hostile, json!({"attack": "chatty"})).await;
    assert_eq!(said, json!({"ok": true}));
    let (failure, _) = bed.fails(&hostile, json!({"attack": "panic", "message": "still"})).await;
    assert!(failure.message.contains("still"), "{failure}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn components_of_other_shapes_run() {
    let bed = Bed::new().await;
    let command = bed.shaped(fixture("shapes/command.wasm"), json!({})).await;
    let (said, _) = bed.completes(&command, json!({"do": "echo", "value": 7})).await;
    assert_eq!(said["value"], 7);
    let web = bed.shaped(fixture("shapes/web.wasm"), json!({})).await;
    let (said, _) = bed.completes(&web, json!({"n": 7})).await;
    assert_eq!(said["input"], json!({"n": 7}));
}
