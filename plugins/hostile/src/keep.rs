//! Configuration, and values that outlive an attempt.

use serde_json::{Value, json};
use taskforge_sdk::{Failure, config, keyvalue};

use crate::attack::Step;

/// One value of the configuration, or all.
#[must_use]
pub fn config(key: Option<&str>) -> Value {
    key.map_or_else(all, |key| json!(config::get(key)))
}

#[cfg(target_family = "wasm")]
fn all() -> Value {
    use taskforge_sdk::__private::bindings::wasi::config::store;
    json!(store::get_all().unwrap_or_default())
}

#[cfg(not(target_family = "wasm"))]
const fn all() -> Value {
    Value::Null
}

/// What each step brought: a value, or `{"error": …}`.
///
/// # Errors
/// When the bucket cannot be opened.
pub fn key_value(bucket: &str, steps: Vec<Step>) -> Result<Value, Failure> {
    let opened = keyvalue::open(bucket)?;
    let brought = steps.into_iter().map(|step| {
        let value = match step {
            Step::Get { key } => opened.get(&key).map(|value| {
                json!(value.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()))
            }),
            Step::Set { key, value } => opened.set(&key, value.as_bytes()).map(|()| json!(true)),
            Step::SetHuge { key, value } => {
                opened.set(&"k".repeat(key), &vec![b'v'; value]).map(|()| json!(true))
            }
            Step::Delete { key } => opened.delete(&key).map(|()| json!(true)),
            Step::Exists { key } => opened.exists(&key).map(|there| json!(there)),
            Step::Keys => opened.keys().map(|keys| json!(keys)),
            Step::Increment { key, delta } => opened.increment(&key, delta).map(|sum| json!(sum)),
            step => at_once(bucket, &step),
        };
        value.unwrap_or_else(|error| json!({ "error": error.to_string() }))
    });
    Ok(brought.collect())
}

/// What the SDK has no words for.
#[cfg(target_family = "wasm")]
fn at_once(bucket: &str, step: &Step) -> Result<Value, keyvalue::Error> {
    use taskforge_sdk::__private::bindings::wasi::keyvalue::{batch, store};

    let bucket = store::open(bucket)?;
    let keys = |count: usize| -> Vec<String> { (0..count).map(|n| format!("{n:04}")).collect() };
    Ok(match *step {
        Step::SetMany { count, bytes } => {
            let pairs: Vec<_> =
                keys(count).into_iter().map(|key| (key, vec![b'v'; bytes])).collect();
            batch::set_many(&bucket, &pairs)?;
            json!(true)
        }
        Step::GetMany { count } => {
            json!(batch::get_many(&bucket, &keys(count))?.iter().flatten().count())
        }
        Step::DeleteMany { count } => {
            batch::delete_many(&bucket, &keys(count))?;
            json!(true)
        }
        Step::Page { cursor } => {
            let page = bucket.list_keys(cursor)?;
            json!({ "keys": page.keys.len(), "last": page.keys.last(), "cursor": page.cursor })
        }
        _ => Value::Null,
    })
}

#[cfg(not(target_family = "wasm"))]
fn at_once(_: &str, _: &Step) -> Result<Value, keyvalue::Error> {
    Err(keyvalue::Error::new(
        keyvalue::ErrorKind::Missing,
        "there is no key-value store outside a TaskForge host",
    ))
}
