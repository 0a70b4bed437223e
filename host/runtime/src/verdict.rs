//! How an attempt ended: the kind of failure, and a sentence about it.

use std::time::Duration;

use taskforge_domain::{Failure, FailureKind, Json, LogLevel, Outcome, PluginInfo, json};
use wasmtime::{Error, Store, Trap, WasmBacktrace, component::ResourceTableError};
use wasmtime_wasi::I32Exit;

use crate::{
    budget::OverBudget,
    host::{CARGO, HostCallLimit, HostState, OutputLimit},
    log::cut,
};

/// The longest failure message that is kept, in bytes.
pub(crate) const MESSAGE: usize = 2000;

/// As much of what a handler says as a failure keeps.
pub(crate) fn message(said: &str) -> String {
    cut(said, MESSAGE).to_owned()
}

/// How a guest's call came back.
pub(crate) enum Ending<T> {
    /// The function returned.
    Returned(T),
    /// The engine or a host function stopped it.
    Stopped(Error),
    /// A host function panicked.
    Panicked,
    /// Its time was up.
    Deadline,
    /// Somebody called it off.
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

/// Judges an attempt: what returned is the text of an output, or a failure of the handler's own.
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
        Ending::Returned(Err(failure)) => failure,
        Ending::Stopped(error) => stopped(&error, store, info),
        Ending::Panicked => internal("a host function panicked"),
        Ending::Deadline => deadline(info.limits.deadline),
        Ending::Cancelled => cancelled(),
    };
    Outcome::Failed(blame_refusal(failure, store))
}

/// Why a call that should have returned a value did not.
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
    Failure::new(
        FailureKind::Deadline,
        format!("the handler did not end within {limit:?}"),
    )
}

/// The operator reads the cause in the host's log; the client only learns that it was not the handler.
pub(crate) fn internal(cause: &str) -> Failure {
    tracing::error!(cause, "an attempt failed through the host's fault");
    Failure::new(FailureKind::Internal, "the host failed to run the handler")
}

fn output_of(output: String, state: &HostState, info: &PluginInfo) -> Result<Json, Failure> {
    let (size, limit) = (output.len() as u64, info.limits.output);
    // It is there already, within the room that it was read with; now it shows in the peak too.
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
            format!(
                "the output nests deeper than {} levels, at byte {at}",
                json::MAX_DEPTH
            ),
        ));
    }
    Json::parse(output).map_err(|error| {
        Failure::new(
            FailureKind::InvalidOutput,
            format!("the output is not JSON: {error}"),
        )
    })
}

/// The size is not known: nobody counts what comes after the limit.
pub(crate) fn output_too_large(limit: u64) -> Failure {
    let why = format!("the output is larger than the limit of {limit} bytes");
    Failure::new(FailureKind::OutputTooLarge, why)
}

fn stopped(error: &Error, store: &Store<HostState>, info: &PluginInfo) -> Failure {
    let state = store.data();
    if let Some(exit) = error.downcast_ref::<I32Exit>() {
        return Failure::new(
            FailureKind::Exited,
            format!("the handler exited with status {}", exit.0),
        );
    }
    if let Some(limit) = error.downcast_ref::<HostCallLimit>() {
        return Failure::new(
            FailureKind::HostCallLimit,
            format!("the handler ran into {limit}"),
        );
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
    // The engine has no types for these; the tests hold their texts.
    if text.contains("resource limit exceeded") {
        return Failure::new(FailureKind::OutOfMemory, text);
    }
    if text.contains("store handle limit exceeded") {
        return too_many_handles(info);
    }
    let oversized = text.contains("hostcalls has been exhausted");
    // A call of the host that fails ends the guest's function too, and is told by where it was made.
    let returned = state.calls.returned() && !error.is::<WasmBacktrace>();
    // The guest's allocator is called before the function is, with the arguments' size, and its result is read too.
    if returned && !text.contains("realloc return") {
        return if oversized {
            crowded(state, info.limits.output).unwrap_or_else(|| output_too_large(info.limits.output))
        } else {
            Failure::new(
                FailureKind::InvalidOutput,
                format!("the output cannot be read: {text}"),
            )
        };
    }
    if oversized {
        return crowded(state, CARGO as u64).unwrap_or_else(|| {
            let why = "a host call carried more than a host call may";
            Failure::new(FailureKind::HostCallLimit, why)
        });
    }
    // What is left of errors where guest and host meet: a handle that does not exist, text that is not UTF-8.
    if state.calls.returned() || error.is::<WasmBacktrace>() {
        return Failure::new(
            FailureKind::Trap,
            format!("the handler broke its contract with the host: {text}"),
        );
    }
    internal(&format!("{error:#}"))
}

/// Whether it was the memory limit that left no room for as much as a copy may have otherwise.
fn crowded(state: &HostState, most: u64) -> Option<Failure> {
    let over = state
        .budget
        .charge("a copy out of the handler's memory", most)
        .err()?;
    Some(Failure::new(FailureKind::OutOfMemory, over.to_string()))
}

fn too_many_handles(info: &PluginInfo) -> Failure {
    let limit = info.limits.handles;
    let why = format!("the handler held more than {limit} handles at once (`handles` under [limits])");
    Failure::new(FailureKind::HostCallLimit, why)
}

fn trapped(trap: Trap, error: &Error, state: &HostState, info: &PluginInfo) -> Failure {
    let limits = &info.limits;
    match trap {
        Trap::OutOfFuel => Failure::new(
            FailureKind::OutOfFuel,
            format!("the handler used up its fuel of {}", limits.fuel),
        ),
        Trap::StackOverflow => {
            Failure::new(FailureKind::StackOverflow, "the handler's call stack overflowed")
        }
        // A refused growth reaches the guest as a failed allocation, on which most programs abort. So a trap after a
        // refusal is taken for its consequence.
        _ if state.limiter.denied().is_some() => {
            let denied = state.limiter.denied().unwrap_or_default();
            Failure::new(
                FailureKind::OutOfMemory,
                format!("the handler ran out of memory: {denied}"),
            )
        }
        _ => {
            let mut log = state.log.lock();
            log.flush();
            if let Some(place) = error.downcast_ref::<WasmBacktrace>().and_then(place) {
                log.note(LogLevel::Error, &place);
            }
            let message = match log.panic_message() {
                Some(said) => format!("the handler panicked: {}", cut(&said, MESSAGE)),
                None => format!("the handler trapped: {trap}"),
            };
            Failure::new(FailureKind::Trap, message)
        }
    }
}

/// The functions that a trap came through, for components that carry names.
fn place(backtrace: &WasmBacktrace) -> Option<String> {
    let names: Vec<_> = backtrace
        .frames()
        .iter()
        .filter_map(|frame| frame.func_name())
        .collect();
    (!names.is_empty()).then(|| format!("trapped in {}", names.join(", called from ")))
}

/// A handler that was refused something and then gave up did so because of it, and trying again would only be refused
/// again. One that copes and returns an output completes.
fn blame_refusal(failure: Failure, store: &Store<HostState>) -> Failure {
    use FailureKind::{Exited, Permanent, Retryable, Trap};
    let log = store.data().log.lock();
    match log.refusal() {
        Some(refusal) if matches!(failure.kind, Permanent | Retryable | Trap | Exited) => {
            let message = format!("{} ({})", failure.message, refusal.message);
            Failure::new(refusal.kind, cut(&message, MESSAGE))
        }
        _ => failure,
    }
}
