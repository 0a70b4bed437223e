//! Components in a sandbox of this process: read from a file, and loaded.

use std::{path::Path, sync::Arc};

use anyhow::Context as _;
use taskforge_domain::{Limits, Manifest, PluginSettings};
use taskforge_runtime::{Plugin, Runtime, RuntimeConfig, RuntimeError};

use crate::authorities;

/// A sandbox for one attempt. What cannot keep compiled code compiles it each time.
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

/// Ceilings with room for what the author's own settings ask of this machine.
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

/// A component's bytes.
pub(super) fn read(file: &Path) -> anyhow::Result<Vec<u8>> {
    std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))
}
