//! How an attempt ended: the kind of failure and its message.
//!
//! | file | the concept |
//! |---|---|
//! | `trap` | traps |
//! | `said` | what the guest said about its end, and refusals that explain it |

mod said;
mod trap;

use std::time::Duration;

use taskforge_domain::{Failure, FailureKind, Json, Outcome, PluginInfo, Shape, json};
use wasmtime::{Error, Store, Trap, WasmBacktrace, component::ResourceTableError};
use wasmtime_wasi::I32Exit;

use crate::{
    budget::OverBudget,
    host::{CARGO, HostCallLimit, HostState, OutputLimit},
    log::cut,
    refusal,
};
pub(crate) use said::said;
use said::{End, gave_up, own};
use trap::trapped;

/// The longest failure message that is kept, in bytes.
pub(crate) const MESSAGE: usize = 2000;

/// A handler's text as a failure message, cut to what is kept.
pub(crate) fn message(said: &str) -> String {
    cut(said, MESSAGE).to_owned()
}

/// How a call into the guest ended.
pub(crate) enum Ending<T> {
    /// The function returned.
    Returned(T),
    /// The engine or a host function stopped it.
    Stopped(Error),
    /// A host function panicked.
    Panicked,
    /// Its deadline passed.
    Deadline,
    /// The task was cancelled.
    Cancelled,
}

impl<T> Ending<T> {
    pub(crate) fn of(result: std::thread::Result<wasmtime::Result<T>>) -> Self {
        match result {
            Ok(Ok(value)) => Self::Returned(value),
            Ok(Err(error)) => Self::Stopped(error),
            Err(_) => Self::Panicked,
        }
    }
}

/// The outcome of an attempt. A call that returned gave the text of an output or the handler's own
/// failure.
pub(crate) fn of_attempt(
    ending: Ending<Result<String, Failure>>,
    store: &Store<HostState>,
    info: &PluginInfo,
) -> Outcome {
    let failure = match ending {
        Ending::Returned(Ok(output)) => match output_of(output, store.data(), info) {
            Ok(output) => return Outcome::Completed(output),
            Err(failure) => failure,
        },
        Ending::Returned(Err(failure)) => own(failure, store.data()),
        Ending::Stopped(error) => stopped(&error, store, info),
        Ending::Panicked => internal("a host function panicked"),
        Ending::Deadline => deadline(info.limits.deadline),
        Ending::Cancelled => cancelled(),
    };
    Outcome::Failed(failure)
}

/// The value of another call, or the failure that it means that there is none.
pub(crate) fn of_other<T>(
    ending: Ending<T>,
    store: &Store<HostState>,
    info: &PluginInfo,
) -> Result<T, Failure> {
    Err(match ending {
        Ending::Returned(value) => return Ok(value),
        Ending::Stopped(error) => stopped(&error, store, info),
        Ending::Panicked => internal("a host function panicked"),
        Ending::Deadline => deadline(info.limits.deadline),
        Ending::Cancelled => cancelled(),
    })
}

pub(crate) fn cancelled() -> Failure {
    Failure::new(FailureKind::Cancelled, "the task was cancelled")
}

fn deadline(limit: Duration) -> Failure {
    Failure::new(FailureKind::Deadline, format!("the handler did not end within {limit:?}"))
}

/// The cause goes to the host's log, for the operator. The client only learns that it was not the
/// handler.
pub(crate) fn internal(cause: &str) -> Failure {
    tracing::error!(cause, "an attempt failed through the host's fault");
    Failure::new(FailureKind::Internal, "the host failed to run the handler")
}

fn output_of(output: String, state: &HostState, info: &PluginInfo) -> Result<Json, Failure> {
    let (size, limit) = (output.len() as u64, info.limits.output);
    // The bytes were read within what the budget had left; now they count towards the peak.
    drop(state.budget.charge("the output", size));
    if size > limit {
        return Err(Failure::new(
            FailureKind::OutputTooLarge,
            format!("the output has {size} bytes and the limit is {limit}"),
        ));
    }
    if let Some(at) = json::too_deep(&output) {
        return Err(Failure::new(
            FailureKind::InvalidOutput,
            format!("the output nests deeper than {} levels, at byte {at}", json::MAX_DEPTH),
        ));
    }
    let beginning = cut(&output, SHOWN).to_owned();
    Json::parse(output).map_err(|error| not_json(&beginning, &error.to_string(), info.shape))
}

/// How many bytes of an invalid output a message shows.
const SHOWN: usize = 100;

