//! How an attempt ended: the kind of failure, and a sentence about it.

use std::time::Duration;

use taskforge_domain::{Failure, FailureKind, Json, LogLevel, Outcome, PluginInfo, Shape, json};
use wasmtime::{Error, Store, Trap, WasmBacktrace, component::ResourceTableError};
use wasmtime_wasi::I32Exit;

use crate::{
    budget::OverBudget,
    host::{CARGO, HostCallLimit, HostState, OutputLimit},
    log::cut,
    refusal,
    words::Report,
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
        Ending::Returned(Err(failure)) => own(failure, store.data()),
        Ending::Stopped(error) => stopped(&error, store, info),
        Ending::Panicked => internal("a host function panicked"),
        Ending::Deadline => deadline(info.limits.deadline),
        Ending::Cancelled => cancelled(),
    };
    Outcome::Failed(failure)
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
    Failure::new(FailureKind::Deadline, format!("the handler did not end within {limit:?}"))
}

/// The operator reads the cause in the host's log; the client only learns that it was not the
/// handler.
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
            format!("the output nests deeper than {} levels, at byte {at}", json::MAX_DEPTH),
        ));
    }
    // What follows the first bytes is not shown.
    let beginning = cut(&output, SHOWN).to_owned();
    Json::parse(output).map_err(|error| not_json(&beginning, &error.to_string(), info.shape))
}

/// What a message shows of an output that is none, in bytes.
const SHOWN: usize = 100;

/// Says what came instead of JSON, and what to do about it.
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

/// The text of an output that came as bytes.
pub(crate) fn text_of(bytes: Vec<u8>, shape: Shape) -> Result<String, Failure> {
    String::from_utf8(bytes).map_err(|error| {
        let beginning = error.as_bytes().get(..SHOWN).unwrap_or(error.as_bytes());
        let beginning = String::from_utf8_lossy(beginning);
        not_json(&beginning, "it is not UTF-8", shape)
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
    // The engine has no types for these; the tests hold their texts.
    if text.contains("resource limit exceeded") {
        return Failure::new(FailureKind::OutOfMemory, text);
    }
    if text.contains("store handle limit exceeded") {
        return too_many_handles(info);
    }
    let oversized = text.contains("hostcalls has been exhausted");
    // A call of the host that fails ends the guest's function too, and is told by where it was
    // made.
    let returned = state.calls.returned() && !error.is::<WasmBacktrace>();
    // The guest's allocator is called before the function is, with the arguments' size, and its
    // result is read too.
    if returned && !text.contains("realloc return") {
        return if oversized {
            crowded(state, info.limits.output)
                .unwrap_or_else(|| output_too_large(info.limits.output))
        } else {
            Failure::new(FailureKind::InvalidOutput, format!("the output cannot be read: {text}"))
        };
    }
    if oversized {
        return crowded(state, CARGO as u64).unwrap_or_else(|| {
            let why = "a host call carried more than a host call may";
            Failure::new(FailureKind::HostCallLimit, why)
        });
    }
    // What is left of errors where guest and host meet: a handle that does not exist, text that is
    // not UTF-8.
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
    let over = state.budget.charge("a copy out of the handler's memory", most).err()?;
    Some(Failure::new(FailureKind::OutOfMemory, over.to_string()))
}

fn too_many_handles(info: &PluginInfo) -> Failure {
    let limit = info.limits.handles;
    let why =
        format!("the handler held more than {limit} handles at once (`handles` under [limits])");
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
        trap => {
            let backtrace = error.downcast_ref::<WasmBacktrace>();
            if let Some(place) = backtrace.and_then(place) {
                let mut log = state.log.lock();
                log.flush();
                log.note(LogLevel::Error, &place);
            }
            if trap == Trap::MemoryOutOfBounds
                && below_its_memory(error)
                && backtrace.is_some_and(recurses)
            {
                let why = "the handler's stack in its own memory overflowed: it called itself without end";
                return Failure::new(FailureKind::StackOverflow, why);
            }
            let end = match trap {
                // This instruction is how programs abort.
                Trap::UnreachableCodeReached => End::Chosen,
                Trap::MemoryOutOfBounds => End::BadAddress,
                _ => End::Fault,
            };
            gave_up(FailureKind::Trap, &format!("the handler trapped: {trap}"), end, state)
        }
    }
}

/// The functions that a trap came through, for components that carry names.
fn place(backtrace: &WasmBacktrace) -> Option<String> {
    let names: Vec<_> = backtrace.frames().iter().filter_map(|frame| frame.func_name()).collect();
    (!names.is_empty()).then(|| format!("trapped in {}", names.join(", called from ")))
}

/// How far below the beginning of its memory a guest may have written when its stack overflowed, in
/// bytes: one frame.
const FRAME: u64 = 1 << 20;

/// Whether a guest went beyond its memory's beginning, which wraps around. Compilers put the stack
/// that a program keeps in its memory there, so that it cannot grow into anything else.
fn below_its_memory(error: &Error) -> bool {
    // The engine keeps the type to itself; the tests hold its text.
    let address = error.chain().find_map(|cause| {
        let text = cause.to_string();
        let rest = text.split_once("memory fault at wasm address 0x")?.1;
        let digits = rest.split(' ').next()?;
        u64::from_str_radix(digits, 16).ok()
    });
    address.is_some_and(|address| {
        let end = 1 << 32;
        (end - FRAME..end).contains(&address)
    })
}

/// Whether one function stands several times among the innermost.
fn recurses(backtrace: &WasmBacktrace) -> bool {
    let frames = backtrace.frames();
    let innermost = frames.iter().map(|frame| frame.func_index());
    innermost
        .clone()
        .any(|function| innermost.clone().filter(|other| *other == function).count() >= 3)
}

/// How a guest ended that gave up without a word to its host.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    /// It exited or aborted. Programs say why before they do, and the reason may be a refusal.
    Chosen,
    /// It went outside its memory, for one where an allocation had failed. It had no time to say
    /// so: the last line that it wrote is about something else, and only refused memory explains
    /// it.
    BadAddress,
    /// It did what no program may, such as a division by zero. No line is about that, and no
    /// refusal explains it.
    Fault,
}

