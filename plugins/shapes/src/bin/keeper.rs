//! A WASI command that keeps values under the second draft of `wasi:keyvalue`, as other toolchains
//! import it. The input is a list of steps, the output what each brought.

#[cfg(not(target_family = "wasm"))]
fn main() {}

#[cfg(target_family = "wasm")]
fn main() -> Result<(), String> {
    wasm::main()
}

#[cfg(target_family = "wasm")]
mod wasm {
    #![allow(clippy::print_stdout, reason = "standard output is a command's output")]

    use std::io;

    use serde::Deserialize;
    use serde_json::{Value, json};

    use self::wasi::keyvalue::{
        atomics::{self, Cas, CasError},
        batch,
        store::{self, Bucket, Error},
    };

    wit_bindgen::generate!({ path: "../../host/runtime/wit", world: "imports", generate_all });

    #[derive(Deserialize)]
    #[serde(tag = "do", rename_all = "snake_case")]
    enum Step {
        Get {
            key: String,
        },
        Set {
            key: String,
            value: String,
        },
        SetMany {
            keys: Vec<String>,
            value: String,
        },
        GetMany {
            keys: Vec<String>,
        },
        DeleteMany {
            keys: Vec<String>,
        },
        Delete {
            key: String,
        },
        Exists {
            key: String,
        },
        Keys {
            cursor: Option<String>,
        },
        Increment {
            key: String,
            delta: i64,
        },
        /// Swaps what it sees; `meanwhile` is written in between by somebody else.
        Swap {
            key: String,
            value: String,
            meanwhile: Option<String>,
        },
        /// Takes so many handles, and keeps them.
        Hold {
            key: String,
            handles: usize,
        },
    }

    pub(super) fn main() -> Result<(), String> {
        let input = io::read_to_string(io::stdin()).map_err(|error| error.to_string())?;
        let steps: Vec<Step> = serde_json::from_str(&input).map_err(|error| error.to_string())?;
        let bucket = store::open("b").map_err(|error| format!("{error:?}"))?;
        let brought = steps.into_iter().map(|step| {
            take(&bucket, step).unwrap_or_else(|error| json!({ "error": format!("{error:?}") }))
        });
        let brought: Value = brought.collect();
        println!("{brought}");
        Ok(())
    }

    fn text(value: Option<Vec<u8>>) -> Value {
        json!(value.map(|value| String::from_utf8_lossy(&value).into_owned()))
    }

    fn take(bucket: &Bucket, step: Step) -> Result<Value, Error> {
        Ok(match step {
            Step::Get { key } => text(bucket.get(&key)?),
            Step::Set { key, value } => json!(bucket.set(&key, value.as_bytes())?),
            Step::Delete { key } => json!(bucket.delete(&key)?),
            Step::Exists { key } => json!(bucket.exists(&key)?),
            Step::Keys { cursor } => {
                let page = bucket.list_keys(cursor.as_deref())?;
                json!({ "keys": page.keys, "cursor": page.cursor })
            }
            Step::SetMany { keys, value } => {
                let pairs: Vec<_> =
                    keys.into_iter().map(|key| (key, value.clone().into_bytes())).collect();
                json!(batch::set_many(bucket, &pairs)?)
            }
            Step::GetMany { keys } => {
                let found = batch::get_many(bucket, &keys)?;
                found.into_iter().map(|(key, value)| json!([key, text(value)])).collect()
            }
            Step::DeleteMany { keys } => json!(batch::delete_many(bucket, &keys)?),
            Step::Increment { key, delta } => json!(atomics::increment(bucket, &key, delta)?),
            Step::Swap { key, value, meanwhile } => {
                swap(bucket, &key, &value, meanwhile.as_deref())?
            }
            Step::Hold { key, handles } => {
                let held =
                    (0..handles).map(|_| Cas::new(bucket, &key)).collect::<Result<Vec<_>, _>>()?;
                json!(held.len())
            }
        })
    }

    /// What was there, and whether the first attempt and the one after it succeeded.
    fn swap(
        bucket: &Bucket,
        key: &str,
        value: &str,
        meanwhile: Option<&str>,
    ) -> Result<Value, Error> {
        let cas = Cas::new(bucket, key)?;
        let old = text(cas.current()?);
        if let Some(meanwhile) = meanwhile {
            bucket.set(key, meanwhile.as_bytes())?;
        }
        match atomics::swap(cas, value.as_bytes()) {
            Ok(()) => Ok(json!([old, true])),
            Err(CasError::StoreError(error)) => Err(error),
            Err(CasError::CasFailed(cas)) => {
                let now = text(cas.current()?);
                Ok(json!([old, false, now, atomics::swap(cas, value.as_bytes()).is_ok()]))
            }
        }
    }
}
