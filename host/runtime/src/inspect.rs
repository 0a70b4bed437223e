//! What a component imports and exports, without running it.

use serde::Serialize;
use sha2::Digest as _;
use taskforge_domain::Digest;
use wasmparser::{Encoding, Parser, Payload};

use crate::{contract::HANDLER, plugin::LoadError};

/// What can be seen of a component from outside.
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
    /// Whether it exports the interface that makes it a plugin.
    pub is_plugin: bool,
}

/// Reads a component's outer imports and exports. The code inside is not looked at.
///
/// # Errors
/// When the bytes are not a WebAssembly component, or are cut short.
pub fn inspect(bytes: &[u8]) -> Result<Inspection, LoadError> {
    if !bytes.starts_with(b"\0asm") {
        return Err(LoadError::NotWasm);
    }
    let (mut imports, mut exports) = (Vec::new(), Vec::new());
    // Nested modules and components come as their own payloads; only the outermost level counts.
    let mut depth = 0_u32;
    for payload in Parser::new(0).parse_all(bytes) {
        match payload? {
            Payload::Version {
                encoding: Encoding::Module,
                ..
            } if depth == 0 => return Err(LoadError::CoreModule),
            Payload::ModuleSection { .. } | Payload::ComponentSection { .. } => depth += 1,
            Payload::End(_) => depth = depth.saturating_sub(1),
            Payload::ComponentImportSection(section) if depth == 0 => {
                for import in section {
                    imports.push(import?.name.name.to_owned());
                }
            }
            Payload::ComponentExportSection(section) if depth == 0 => {
                for export in section {
                    exports.push(export?.name.name.to_owned());
                }
            }
            _ => {}
        }
    }
    Ok(Inspection {
        digest: digest(bytes),
        size: bytes.len() as u64,
        is_plugin: exports.iter().any(|name| name == HANDLER),
        imports,
        exports,
    })
}

pub(crate) fn digest(bytes: &[u8]) -> Digest {
    Digest::from_bytes(sha2::Sha256::digest(bytes).into())
}

impl From<wasmparser::BinaryReaderError> for LoadError {
    fn from(error: wasmparser::BinaryReaderError) -> Self {
        Self::Malformed(error.to_string())
    }
}