/// The failure of an output that is no JSON: what it begins with, and what to do about it.
fn not_json(beginning: &str, error: &str, shape: Shape) -> Failure {
    let advice = match shape {
        Shape::Handler => "return the text of one JSON value",
        Shape::Command => {
            "print one JSON value to standard output, and what is for people to standard error"
        }
        Shape::Http => {
            "answer with one JSON value; text is one in quotes, as JSON.stringify makes it"
        }
    };
    let beginning = refusal::quoted(beginning);
    let why = format!("the output is not JSON ({error}); it begins {beginning:?}: {advice}");
    Failure::new(FailureKind::InvalidOutput, message(&why))
}

/// The text of an output.
pub(crate) fn text_of(bytes: Vec<u8>, shape: Shape) -> Result<String, Failure> {
    String::from_utf8(bytes).map_err(|error| {
        let beginning = error.as_bytes().get(..SHOWN).unwrap_or(error.as_bytes());
        let beginning = String::from_utf8_lossy(beginning);
        not_json(&beginning, "it is not UTF-8", shape)
    })
}

/// Does not name the size, because nothing is read beyond the limit.
pub(crate) fn output_too_large(limit: u64) -> Failure {
    let why = format!("the output is larger than the limit of {limit} bytes");
    Failure::new(FailureKind::OutputTooLarge, why)
}

fn stopped(error: &Error, store: &Store<HostState>, info: &PluginInfo) -> Failure {
    let state = store.data();
    if let Some(exit) = error.downcast_ref::<I32Exit>() {
        let why = format!("the handler exited with status {}", exit.0);
        return gave_up(FailureKind::Exited, &why, End::Chosen, state);
    }
    if let Some(unanswered) = error.downcast_ref::<Unanswered>() {
        let why = unanswered.to_string();
        return gave_up(FailureKind::Retryable, &why, End::Chosen, state);
    }
    if let Some(limit) = error.downcast_ref::<HostCallLimit>() {
        return Failure::new(FailureKind::HostCallLimit, format!("the handler ran into {limit}"));
    }
    if let Some(OutputLimit(limit)) = error.downcast_ref::<OutputLimit>() {
        return output_too_large(*limit);
    }
    if let Some(ResourceTableError::Full) = error.downcast_ref() {
        return too_many_handles(info);
    }
    if let Some(over) = error.downcast_ref::<OverBudget>() {
        return Failure::new(FailureKind::OutOfMemory, over.to_string());
    }
    if let Some(trap) = error.downcast_ref::<Trap>() {
        return trapped(*trap, error, state, info);
    }
    if let Some(denied) = state.limiter.denied() {
        return Failure::new(FailureKind::OutOfMemory, denied);
    }
    let text = error.root_cause().to_string();
    // The engine has no types for these errors; tests check their texts.
    if text.contains("resource limit exceeded") {
        return Failure::new(FailureKind::OutOfMemory, text);
    }
    if text.contains("store handle limit exceeded") {
        return too_many_handles(info);
    }
    let oversized = text.contains("hostcalls has been exhausted");
    // A failed call of the host ends the guest's function too. Its backtrace tells it from a
    // failure to read the result.
    let returned = state.calls.returned() && !error.is::<WasmBacktrace>();
    // The guest's allocator runs before the function, and its result is read too.
    if returned && !text.contains("realloc return") {
        return if oversized {
            no_room(state, info.limits.output)
                .unwrap_or_else(|| output_too_large(info.limits.output))
        } else {
            Failure::new(FailureKind::InvalidOutput, format!("the output cannot be read: {text}"))
        };
    }
    if oversized {
        return no_room(state, CARGO as u64).unwrap_or_else(|| {
            let why = "a host call carried more than a host call may";
            Failure::new(FailureKind::HostCallLimit, why)
        });
    }
    // What remains are errors at the border of guest and host: a handle that does not exist, or
    // text that is not UTF-8.
    if state.calls.returned() || error.is::<WasmBacktrace>() {
        return Failure::new(
            FailureKind::Trap,
            format!("the handler broke its contract with the host: {text}"),
        );
    }
    internal(&format!("{error:#}"))
}

/// The failure if the memory limit is why a copy of at most this many bytes had no room.
fn no_room(state: &HostState, most: u64) -> Option<Failure> {
    let over = state.budget.charge("a copy out of the handler's memory", most).err()?;
    Some(Failure::new(FailureKind::OutOfMemory, over.to_string()))
}

fn too_many_handles(info: &PluginInfo) -> Failure {
    let limit = info.limits.handles;
    let why =
        format!("the handler held more than {limit} handles at once (`handles` under [limits])");
    Failure::new(FailureKind::HostCallLimit, why)
}

/// A web server whose function returned without an answer, or with one that has no end. Other hosts
/// answer 500 for it.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Unanswered(pub(crate) String);
