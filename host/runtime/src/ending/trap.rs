//! Traps of the guest.

use taskforge_domain::{Failure, FailureKind, LogLevel, PluginInfo};
use wasmtime::{Error, Trap, WasmBacktrace};

use super::said::{End, gave_up};
use crate::host::HostState;

/// The failure that a trap means.
pub(super) fn trapped(trap: Trap, error: &Error, state: &HostState, info: &PluginInfo) -> Failure {
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
                // Programs abort by this instruction.
                Trap::UnreachableCodeReached => End::Chosen,
                Trap::MemoryOutOfBounds => End::BadAddress,
                _ => End::Fault,
            };
            gave_up(FailureKind::Trap, &format!("the handler trapped: {trap}"), end, state)
        }
    }
}

/// The functions that a trap came through, if the component carries their names.
fn place(backtrace: &WasmBacktrace) -> Option<String> {
    let names: Vec<_> = backtrace.frames().iter().filter_map(|frame| frame.func_name()).collect();
    (!names.is_empty()).then(|| format!("trapped in {}", names.join(", called from ")))
}

/// How far below the beginning of its memory a guest writes when its stack overflows, at most, in
/// bytes: one frame.
const FRAME: u64 = 1 << 20;

/// Whether a guest accessed an address below the beginning of its memory, where addresses wrap
/// around. Compilers put a program's stack there, so that it cannot grow into other data.
fn below_its_memory(error: &Error) -> bool {
    // The engine does not export the type; a test checks its text.
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

/// Whether one function appears three times or more among the innermost frames.
fn recurses(backtrace: &WasmBacktrace) -> bool {
    let frames = backtrace.frames();
    let innermost = frames.iter().map(|frame| frame.func_index());
    innermost
        .clone()
        .any(|function| innermost.clone().filter(|other| *other == function).count() >= 3)
}
