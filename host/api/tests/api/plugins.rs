//! The registry over HTTP: components pushed, activated, tried, rolled back, retired.

mod pauses;
mod push;
mod rollout;
mod settings;
mod signatures;

use serde_json::{Value, json};
use taskforge_testing::guests;

pub(crate) use self::signatures::envelope;
use crate::harness::{Answer, Api};

/// Pushes a WASI command under a version with an input schema, without activating it.
pub(crate) async fn push_command(api: &Api, version: &str, input_schema: Value) -> Answer {
    let manifest =
        json!({"name": "shaped", "version": version, "input_schema": input_schema}).to_string();
    api.push(&[("manifest", &manifest)], &guests::bytes("command")).await
}

async fn post(api: &Api, path: &str, body: Value) -> Value {
    let answer = api.post(path, &body).await;
    assert_eq!(answer.status, 200, "{path}: {answer:?}");
    answer.json()
}

fn number(least: i64) -> Value {
    let n = json!({"type": "integer", "minimum": least});
    json!({"type": "object", "properties": {"n": n}, "required": ["n"]})
}