/// A guest that gave up without a word to its host: in the words that it wrote, or else in these,
/// unless it was refused something and that explains it.
fn gave_up(kind: FailureKind, otherwise: &str, end: End, state: &HostState) -> Failure {
    let said = said_before(end, state);
    let log = state.log.lock();
    let message = message(said.as_deref().unwrap_or(otherwise));
    if said.as_deref().is_some_and(|said| said.contains("stack overflow")) {
        return Failure::new(FailureKind::StackOverflow, message);
    }
    // A refused growth reaches the guest as a failed allocation, on which most programs abort.
    if end != End::Fault
        && let Some(denied) = state.limiter.denied()
        && explains(FailureKind::OutOfMemory, said.as_deref())
    {
        let why = format!("the handler ran out of memory: {denied}");
        return Failure::new(FailureKind::OutOfMemory, why);
    }
    match log.refusal() {
        Some(refusal) if end == End::Chosen && speaks_of(refusal, said.as_deref()) => {
            blamed(refusal, &message)
        }
        _ => Failure::new(kind, message),
    }
}

/// What a guest wrote about its end, as a message.
pub(crate) fn said(state: &HostState) -> Option<String> {
    said_before(End::Chosen, state).map(|said| message(&said))
}

fn said_before(end: End, state: &HostState) -> Option<String> {
    let mut log = state.log.lock();
    match (log.last_words(), end) {
        ((Some(Report::Panic(text)), _), _) => Some(format!("the handler panicked: {text}")),
        ((Some(Report::Exception(line)), _), _) => Some(line.clone()),
        ((None, Some(line)), End::Chosen) => Some(line.to_owned()),
        _ => None,
    }
}

/// A failure of the handler's own. It means what it says; a refusal is named when it speaks of one,
/// and trying again would only be refused again. One that asks for another attempt gets it.
fn own(failure: Failure, state: &HostState) -> Failure {
    let log = state.log.lock();
    let said = Some(failure.message.as_str()).filter(|said| !said.trim().is_empty());
    match log.refusal() {
        Some(refusal) if failure.kind == FailureKind::Permanent && speaks_of(refusal, said) => {
            blamed(refusal, &failure.message)
        }
        _ => failure,
    }
}

