//! From bytes to a loaded plugin: check, compile or take from the cache, link, call `describe`.

use std::sync::Arc;

use taskforge_domain::{Digest, Manifest, PluginSettings, Shape};
use wasmtime::component::Component;

use crate::{
    chunks,
    code::Code,
    compiler::Compiler,
    describe,
    inspect::{Inspection, digest, inspect},
    plugin::Plugin,
    refusal::LoadError,
    residents::Key,
    runtime::{LARGE, Shared},
};

/// Names that a component may import and export. A large interpreter has some hundred.
pub(crate) const NAMES: usize = 1000;

/// Length of these names together, in bytes.
pub(crate) const NAME_BYTES: usize = 128 << 10;

/// Linked code.
pub(crate) struct Loaded {
    pub(crate) code: Arc<Code>,
    /// Size of its machine code and tables, in bytes.
    pub(crate) size: u64,
}

/// See [`crate::Runtime::load_as`].
pub(crate) async fn load(
    shared: &Arc<Shared>,
    bytes: Vec<u8>,
    settings: PluginSettings,
    manifest: Option<&Manifest>,
) -> Result<Arc<Plugin>, LoadError> {
    settings.limits.within(&shared.config.ceilings)?;
    let (size, limit) = (bytes.len() as u64, shared.config.max_component);
    if size > limit {
        return Err(LoadError::TooLarge { size, limit });
    }
    let bytes = Arc::new(bytes);
    let loaded = load_from(shared, Arc::clone(&bytes), settings, manifest).await;
    // Freeing 128 MiB takes some milliseconds, too long for a thread of attempts.
    tokio::task::spawn_blocking(move || drop(bytes));
    loaded
}

async fn load_from(
    shared: &Arc<Shared>,
    bytes: Arc<Vec<u8>>,
    settings: PluginSettings,
    manifest: Option<&Manifest>,
) -> Result<Arc<Plugin>, LoadError> {
    let seen = Arc::clone(&bytes);
    let inspection = blocking(shared, move |_| inspect(&seen)).await?;
    let shape = inspection.callable()?;
    check_names(&inspection)?;
    // Refused before the work of compilation.
    if shape != Shape::Handler && manifest.is_none() {
        return Err(LoadError::Nameless(inspection.entry().to_owned()));
    }
    let entry = shared.residents.entry((inspection.digest, shape));
    let code = entry.code(shared, Some(bytes)).await?;
    let info = match (&*code, manifest) {
        (Code::Handler(bindings), manifest) => {
            let said = describe::ask(shared, bindings, &inspection, &settings).await?;
            let manifest = manifest.cloned();
            // It parses schemas, which come from a stranger too.
            blocking(shared, move |_| {
                describe::by_itself(said, manifest.as_ref(), inspection, settings)
            })
            .await?
        }
        (_, Some(manifest)) => describe::by_manifest(manifest, shape, inspection, settings)?,
        (_, None) => return Err(LoadError::Nameless(inspection.entry().to_owned())),
    };
    Ok(Plugin::new(info, entry))
}

/// Bounds the names, which are kept with the plugin and shown to people.
fn check_names(inspection: &Inspection) -> Result<(), LoadError> {
    let names = || inspection.imports.iter().chain(&inspection.exports);
    let (count, bytes) = (names().count(), names().map(String::len).sum());
    if count > NAMES || bytes > NAME_BYTES {
        return Err(LoadError::TooManyNames { count, bytes, limit: NAMES, byte_limit: NAME_BYTES });
    }
    Ok(())
}

