//! Why bytes did not become a plugin: a line of bounded length that its author can act on.

use std::time::Duration;

use taskforge_domain::{AboveCeiling, Failure};

use crate::{contract::HANDLER_FAMILY, log::cut};

/// The longest text of the engine or the component that a message quotes, in bytes.
const QUOTED: usize = 400;

/// The longest name in a message, in characters.
const NAME: usize = 100;

/// The names that a list shows before it counts the rest.
const LISTED: usize = 10;

/// What the engine says of a proposal that is switched off here, and how a component is built
/// without it. Exceptions and garbage collection would give each instance a heap that the engine
/// keeps outside its pool of memories.
const ADVICE: [(&str, &str); 4] = [
    (
        "exceptions",
        "this host runs no WebAssembly exceptions; build C++ with -fno-exceptions, C without setjmp \
         (no -mllvm -wasm-enable-sjlj), Rust with panic = \"abort\"; Kotlin and Java need a toolchain that compiles \
         to plain WebAssembly",
    ),
    (
        "gc ",
        "this host runs no garbage-collected WebAssembly; use a toolchain that brings its own collector, as those of \
         Go, Python and JavaScript do",
    ),
    (
        "threads",
        "this host runs no threads; build for wasm32-wasip2, not for a target with threads",
    ),
    ("memory64", "this host runs 32-bit memories only; build for wasm32"),
];