fn blamed(refusal: &Failure, said: &str) -> Failure {
    let text = format!("{said} ({})", refusal.message);
    Failure::new(refusal.kind, message(text.trim_start()))
}

/// Whether a refusal explains the end of a guest that said this: in its own words, or in those that
/// it was refused with.
fn speaks_of(refusal: &Failure, said: Option<&str>) -> bool {
    explains(refusal.kind, said) || said.is_some_and(|said| said.contains(&refusal.message))
}

/// Whether a refusal explains the end of a guest that said this: when it said nothing, or speaks of
/// such a thing. A guest that copes with a refusal and then fails for another reason has the words
/// for that.
fn explains(refused: FailureKind, said: Option<&str>) -> bool {
    let Some(said) = said else { return true };
    // What interfaces, languages and libraries call it. Servers and programs have limits, sizes and
    // permissions of their own, so no word that would do for those is among them.
    let names: &[&str] = match refused {
        FailureKind::CapabilityDenied => &["denied", "denies", "prohibited", "networkerror"],
        FailureKind::OutOfMemory => &["memory", "alloc", "heap", CONNECTIONS, BODY, TOO_LARGE],
        _ => &["denied", CONNECTIONS, BODY, TOO_LARGE, "request body is too large"],
    };
    // Error codes are written in as many ways as there are languages.
    let said = said.to_lowercase();
    let code: String = said.chars().filter(|c| !matches!(c, '-' | '_')).collect();
    names.iter().any(|name| said.contains(name) || code.contains(name))
}

/// The codes of `wasi:http` for what no memory or no request was left for,
/// `ConnectionLimitReached`, and for the bodies that were too large, `HttpRequestBodySize` and
/// `HttpResponseBodySize`.
const CONNECTIONS: &str = "connectionlimit";
const BODY: &str = "bodysize";
/// What the SDK makes of the latter.
const TOO_LARGE: &str = "than the host allows";

/// A web server whose function returned, and left its answer unsaid or without an end. Other hosts
/// answer 500 for it.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Unanswered(pub(crate) String);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_explains_what_says_nothing_or_speaks_of_it() {
        use FailureKind::{CapabilityDenied, HostCallLimit, OutOfMemory};
        for (refused, said, explained) in [
            (CapabilityDenied, None, true),
            (CapabilityDenied, Some("ErrorCode_HttpRequestDenied"), true),
            (CapabilityDenied, Some("connect: Permission denied"), true),
            (
                CapabilityDenied,
                Some("TypeError: NetworkError when attempting to fetch resource"),
                true,
            ),
            (CapabilityDenied, Some("ValueError: boom"), false),
            (CapabilityDenied, Some("PermissionError: invoice 7"), false),
            (CapabilityDenied, Some("not permitted by ledger"), false),
            (OutOfMemory, None, true),
            (OutOfMemory, Some("MemoryError"), true),
            (OutOfMemory, Some("memory allocation of 65536 bytes failed"), true),
            (OutOfMemory, Some("fatal error: grew heap, but no adequate free space found"), true),
            (OutOfMemory, Some("ErrorCode_ConnectionLimitReached()"), true),
            (OutOfMemory, Some("panic: index out of range"), false),
            (OutOfMemory, Some("429 rate limit exceeded"), false),
            (OutOfMemory, Some("413 payload too large"), false),
            (HostCallLimit, Some("ConnectionLimitReached"), true),
            (HostCallLimit, Some("connection-limit-reached"), true),
            (HostCallLimit, Some("HTTP-request-body-size(1048576)"), true),
            (HostCallLimit, Some("the response body is larger than the host allows"), true),
            (HostCallLimit, Some("panic: index out of range"), false),
            (HostCallLimit, Some("429 rate limit exceeded"), false),
            (HostCallLimit, Some("chunk size must be positive"), false),
        ] {
            assert_eq!(explains(refused, said), explained, "{refused}: {said:?}");
        }
    }
}