/// A component's code: from the cache, or compiled from `bytes` or, without them, from the source.
pub(crate) async fn code(
    shared: &Arc<Shared>,
    (digest, shape): Key,
    bytes: Option<Arc<Vec<u8>>>,
) -> Result<Loaded, LoadError> {
    let cached = move |shared: &Shared| {
        let component = shared.cache.as_ref()?.load(&shared.engine, &digest)?;
        Some(link(shared, &component, shape))
    };
    if let Some(loaded) = blocking(shared, move |shared| cached(shared).transpose()).await? {
        return Ok(loaded);
    }
    let bytes = match bytes {
        Some(bytes) => bytes,
        None => fetch(shared, &digest).await?,
    };
    let _large = match bytes.len() > LARGE {
        true => Some(shared.compiling_large.acquire().await.map_err(LoadError::internal)?),
        false => None,
    };
    let _turn = shared.compiling.acquire().await.map_err(LoadError::internal)?;
    // The same component may have been compiled while this call waited.
    if let Some(loaded) = blocking(shared, move |shared| cached(shared).transpose()).await? {
        return Ok(loaded);
    }
    match (&shared.config.compiler, &shared.cache) {
        (Compiler::Process(process), Some(cache)) => {
            let draft = cache.draft(&digest).map_err(LoadError::internal)?;
            process.compile(&bytes, draft.path(), cache.fingerprint()).await?;
            let adopt = move |shared: &Shared| {
                let cache = shared.cache.as_ref()?;
                Some(cache.adopt(&draft, &digest).map_err(LoadError::internal))
            };
            blocking(shared, move |shared| {
                adopt(shared).transpose()?;
                let cache = shared.cache.as_ref();
                let opened = cache.map(|cache| cache.find(&shared.engine, &digest)).transpose();
                // This engine refuses compiled code only for what the component asks of it.
                let opened = opened.map_err(|error| LoadError::unsupported(&error))?;
                let component = opened
                    .flatten()
                    .ok_or_else(|| LoadError::internal("its code is not in the cache"))?;
                link(shared, &component, shape)
            })
            .await
        }
        _ => {
            blocking(shared, move |shared| {
                let component = compile_here(shared, &digest, &bytes)?;
                link(shared, &component, shape)
            })
            .await
        }
    }
}

/// The source's bytes, checked against the digest.
async fn fetch(shared: &Arc<Shared>, expected: &Digest) -> Result<Arc<Vec<u8>>, LoadError> {
    let source = shared.config.source.as_ref();
    let source = source.ok_or_else(|| LoadError::internal("it has no source"))?;
    let bytes = source.component(expected).await.map_err(LoadError::internal)?;
    let expected = *expected;
    blocking(shared, move |_| match digest(&bytes) == expected {
        true => Ok(Arc::new(bytes)),
        false => Err(LoadError::internal("its bytes are not those of its digest")),
    })
    .await
}

/// Compiles in this process, and keeps the code in the cache, if there is one. A failure to keep it
/// is only logged, because it costs the next start no more than time.
fn compile_here(shared: &Shared, digest: &Digest, bytes: &[u8]) -> Result<Component, LoadError> {
    let refused = |error: wasmtime::Error| LoadError::unsupported(&error);
    let code = chunks::precompile(&shared.engine, bytes).map_err(refused)?;
    let Some(cache) = &shared.cache else {
        return deserialize(shared, &code);
    };
    let stored = cache.draft(digest).and_then(|draft| {
        std::fs::write(draft.path(), &code)?;
        cache.adopt(&draft, digest)
    });
    match stored {
        // Loaded from its file, so that it takes no memory while it is not used.
        Ok(()) => {
            if let Some(component) = cache.load(&shared.engine, digest) {
                return Ok(component);
            }
        }
        Err(error) => tracing::warn!(%digest, %error, "compiled code could not be cached"),
    }
    deserialize(shared, &code)
}

#[allow(unsafe_code)]
fn deserialize(shared: &Shared, code: &[u8]) -> Result<Component, LoadError> {
    // SAFETY: the code is what this engine has just compiled, and has not left the process.
    unsafe { Component::deserialize(&shared.engine, code) }
        .map_err(|error| LoadError::unsupported(&error))
}

fn link(shared: &Shared, component: &Component, shape: Shape) -> Result<Loaded, LoadError> {
    let image = component.image_range();
    let incompatible = |error: wasmtime::Error| LoadError::incompatible(&error);
    // Done here, and not at the first instance, on the thread of an attempt.
    component.initialize_copy_on_write_image().map_err(LoadError::internal)?;
    let linked = shared.linker.instantiate_pre(component).map_err(incompatible)?;
    let code = Code::link(shape, linked).map_err(incompatible)?;
    Ok(Loaded { code: Arc::new(code), size: (image.end.addr() - image.start.addr()) as u64 })
}

/// Does work of the CPU or the disk on other threads than those of attempts.
async fn blocking<T: Send + 'static>(
    shared: &Arc<Shared>,
    work: impl FnOnce(&Shared) -> Result<T, LoadError> + Send + 'static,
) -> Result<T, LoadError> {
    let shared = Arc::clone(shared);
    let done = tokio::task::spawn_blocking(move || work(&shared)).await;
    done.map_err(LoadError::internal)?
}
