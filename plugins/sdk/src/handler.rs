//! From JSON text to a typed call, and back.

use std::{
    future::Future,
    io::Write,
    time::{Duration, SystemTime},
};

use schemars::{JsonSchema, generate::SchemaSettings};
use serde::{Serialize, de::DeserializeOwned};

use crate::{
    __private::bindings::exports::taskforge::plugin::handler as wit, Failure, Retry, Task, runtime,
};

/// A function that can handle tasks. Implemented for the four shapes that
/// [`handler!`](crate::handler!) takes; `Shape` only keeps the implementations apart and is always
/// inferred.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot handle tasks",
    note = "a handler is `fn(Input) -> Result<Output, Failure>` or `fn(Input, Task) -> Result<Output, Failure>`, `async` or not",
    note = "`Input` must derive `serde::Deserialize` and `schemars::JsonSchema`, `Output` `serde::Serialize` and `schemars::JsonSchema`"
)]
pub trait Handler<Shape> {
    /// What it takes.
    type Input: DeserializeOwned + JsonSchema;
    /// What it returns.
    type Output: Serialize + JsonSchema;

    /// Runs it to its end.
    ///
    /// # Errors
    /// The handler's own.
    fn call(self, input: Self::Input, task: Task) -> Result<Self::Output, Failure>;
}

macro_rules! shape {
    ($($arg:ident: $Arg:ty),*) => {
        impl<F, I, O> Handler<fn(I $(, $Arg)*) -> O> for F
        where
            F: FnOnce(I $(, $Arg)*) -> Result<O, Failure>,
            I: DeserializeOwned + JsonSchema,
            O: Serialize + JsonSchema,
        {
            type Input = I;
            type Output = O;
            fn call(self, input: I, _task: Task) -> Result<O, Failure> {
                $(let $arg = _task;)*
                self(input $(, $arg)*)
            }
        }

        impl<F, Fut, I, O> Handler<(fn(I $(, $Arg)*) -> Fut, O)> for F
        where
            F: FnOnce(I $(, $Arg)*) -> Fut,
            Fut: Future<Output = Result<O, Failure>>,
            I: DeserializeOwned + JsonSchema,
            O: Serialize + JsonSchema,
        {
            type Input = I;
            type Output = O;
            fn call(self, input: I, _task: Task) -> Result<O, Failure> {
                $(let $arg = _task;)*
                runtime::block_on(self(input $(, $arg)*))
            }
        }
    };
}

shape!();
shape!(task: Task);

/// What a plugin says about itself, filled in by [`handler!`](crate::handler!).
#[doc(hidden)]
pub struct About {
    name: &'static str,
    version: &'static str,
    summary: &'static str,
    capabilities: &'static [&'static str],
}

impl About {
    #[must_use]
    pub const fn new(name: &'static str, version: &'static str, summary: &'static str) -> Self {
        Self { name, version, summary, capabilities: &[] }
    }

    #[must_use]
    pub const fn name(self, name: &'static str) -> Self {
        Self { name, ..self }
    }

    #[must_use]
    pub const fn version(self, version: &'static str) -> Self {
        Self { version, ..self }
    }

    #[must_use]
    pub const fn summary(self, summary: &'static str) -> Self {
        Self { summary, ..self }
    }

    #[must_use]
    pub const fn capabilities<const N: usize>(
        self,
        capabilities: &'static [&'static str; N],
    ) -> Self {
        Self { capabilities, ..self }
    }
}

/// The answer to `describe`. The handler is only there for its types.
#[doc(hidden)]
#[allow(clippy::needless_pass_by_value, reason = "a function item is a zero-sized value")]
pub fn describe<Shape, H: Handler<Shape>>(_handler: H, about: About) -> wit::Description {
    // Inlined: forms and validators that read a schema stumble over references, and ours are small.
    let settings = || SchemaSettings::draft2020_12().with(|s| s.inline_subschemas = true);
    let input = settings().for_deserialize().into_generator().into_root_schema_for::<H::Input>();
    let output = settings().for_serialize().into_generator().into_root_schema_for::<H::Output>();
    wit::Description {
        name: about.name.to_owned(),
        version: about.version.to_owned(),
        summary: about.summary.to_owned(),
        input_schema: input.as_value().to_string(),
        output_schema: output.as_value().to_string(),
        capabilities: about.capabilities.iter().map(|&name| name.to_owned()).collect(),
    }
}

/// One attempt.
#[doc(hidden)]
pub fn handle<Shape, H: Handler<Shape>>(
    handler: H,
    task: wit::Task,
) -> Result<String, wit::Failure> {
    let result = run(handler, task);
    // The instance is dropped without the clean-up of a process that ends, and a line without a
    // line break would go with it. Standard output is a log; that it cannot be written is no reason
    // to fail.
    std::io::stdout().flush().ok();
    result.map_err(|failure| wit::Failure {
        message: failure.message().to_owned(),
        retry: match failure.retry() {
            Retry::Never => wit::Retry::Never,
            Retry::Backoff => wit::Retry::Backoff,
            Retry::After(delay) => {
                wit::Retry::After(u64::try_from(delay.as_millis()).unwrap_or(u64::MAX))
            }
        },
    })
}

fn run<Shape, H: Handler<Shape>>(handler: H, task: wit::Task) -> Result<String, Failure> {
    let input = read_input(&task.input)?;
    let task = Task {
        id: task.id,
        attempt: task.attempt,
        max_attempts: task.max_attempts,
        deadline: SystemTime::UNIX_EPOCH + Duration::from_millis(task.deadline),
    };
    let output = handler.call(input, task)?;
    serde_json::to_string(&output).map_err(|error| {
        Failure::permanent(format!("the output cannot be written as JSON: {error}"))
    })
}

