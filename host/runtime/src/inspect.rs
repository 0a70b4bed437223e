//! What a component imports and exports, without running it.

use serde::Serialize;
use sha2::Digest as _;
use taskforge_domain::{Digest, Shape};
use wasmparser::{Encoding, Parser, Payload};

use crate::{
    contract::{HANDLER, HANDLER_FAMILY},
    load,
    refusal::LoadError,
};

/// What a component shows without being run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Inspection {
    /// SHA-256 of the bytes.
    pub digest: Digest,
    /// Size in bytes.
    pub size: u64,
    /// What it imports, as `package:name/interface@version`.
    pub imports: Vec<String>,
    /// What it exports.
    pub exports: Vec<String>,
    /// How it takes a task; `None` if it exports nothing that this host can call.
    pub shape: Option<Shape>,
}

/// Names that are kept to be shown, and their length. A file of some megabytes may have millions.
const SHOWN: usize = 20_000;
const SHOWN_BYTES: usize = 2 << 20;

/// Reads a component's outer imports and exports, and not its code.
///
/// # Errors
/// When the bytes are not a WebAssembly component, or are cut short.
pub fn inspect(bytes: &[u8]) -> Result<Inspection, LoadError> {
    if !bytes.starts_with(b"\0asm") {
        return Err(LoadError::NotWasm(other_kind(bytes)));
    }
    let (mut imports, mut exports) = (Vec::new(), Vec::new());
    let (mut count, mut length) = (0, 0);
    let mut keep = |names: &mut Vec<String>, name: &str| {
        count += 1;
        length += name.len();
        if count <= SHOWN && length <= SHOWN_BYTES {
            names.push(name.to_owned());
        }
    };
    // Nested modules and components come as their own payloads; only the outermost level counts.
    let mut depth = 0_u32;
    for payload in Parser::new(0).parse_all(bytes) {
        match payload? {
            Payload::Version { encoding: Encoding::Module, .. } if depth == 0 => {
                return Err(LoadError::CoreModule);
            }
            Payload::ModuleSection { .. } | Payload::ComponentSection { .. } => depth += 1,
            Payload::End(_) => depth = depth.saturating_sub(1),
            Payload::ComponentImportSection(section) if depth == 0 => {
                for import in section {
                    keep(&mut imports, import?.name.name);
                }
            }
            Payload::ComponentExportSection(section) if depth == 0 => {
                for export in section {
                    keep(&mut exports, export?.name.name);
                }
            }
            _ => {}
        }
    }
    if count > SHOWN || length > SHOWN_BYTES {
        return Err(LoadError::TooManyNames {
            count,
            bytes: length,
            limit: load::NAMES,
            byte_limit: load::NAME_BYTES,
        });
    }
    Ok(Inspection {
        digest: digest(bytes),
        size: bytes.len() as u64,
        shape: shape(&exports),
        imports,
        exports,
    })
}

/// What makes a component a task handler, the most specific first.
const SHAPES: [(&str, Shape); 3] = [
    (HANDLER_FAMILY, Shape::Handler),
    // First, because some toolchains give a web server a `run` as well, which does nothing.
    ("wasi:http/incoming-handler@0.2", Shape::Http),
    ("wasi:cli/run@0.2", Shape::Command),
];

fn shape(exports: &[String]) -> Option<Shape> {
    let exported = |family: &str| exports.iter().any(|name| belongs(name, family));
    let found = SHAPES.into_iter().find(|(family, _)| exported(family));
    found.map(|(_, shape)| shape)
}

/// Whether an interface's name is that of a family, `package:name/interface@0.1`, at any patch
/// version. A version that was not released, such as `0.1.0-rc1`, belongs to none.
fn belongs(name: &str, family: &str) -> bool {
    let patch = name.strip_prefix(family).and_then(|rest| rest.strip_prefix('.'));
    patch.is_some_and(|patch| !patch.is_empty() && patch.bytes().all(|byte| byte.is_ascii_digit()))
}

/// Whether an interface is one of WASI 0.3 or later, release candidates included. Interfaces that
/// are not part of its releases (`wasi:keyvalue` and others) count for themselves.
fn is_newer_wasi(name: &str) -> bool {
    const RELEASED: [&str; 6] = ["cli", "clocks", "filesystem", "http", "random", "sockets"];
    let Some((interface, version)) =
        name.strip_prefix("wasi:").and_then(|name| name.split_once('@'))
    else {
        return false;
    };
    let package = interface.split('/').next().unwrap_or(interface);
    let mut numbers = version.split('.').map(|number| number.parse::<u64>().unwrap_or(0));
    let generation = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    RELEASED.contains(&package) && generation >= (0, 3)
}

impl Inspection {
    /// The shape, or why this host cannot call the component.
    pub(crate) fn callable(&self) -> Result<Shape, LoadError> {
        let other = |name: &&String| {
            name.strip_prefix(HANDLER).is_some_and(|rest| rest.is_empty() || rest.starts_with('@'))
        };
        let imported = self.imports.iter().find(|name| is_newer_wasi(name));
        let exported = || self.exports.iter().find(|name| is_newer_wasi(name));
        // Whatever it exports: without its imports it cannot be instantiated.
        if let Some(newer) = imported.or_else(|| exported().filter(|_| self.shape.is_none())) {
            return Err(LoadError::NewerWasi(newer.clone()));
        }
        match (self.shape, self.exports.iter().find(other)) {
            (Some(shape), _) => Ok(shape),
            (None, Some(name)) => Err(LoadError::OtherContract(name.clone())),
            (None, None) => Err(LoadError::NotAPlugin(self.exports.clone())),
        }
    }