/// Why bytes did not become a plugin. The texts speak to the plugin's author or operator.
#[derive(Debug, Clone, thiserror::Error)]
pub enum LoadError {
    /// Something else than WebAssembly.
    #[error("this is {0}, not a WebAssembly component")]
    NotWasm(&'static str),
    /// WebAssembly that is cut short or damaged.
    #[error("this WebAssembly file is damaged or incomplete: {0}")]
    Malformed(String),
    /// A core module, which knows no interfaces.
    #[error("this is a core module, not a component: build for wasm32-wasip2")]
    CoreModule,
    /// A component of another kind.
    #[error("this component exports {}, not {HANDLER_FAMILY}: export the handler interface of taskforge:plugin", list(.0))]
    NotAPlugin(Vec<String>),
    /// A component that exports the handler interface of another contract.
    #[error("this component exports {}; this host speaks {HANDLER_FAMILY}: build it with a taskforge-sdk of that version", name(.0))]
    OtherContract(String),
    /// A component of the generation of WASI that comes after this host's.
    #[error(
        "this component uses {}: WASI 0.3 is not supported yet; build it for WASI 0.2 (wasm32-wasip2), any patch version",
        name(.0)
    )]
    NewerWasi(String),
    /// A WASI command or web server that came without a manifest.
    #[error("this component exports {}, not {HANDLER_FAMILY}, and so does not say its name: give name and version with the push", name(.0))]
    Nameless(String),
    /// It imports and exports more than this host keeps count of.
    #[error(
        "this component imports and exports {count} names of {bytes} bytes; this host loads at most {limit} of {byte_limit} bytes"
    )]
    TooManyNames {
        /// How many names it has.
        count: usize,
        /// Their length, in bytes.
        bytes: usize,
        /// How many it may have.
        limit: usize,
        /// The length that they may have, in bytes.
        byte_limit: usize,
    },
    /// Larger than the runtime allows.
    #[error("this component has {size} bytes; this host loads at most {limit}")]
    TooLarge {
        /// The component's size, in bytes.
        size: u64,
        /// The limit, in bytes.
        limit: u64,
    },
    /// It uses features of WebAssembly that this host has switched off, or is too much for the
    /// compiler.
    #[error("this component cannot be compiled: {0}")]
    Unsupported(String),
    /// Compiling it was given up.
    #[error("compiling this component took longer than {0:?}: make its functions smaller or fewer")]
    CompileTime(Duration),
    /// Compiling it was given up.
    #[error("compiling this component needed more than {}: make its functions smaller or fewer", size(*.0))]
    CompileMemory(u64),
    /// It imports what this host does not have.
    #[error("this component does not fit this host: {0}")]
    Incompatible(String),
    /// The operator's limits are more than the runtime allows.
    #[error(transparent)]
    Limits(#[from] AboveCeiling),
    /// `describe` did not return.
    #[error("the plugin failed to describe itself: {0}")]
    Describe(#[source] Failure),
    /// `describe`, or the manifest, says something that makes no sense.
    #[error("the plugin describes itself wrongly: {0}")]
    Description(String),
    /// The host's fault.
    #[error("the plugin could not be loaded: {0}")]
    Internal(String),
}

impl LoadError {
    pub(crate) fn malformed(error: &wasmparser::BinaryReaderError) -> Self {
        Self::Malformed(quoted(&error.to_string()))
    }

    pub(crate) fn unsupported(error: &wasmtime::Error) -> Self {
        Self::not_compiled(&format!("{error:#}"))
    }

    /// In the engine's words, and with what the author can do about them.
    pub(crate) fn not_compiled(said: &str) -> Self {
        let advice = ADVICE.iter().find(|(words, _)| said.contains(words));
        Self::Unsupported(match advice {
            Some((_, advice)) => format!("{}: {advice}", quoted(said)),
            None => quoted(said),
        })
    }

    pub(crate) fn incompatible(error: &wasmtime::Error) -> Self {
        Self::Incompatible(quoted(&format!("{error:#}")))
    }

    pub(crate) fn describe(mut failure: Failure) -> Self {
        failure.message = quoted(&failure.message);
        Self::Describe(failure)
    }

    pub(crate) fn description(text: &str) -> Self {
        Self::Description(quoted(text))
    }

    pub(crate) fn internal(error: impl std::fmt::Display) -> Self {
        Self::Internal(quoted(&error.to_string()))
    }
}

impl From<wasmparser::BinaryReaderError> for LoadError {
    fn from(error: wasmparser::BinaryReaderError) -> Self {
        Self::malformed(&error)
    }
}

/// Somebody else's text as a part of one line: control characters escaped, white space joined, cut.
pub(crate) fn quoted(text: &str) -> String {
    // Cut first: escaping makes at most twelve bytes of one.
    let long = text.len() > QUOTED;
    let words: Vec<_> = cut(text, QUOTED).split_whitespace().collect();
    let mut line = escaped(&words.join(" "));
    if long {
        line.push('…');
    }
    line
}

/// Somebody else's name, shortened.
pub(crate) fn name(name: &str) -> String {
    let mut characters = name.chars();
    let mut shown = escaped(&characters.by_ref().take(NAME).collect::<String>());
    if characters.next().is_some() {
        shown.push('…');
    }
    shown
}

/// Control characters, and those that turn the direction of writing around.
fn escaped(text: &str) -> String {
    taskforge_domain::one_line(text).into_owned()
}

fn list(names: &[String]) -> String {
    let shown: Vec<_> = names.iter().take(LISTED).map(|text| name(text)).collect();
    match names.len().saturating_sub(LISTED) {
        _ if names.is_empty() => "nothing".to_owned(),
        0 => shown.join(", "),
        more => format!("{}, … and {} more", shown.join(", "), grouped(more)),
    }
}

/// `9,990` for 9990.
fn grouped(number: usize) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn size(bytes: u64) -> String {
    match bytes >> 20 {
        mib if mib >= 1024 && mib.is_multiple_of(1024) => format!("{} GiB of memory", mib / 1024),
        mib => format!("{mib} MiB of memory"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_list_is_cut_and_counted() {
        let names: Vec<_> = (0..10_000).map(|index| format!("e{index}")).collect();
        let text = LoadError::NotAPlugin(names).to_string();
        assert!(text.contains("e9, … and 9,990 more, not taskforge:plugin/handler@0.1:"), "{text}");
        assert!(LoadError::NotAPlugin(Vec::new()).to_string().contains("exports nothing, not"));
    }

    #[test]
    fn what_strangers_wrote_stays_on_one_short_line() {
        let wild = format!("a\nb\u{1b}[31m\0\u{202e}{}", "x".repeat(100_000));
        let errors = [
            LoadError::NotAPlugin(vec![wild.clone(); 50]),
            LoadError::OtherContract(wild.clone()),
            LoadError::description(&wild),
            LoadError::internal(&wild),
        ];
        for text in errors.map(|error| error.to_string()) {
            assert!(text.len() < 2000, "{}", text.len());
            assert!(!text.contains(|c: char| c.is_control() || c == '\u{202e}'), "{text:?}");
            assert!(text.contains('…'), "{text}");
        }
    }

    #[test]
    fn sizes_read_as_people_say_them() {
        assert_eq!(
            LoadError::CompileMemory(1 << 30).to_string(),
            "compiling this component needed more than 1 GiB of memory: make its functions smaller or fewer"
        );
        assert!(LoadError::CompileMemory(256 << 20).to_string().contains("than 256 MiB of"));
        assert!(
            LoadError::CompileTime(Duration::from_secs(60))
                .to_string()
                .contains("longer than 60s:")
        );
        assert_eq!(grouped(1_234_567), "1,234,567");
    }
}