fn read_input<I: DeserializeOwned>(text: &str) -> Result<I, Failure> {
    let mut json = serde_json::Deserializer::from_str(text);
    let input = serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let path = error.path().to_string();
        let place = if path == "." { "input".to_owned() } else { format!("input.{path}") };
        unreadable(&place, &error.into_inner())
    })?;
    json.end().map_err(|error| unreadable("input", &error))?;
    Ok(input)
}

/// Line and column are left out: the host may have written the client's JSON anew, and the place
/// says it better.
fn unreadable(place: &str, error: &serde_json::Error) -> Failure {
    let why = error.to_string();
    let why = why.rsplit_once(" at line ").map_or(why.as_str(), |(why, _)| why);
    Failure::permanent(format!("{place}: {why}"))
}

/// Makes a function this crate's handler.
///
/// The function takes the input, and a [`Task`] beside it if it likes; it may be `async`:
///
/// ```text
/// fn handler(input: Input) -> Result<Output, Failure>
/// fn handler(input: Input, task: Task) -> Result<Output, Failure>
/// async fn handler(input: Input) -> Result<Output, Failure>
/// async fn handler(input: Input, task: Task) -> Result<Output, Failure>
/// ```
///
/// The plugin's name, version and summary are the package's `name`, `version` and `description`.
/// Each can be given another value after the function, and `capabilities` names what the handler
/// will ask its host for, so that an operator knows what to grant:
///
/// ```
/// # use taskforge_sdk::Failure;
/// # async fn scrape(url: String) -> Result<String, Failure> { Ok(url) }
/// taskforge_sdk::handler!(scrape, name = "scraper", capabilities = &["http"]);
/// ```
///
/// A crate has one handler, in its library: `crate-type = ["cdylib"]`, built for `wasm32-wasip2`.
#[macro_export]
macro_rules! handler {
    ($handler:expr $(, $key:ident = $value:expr)* $(,)?) => {
        const _: () = {
            use $crate::__private::bindings::exports::taskforge::plugin::handler as wit;

            #[allow(dead_code, reason = "a native build, for unit tests, exports nothing")]
            struct Plugin;

            impl wit::Guest for Plugin {
                fn describe() -> wit::Description {
                    let about = $crate::__private::About::new(
                        env!("CARGO_PKG_NAME"),
                        env!("CARGO_PKG_VERSION"),
                        env!("CARGO_PKG_DESCRIPTION"),
                    );
                    $crate::__private::describe($handler, about $(.$key($value))*)
                }

                fn handle(task: wit::Task) -> ::core::result::Result<String, wit::Failure> {
                    $crate::__private::handle($handler, task)
                }
            }

            // Native linkers refuse the names of component exports.
            #[cfg(target_family = "wasm")]
            $crate::__private::bindings::export!(Plugin with_types_in $crate::__private::bindings);
        };
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(serde::Deserialize, JsonSchema)]
    #[serde(deny_unknown_fields)]
    struct Input {
        numbers: Vec<u8>,
    }

    fn sum(input: Input) -> Result<u32, Failure> {
        Ok(input.numbers.into_iter().map(u32::from).sum())
    }

    async fn attempt(input: Input, task: Task) -> Result<u32, Failure> {
        std::future::ready(()).await;
        Ok(task.attempt + u32::from(input.numbers[0]))
    }

    fn task(input: &str) -> wit::Task {
        wit::Task {
            id: "t".to_owned(),
            attempt: 3,
            max_attempts: 4,
            deadline: 0,
            input: input.to_owned(),
        }
    }

    #[test]
    fn a_plain_and_an_async_function_are_called_with_typed_input() {
        assert_eq!(handle(sum, task(r#"{"numbers":[1,2]}"#)).unwrap(), "3");
        assert_eq!(handle(attempt, task(r#"{"numbers":[4]}"#)).unwrap(), "7");
    }

    #[test]
    fn input_that_does_not_fit_is_a_permanent_failure_that_names_the_field() {
        for (input, expected) in [
            (r#"{"numbers":[1,"x"]}"#, "input.numbers[1]: invalid type: string \"x\", expected u8"),
            (r#"{"numbers":[300]}"#, "input.numbers[0]: invalid value: integer `300`, expected u8"),
            ("{}", "input: missing field `numbers`"),
            (r#"{"numbers":[]} x"#, "input: trailing characters"),
        ] {
            let failure = handle(sum, task(input)).unwrap_err();
            assert_eq!(failure.message, expected);
            assert!(matches!(failure.retry, wit::Retry::Never));
        }
    }

    #[test]
    fn the_description_carries_both_schemas() {
        let about = About::new("a", "1.2.3", "b").name("c").capabilities(&["http"]);
        let description = describe(sum, about);
        assert_eq!((description.name.as_str(), description.version.as_str()), ("c", "1.2.3"));
        assert_eq!(description.capabilities, ["http"]);
        let input: serde_json::Value = serde_json::from_str(&description.input_schema).unwrap();
        assert_eq!(input["required"], serde_json::json!(["numbers"]));
        assert_eq!(input["additionalProperties"], false);
        let output: serde_json::Value = serde_json::from_str(&description.output_schema).unwrap();
        assert_eq!(output["type"], "integer");
    }
}