    /// The export that gives the component its shape.
    pub(crate) fn entry(&self) -> &str {
        let entry = SHAPES
            .into_iter()
            .find_map(|(family, _)| self.exports.iter().find(|name| belongs(name, family)));
        entry.map_or("nothing", String::as_str)
    }
}

pub(crate) fn digest(bytes: &[u8]) -> Digest {
    Digest::from_bytes(sha2::Sha256::digest(bytes).into())
}

/// What kind of file this is, if not WebAssembly, judged by its beginning.
fn other_kind(bytes: &[u8]) -> &'static str {
    const KINDS: [(&[u8], &str); 11] = [
        (b"PK\x03\x04", "a ZIP archive"),
        (b"\x7fELF", "an ELF program"),
        (b"MZ", "a Windows program"),
        (b"\xcf\xfa\xed\xfe", "a macOS program"),
        (b"\x1f\x8b", "a gzip file"),
        (b"\x28\xb5\x2f\xfd", "a zstd file"),
        (b"BC\xc0\xde", "LLVM bitcode"),
        (b"!<arch>", "a static library"),
        (b"#!", "a script"),
        (b"(component", "WebAssembly text, which must be assembled first"),
        (b"(module", "WebAssembly text, which must be assembled first"),
    ];
    if bytes.is_empty() {
        return "an empty file";
    }
    if b"\0asm".starts_with(bytes) {
        return "the first bytes of a WebAssembly file";
    }
    let start = &bytes[..bytes.len().min(512)];
    if let Some((_, kind)) = KINDS.into_iter().find(|(magic, _)| start.starts_with(magic)) {
        return kind;
    }
    let text = start.utf8_chunks().next().map_or("", |chunk| chunk.valid());
    // The cut may go through the last character.
    let whole = text.len() + 3 >= start.len();
    match whole
        && !text.contains(|character: char| character.is_control() && !character.is_whitespace())
    {
        true => "a text file",
        false => "a file of another kind",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exporting(names: &[&str]) -> Inspection {
        let exports: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
        Inspection {
            digest: digest(b""),
            size: 0,
            imports: Vec::new(),
            shape: shape(&exports),
            exports,
        }
    }

    #[test]
    fn the_exports_decide_on_the_shape() {
        for (names, shape) in [
            (&["taskforge:plugin/handler@0.1.0"][..], Some(Shape::Handler)),
            (&["wasi:cli/run@0.2.6", "taskforge:plugin/handler@0.1.17"], Some(Shape::Handler)),
            (&["wasi:http/incoming-handler@0.2.0", "wasi:cli/run@0.2.3"], Some(Shape::Http)),
            (&["wasi:http/incoming-handler@0.2.12"], Some(Shape::Http)),
            (&["wasi:cli/run@0.3.0"], None),
            (&["wasi:cli/run"], None),
            (&["taskforge:plugin/handler@0.10.0"], None),
            (&["taskforge:plugin/handler@0.1.0-rc1"], None),
            (&[], None),
        ] {
            assert_eq!(exporting(names).shape, shape, "{names:?}");
        }
    }

    #[test]
    fn another_contract_is_told_from_no_contract() {
        let error = exporting(&["taskforge:plugin/handler@0.2.0"]).callable().unwrap_err();
        assert_eq!(
            error.to_string(),
            "this component exports taskforge:plugin/handler@0.2.0; this host speaks taskforge:plugin/handler@0.1: build it with a \
             taskforge-sdk of that version"
        );
    }

    #[test]
    fn the_next_generation_of_wasi_is_named() {
        for name in [
            "wasi:cli/run@0.3.0",
            "wasi:cli/run@0.3.0-rc-2026-02-09",
            "wasi:http/handler@0.3.1",
            "wasi:http/service@1.0.0",
        ] {
            let error = exporting(&[name]).callable().unwrap_err().to_string();
            assert!(
                error.starts_with(&format!(
                    "this component uses {name}: WASI 0.3 is not supported yet"
                )),
                "{error}"
            );
        }
        let importing = |imports: &[&str], exports: &[&str]| Inspection {
            imports: imports.iter().map(|name| (*name).to_owned()).collect(),
            ..exporting(exports)
        };
        let run = "wasi:cli/run@0.2.6";
        let error = importing(&["wasi:clocks/system-clock@0.3.0"], &[run]).callable();
        assert!(matches!(error, Err(LoadError::NewerWasi(_))), "{error:?}");
        for good in [
            "wasi:cli/environment@0.2.99",
            "wasi:keyvalue/store@0.3.0",
            "wasi:config/store@0.2.0-rc.1",
            "other:cli/run@0.3.0",
            "wasi:logging/logging",
        ] {
            assert_eq!(importing(&[good], &[run]).callable().unwrap(), Shape::Command, "{good}");
        }
        // Who can be called by either is called by the older.
        let both = exporting(&["wasi:cli/run@0.3.0", run]);
        assert_eq!(both.callable().unwrap(), Shape::Command);
        assert!(matches!(
            exporting(&["other:kind/of@0.3.0"]).callable(),
            Err(LoadError::NotAPlugin(_))
        ));
    }

    #[test]
    fn files_of_other_kinds_are_named() {
        for (bytes, kind) in [
            (&b""[..], "an empty file"),
            (b"\0as", "the first bytes of a WebAssembly file"),
            (b"PK\x03\x04...", "a ZIP archive"),
            (b"\x7fELF\x02\x01", "an ELF program"),
            (b"\x1f\x8b\x08", "a gzip file"),
            (b"#!/bin/sh", "a script"),
            ("größer\n".as_bytes(), "a text file"),
            (b"\xff\xfe\0\0\x01", "a file of another kind"),
        ] {
            let error = inspect(bytes).unwrap_err().to_string();
            assert_eq!(error, format!("this is {kind}, not a WebAssembly component"));
        }
    }
}
