//! Bulk memory in chunks, so that no instruction of a guest blocks a thread for long.
//!
//! A guest yields where it checks its fuel: at calls and at the heads of loops. `memory.fill`,
//! `memory.copy` and `memory.init` are single instructions of any size, and the first touch of a
//! mebibyte takes 0.6 ms. So a component is rewritten before it is compiled:
//!
//! - each of these instructions whose size is not known to be small becomes a call of an added
//!   function that loops over chunks;
//! - a large active data segment becomes several;
//! - thousands of instructions in a row get an empty loop in between.
//!
//! The guest sees no difference: bounds are checked for the whole range before the first byte
//! changes, copies may overlap, and a dropped segment stays dropped.
//!
//! Everything else is copied byte by byte. Added functions and types come last, so that no index
//! shifts; only the segments after a divided one get other numbers. The digest of a component is
//! that of the original bytes.
//!
//! | file | the concept |
//! |---|---|
//! | `functions` | the functions that loop |
//! | `module` | rewrites a core module |
//! | `straight` | long code without a call or a loop |

mod functions;
mod module;
mod straight;

use wasm_encoder::Encode as _;
use wasmparser::{Chunk, Parser, Payload, Validator, WasmFeatures};
use wasmtime::Engine;

/// Part of the fingerprint of compiled code. Raise it with each change of what is rewritten.
pub(crate) const VERSION: u32 = 1;

/// What one instruction may fill, copy or initialize, in bytes. It costs as much fuel, so a guest
/// yields after two chunks, which take 0.3 ms if the memory is touched for the first time.
const CHUNK: u32 = 256 << 10;

/// Compiles a component, in chunks where it needs them.
///
/// # Errors
/// What the engine says.
pub(crate) fn precompile(engine: &Engine, component: &[u8]) -> wasmtime::Result<Vec<u8>> {
    match rewrite(component) {
        Ok(Some(chunked)) => match valid(component) {
            Ok(()) => engine.precompile_component(&chunked),
            Err(error) => refuse(engine, component, error.into()),
        },
        Ok(None) => engine.precompile_component(component),
        Err(error) => refuse(engine, component, error.into()),
    }
}

/// Validates the original, because an added function must not make a call valid that had no
/// function. The engine decides which features a component may use.
fn valid(component: &[u8]) -> Result<(), wasmparser::Error> {
    let mut validator = Validator::new_with_features(WasmFeatures::all());
    validator.validate_all(component).map(drop)
}

/// Lets the engine word the refusal. A component that the engine would accept is refused all the
/// same, because it must not run without the rewriting.
fn refuse(engine: &Engine, component: &[u8], error: wasmtime::Error) -> wasmtime::Result<Vec<u8>> {
    engine.precompile_component(component)?;
    Err(error)
}

/// Why a component could not be rewritten.
#[derive(Debug, thiserror::Error)]
enum Unreadable {
    #[error(transparent)]
    Malformed(#[from] wasmparser::Error),
    #[error("a section ends after the file")]
    CutShort,
    #[error("components nest in more than {NESTING} levels")]
    TooDeep,
}

/// A component on the way to its copy.
struct Level<'a> {
    parser: Parser,
    rest: &'a [u8],
    copy: Vec<u8>,
}

/// Levels of components within components. The innermost is copied once for each; toolchains make
/// two or three.
const NESTING: usize = 100;

/// The section of a component that holds a nested component.
const NESTED_COMPONENT: u8 = 4;

/// The section of a component that holds a core module.
const CORE_MODULE: u8 = 1;

/// A component with its bulk memory in chunks. `None`: it needs no change.
///
/// # Errors
/// When it cannot be parsed.
fn rewrite(component: &[u8]) -> Result<Option<Vec<u8>>, Unreadable> {
    let mut changed = false;
    // A loop and not recursion, because a stranger decides how deep components nest.
    let mut outer: Vec<Level<'_>> = Vec::new();
    let mut level = Level {
        parser: Parser::new(0),
        rest: component,
        copy: Vec::with_capacity(component.len()),
    };
    loop {
        let (consumed, payload) = match level.parser.parse(level.rest, true)? {
            Chunk::Parsed { consumed, payload } => (consumed, payload),
            Chunk::NeedMoreData(_) => return Err(Unreadable::CutShort),
        };
        let (header, rest) = level.rest.split_at(consumed);
        level.rest = rest;
        match payload {
            Payload::Version { .. } => level.copy.extend_from_slice(header),
            Payload::ModuleSection { unchecked_range, .. } => {
                let (inside, rest) = inside(level.rest, unchecked_range.len())?;
                level.rest = rest;
                let chunked = module::rewrite(inside)?;
                changed |= chunked.is_some();
                section(&mut level.copy, CORE_MODULE, chunked.as_deref().unwrap_or(inside));
            }
            Payload::ComponentSection { parser, unchecked_range } => {
                let (inside, rest) = inside(level.rest, unchecked_range.len())?;
                level.rest = rest;
                if outer.len() >= NESTING {
                    return Err(Unreadable::TooDeep);
                }
                let nested = Level { parser, rest: inside, copy: Vec::new() };
                outer.push(std::mem::replace(&mut level, nested));
            }
            Payload::End(_) => {
                let Some(parent) = outer.pop() else {
                    return Ok(changed.then_some(level.copy));
                };
                let nested = std::mem::replace(&mut level, parent);
                section(&mut level.copy, NESTED_COMPONENT, &nested.copy);
            }
            // Its header and what is in it.
            _ => level.copy.extend_from_slice(header),
        }
    }
}

/// Splits off the content of a section.
fn inside(rest: &[u8], length: usize) -> Result<(&[u8], &[u8]), Unreadable> {
    rest.split_at_checked(length).ok_or(Unreadable::CutShort)
}

/// Writes a section: its number, its size and its content.
fn section(copy: &mut Vec<u8>, id: u8, inside: &[u8]) {
    copy.push(id);
    inside.encode(copy);
}

#[cfg(test)]
mod tests;
