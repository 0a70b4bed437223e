//! Components in a sandbox of this process: read from a file, and loaded.

use std::{fs::File, io::Read as _, path::Path, sync::Arc};

use anyhow::Context as _;
use taskforge_domain::{Limits, Manifest, PluginSettings};
use taskforge_runtime::{Plugin, Runtime, RuntimeConfig, RuntimeError};

use crate::{authorities, output};

/// The largest component that a host can be told to load, in bytes.
const LARGEST: u64 = 128 << 20;

/// A sandbox for one attempt. Without a usable cache it compiles each time.
pub(super) fn sandbox(config: RuntimeConfig) -> anyhow::Result<Runtime> {
    let config = RuntimeConfig { max_instances: 1, authorities: authorities::read()?, ..config };
    match Runtime::new(config.clone()) {
        Err(error @ RuntimeError::Cache { .. }) => {
            tracing::warn!(%error, "compiled code is not kept");
            let cache_dir = None;
            Ok(Runtime::new(RuntimeConfig { cache_dir, ..config })?)
        }
        made => Ok(made?),
    }
}

/// Ceilings with room for the author's own settings.
pub(super) fn roomy(limits: &Limits) -> Limits {
    let default = Limits::ceilings();
    Limits {
        stack: default.stack.max(limits.stack.min(256 << 20)),
        memories: default.memories.max(limits.memories.min(1_000)),
        tables: default.tables.max(limits.tables.min(1_000)),
        ..default
    }
}

/// A folder of this run's own.
pub(super) fn outbox() -> anyhow::Result<tempfile::TempDir> {
    Ok(tempfile::Builder::new().prefix("taskforge-outbox-").tempdir()?)
}

pub(super) async fn load(
    runtime: &Runtime,
    file: &Path,
    settings: PluginSettings,
    manifest: Option<&Manifest>,
) -> anyhow::Result<Arc<Plugin>> {
    let bytes = read(file)?;
    runtime
        .load_as(bytes, settings, manifest)
        .await
        .with_context(|| format!("cannot load {}", file.display()))
}

/// A component's bytes. The size is checked before they are read, and bounds what is read.
///
/// # Errors
/// When the file cannot be read, or is larger than any component.
pub(super) fn read(file: &Path) -> anyhow::Result<Vec<u8>> {
    let unreadable = || format!("cannot read {}", file.display());
    let opened = File::open(file).with_context(unreadable)?;
    let size = opened.metadata().with_context(unreadable)?.len();
    let mut bytes = Vec::new();
    if size <= LARGEST {
        opened.take(LARGEST + 1).read_to_end(&mut bytes).with_context(unreadable)?;
    }
    let size = size.max(bytes.len() as u64);
    anyhow::ensure!(
        size <= LARGEST,
        "{} has {}; no server takes a component of more than {}",
        file.display(),
        output::bytes(size),
        output::bytes(LARGEST)
    );
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_larger_than_any_component_is_not_read() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("large.wasm");
        // Sparse: a terabyte on no disk, which could not be read into memory.
        File::create(&file).unwrap().set_len(1 << 40).unwrap();
        let refused = read(&file).unwrap_err().to_string();
        assert!(refused.contains("no server takes"), "{refused}");
        std::fs::write(&file, b"small").unwrap();
        assert_eq!(read(&file).unwrap(), b"small");
    }

    #[test]
    fn a_file_without_a_size_is_read_up_to_the_largest_component() {
        let refused = read(Path::new("/dev/zero")).unwrap_err().to_string();
        assert!(refused.contains("no server takes"), "{refused}");
    }
}
