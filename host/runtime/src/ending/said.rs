//! What the guest said about its end, and refusals that explain it.

use taskforge_domain::{Failure, FailureKind};

use super::message;
use crate::{host::HostState, words::Report};

/// How a guest ended that returned nothing to its host.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// It exited or aborted. Programs print the reason before they do, which may be a refusal.
    Chosen,
    /// It accessed an address outside its memory, as after a failed allocation. Its last line is
    /// about something else, and only refused memory explains such an end.
    BadAddress,
    /// It did what no program may, such as a division by zero. No line and no refusal explain it.
    Fault,
}

/// The failure of a guest that returned nothing to its host. The message is what the guest wrote,
/// or else `otherwise`; a refusal that explains the end decides the kind.
pub(super) fn gave_up(kind: FailureKind, otherwise: &str, end: End, state: &HostState) -> Failure {
    let said = said_before(end, state);
    let log = state.log.lock();
    let message = message(said.as_deref().unwrap_or(otherwise));
    if said.as_deref().is_some_and(|said| said.contains("stack overflow")) {
        return Failure::new(FailureKind::StackOverflow, message);
    }
    // A guest sees a refused growth as a failed allocation, on which most programs abort.
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

/// What the guest wrote about its end, as a message.
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

/// The handler's own failure. A permanent one that speaks of a refusal gets the refusal's kind,
/// because another attempt would be refused too. One that asks for another attempt gets it.
pub(super) fn own(failure: Failure, state: &HostState) -> Failure {
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

/// Whether a refusal explains the end of a guest that said this, in its own words or in those of
/// the refusal.
fn speaks_of(refusal: &Failure, said: Option<&str>) -> bool {
    explains(refusal.kind, said) || said.is_some_and(|said| said.contains(&refusal.message))
}

/// Whether a refusal of this kind explains the end of a guest that said this: it said nothing, or
/// its words fit. A guest that copes with a refusal and then fails for another reason says so.
fn explains(refused: FailureKind, said: Option<&str>) -> bool {
    let Some(said) = said else { return true };
    // The words of interfaces, languages and libraries. Servers and programs have limits, sizes and
    // permissions of their own, so words that fit those are left out.
    let names: &[&str] = match refused {
        FailureKind::CapabilityDenied => &["denied", "denies", "prohibited", "networkerror"],
        FailureKind::OutOfMemory => &["memory", "alloc", "heap", CONNECTIONS, BODY, TOO_LARGE],
        _ => &["denied", CONNECTIONS, BODY, TOO_LARGE, "request body is too large"],
    };
    // Languages write error codes in different ways.
    let said = said.to_lowercase();
    let code: String = said.chars().filter(|c| !matches!(c, '-' | '_')).collect();
    names.iter().any(|name| said.contains(name) || code.contains(name))
}

/// The codes of `wasi:http` when no memory or no request is left, `ConnectionLimitReached`, and for
/// bodies that are too large, `HttpRequestBodySize` and `HttpResponseBodySize`.
const CONNECTIONS: &str = "connectionlimit";
const BODY: &str = "bodysize";
/// The SDK's words for the latter.
const TOO_LARGE: &str = "than the host allows";

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
