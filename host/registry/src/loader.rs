//! Makes ready what changed in the catalog, and swaps it in.
//!
//! Each plugin on its own: one that takes half a minute to compile holds up no other. All running
//! versions of a plugin are made ready before the first task runs on any, so what is served is
//! always one rollout as somebody meant it. A plugin that cannot be made ready goes on as it was,
//! and is tried again.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use taskforge_domain::{PluginVersion, RegisteredPlugin, Revision, TaskType};
use taskforge_runtime::{LoadError, Runtime};
use taskforge_store::{PluginStore, SealedSecret, StoreError};
use tokio::{sync::watch, task::JoinSet, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::{
    catalog::{KnownPlugin, KnownTypes},
    live::{Live, ReadyPlugin, ReadyVersion},
    secrets::{Keyring, SecretError},
    signature::{SignatureError, SignaturePolicy},
};

/// Plugins that are made ready at once. Compilations have a bound of their own in the sandbox; this
/// one is for reading code of a cache.
const AT_ONCE: usize = 32;
/// Between the first two tries of a plugin that cannot be made ready, and the longest that it
/// becomes.
const PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// What a loader works with.
#[derive(Clone)]
pub struct LoaderParts {
    /// Where versions, components and secrets are.
    pub store: Arc<dyn PluginStore>,
    /// Runs them.
    pub runtime: Runtime,
    /// Opens secrets.
    pub keyring: Option<Arc<Keyring>>,
    /// Whose components are run.
    pub signatures: Arc<SignaturePolicy>,
    /// Only these are served. `None`: all.
    pub only: Option<Vec<TaskType>>,
}

/// Keeps [`Live`] at what its catalog says.
pub struct Loader {
    parts: LoaderParts,
    live: Arc<Live>,
    plugins: HashMap<TaskType, Progress>,
    loading: JoinSet<Done>,
    /// The newest revision of which everything was tried.
    settled: watch::Sender<Option<Revision>>,
}

/// How far a plugin is.
#[derive(Default)]
struct Progress {
    /// The revision of what is served.
    served: Option<Revision>,
    /// The revision that is being made ready. A newer one that comes meanwhile overtakes it.
    loading: Option<Revision>,
    /// The revision of the last try, tries that failed in a row, what the last one said, and when
    /// the next one is due.
    tried: Option<Revision>,
    failed: u32,
    said: Option<String>,
    retry: Option<Instant>,
}

/// A plugin that was made ready, or not.
struct Done {
    name: TaskType,
    revision: Revision,
    result: Result<Option<ReadyPlugin>, NotReady>,
}

/// Why a plugin is not ready.
#[derive(Debug, thiserror::Error)]
enum NotReady {
    #[error(transparent)]
    Load(#[from] LoadError),
    #[error(transparent)]
    Signature(#[from] SignatureError),
    #[error(transparent)]
    Secret(#[from] SecretError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("the registry does not hold the version that is to run, or not its component")]
    Missing,
    #[error("the host failed while it made the plugin ready")]
    Panicked,
}

impl Loader {
    /// A loader that has loaded nothing yet.
    #[must_use]
    pub fn new(parts: LoaderParts, live: Arc<Live>) -> Self {
        Self {
            parts,
            live,
            plugins: HashMap::new(),
            loading: JoinSet::new(),
            settled: watch::Sender::new(None),
        }
    }

    /// The newest revision of the registry of which everything is served, or was tried.
    #[must_use]
    pub fn settled(&self) -> watch::Receiver<Option<Revision>> {
        self.settled.subscribe()
    }

    /// Follows the catalog until `stop`.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut changes = self.live.catalog().subscribe();
        let mut known = changes.borrow_and_update().clone();
        loop {
            self.begin(&known);
            self.report(&known);
            let retry = self.next_retry();
            tokio::select! {
                () = stop.cancelled() => return,
                changed = changes.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    known = changes.borrow_and_update().clone();
                }
                Some(done) = self.loading.join_next() => {
                    if let Ok(done) = done {
                        self.finish(done, &known);
                    }
                }
                () = tokio::time::sleep_until(retry) => {}
            }
        }
    }

    /// Begins to make ready what does not run here as the registry has it.
    fn begin(&mut self, known: &KnownTypes) {
        for known in smallest_first(known) {
            let plugin = &known.registered;
            let only = self.parts.only.as_ref();
            if only.is_some_and(|only| !only.contains(&plugin.name)) {
                continue;
            }
            let progress = self.plugins.entry(plugin.name.clone()).or_default();
            // What somebody has changed since is worth a try at once.
            let is_news = progress.tried != Some(plugin.revision);
            let is_due = is_news || progress.retry.is_none_or(|retry| retry <= Instant::now());
            let is_served = progress.served == Some(plugin.revision);
            let is_loading = progress.loading == Some(plugin.revision);
            if is_served || is_loading || !is_due || progress.loading.is_some() && !is_news {
                continue;
            }
            if self.loading.len() >= AT_ONCE {
                return;
            }
            progress.loading = Some(plugin.revision);
            progress.tried = Some(plugin.revision);
            let (parts, live) = (self.parts.clone(), Arc::clone(&self.live));
            let (name, revision) = (plugin.name.clone(), plugin.revision);
            let known = Arc::clone(known);
            self.loading.spawn(async move {
                // In a task of its own, so that a panic says whose it was.
                let ready = tokio::spawn(async move { make_ready(&parts, &live, known).await });
                Done { name, revision, result: ready.await.unwrap_or(Err(NotReady::Panicked)) }
            });
        }
    }

    fn finish(&mut self, done: Done, known: &KnownTypes) {
        let Done { name, revision, result } = done;
        let progress = self.plugins.entry(name.clone()).or_default();
        if progress.loading != Some(revision) {
            // A rollback, say, did not wait for the compilation of what it takes back.
            return;
        }
        progress.loading = None;
        match result {
            Ok(ready) => {
                if let Some(ready) = &ready {
                    let versions = ready.versions.iter();
                    let versions: Vec<_> =
                        versions.map(|version| version.plugin.info().version.as_str()).collect();
                    tracing::info!(
                        task.type = %name,
                        versions = versions.join(", "),
                        "plugin is served"
                    );
                }
                self.live.put(&name, ready);
                *progress = Progress { served: Some(revision), ..Progress::default() };
            }
            Err(error) => {
                let said = error.to_string();
                if progress.said.as_ref() != Some(&said) {
                    tracing::error!(
                        task.type = %name,
                        "the plugin cannot be served as the registry has it, and goes on as it was \
                         here: {said}"
                    );
                }
                let task_type = name.to_string();
                metrics::counter!("taskforge_plugin_load_failures_total", "task_type" => task_type)
                    .increment(1);
                let pause = PAUSE * 2_u32.saturating_pow(progress.failed.min(10));
                progress.failed += 1;
                progress.said = Some(said);
                progress.retry = Some(Instant::now() + pause.min(LONGEST_PAUSE));
                if is_withdrawn(&self.live, &name, known) {
                    tracing::error!(
                        task.type = %name,
                        "its grants have changed, so it does not go on as it was: its tasks wait"
                    );
                    self.live.put(&name, None);
                }
            }
        }
    }

    /// When the next try is due. Far away if none is.
    fn next_retry(&self) -> Instant {
        let retries = self.plugins.values().filter(|progress| progress.loading.is_none());
        let next = retries.filter_map(|progress| progress.retry).min();
        // Not sooner than so, for one that is due may have to wait for room.
        let soon = Instant::now() + PAUSE / 4;
        next.map_or_else(|| soon + LONGEST_PAUSE, |next| next.max(soon))
    }

    fn report(&self, known: &KnownTypes) {
        let behind = known.plugins().filter(|known| {
            let progress = self.plugins.get(&known.registered.name);
            progress.is_some_and(|progress| progress.served != Some(known.registered.revision))
        });
        let behind = behind.count();
        // A gauge is a float; there are few plugins.
        #[allow(clippy::cast_precision_loss)]
        {
            metrics::gauge!("taskforge_plugins_served").set(self.live.types().len() as f64);
            metrics::gauge!("taskforge_plugins_behind").set(behind as f64);
        }
        if self.loading.is_empty() {
            self.settled.send_replace(Some(known.revision));
        }
    }
}

/// The plugins in the order in which they are made ready: a small one whose code is gone is there
/// in a moment, and an interpreter takes half a minute.
fn smallest_first(known: &KnownTypes) -> Vec<&Arc<KnownPlugin>> {
    let mut plugins: Vec<_> = known.plugins().collect();
    plugins.sort_by_cached_key(|known| known.running().map(|version| version.info.size).max());
    plugins
}

/// Whether what runs here may reach more, or other things, than it is granted now.
fn is_withdrawn(live: &Live, name: &TaskType, known: &KnownTypes) -> bool {
    let (Some(ready), Some(known)) = (live.ready(name), known.plugin(name)) else {
        return false;
    };
    ready.versions.iter().any(|before| {
        let now = known.version(before.id).map(|running| &running.version.info.grants);
        now.is_some_and(|grants| *grants != before.plugin.info().grants)
    })
}

/// Makes the running versions of a plugin ready. `None`: none runs.
async fn make_ready(
    parts: &LoaderParts,
    live: &Live,
    known: Arc<KnownPlugin>,
) -> Result<Option<ReadyPlugin>, NotReady> {
    let registered = &known.registered;
    // What was checked for one owner was not for another.
    let before = live.ready(&registered.name);
    let before = before.filter(|before| before.known.registered.owner == registered.owner);
    let mut versions = Vec::new();
    for id in registered.rollout.running() {
        let version = &known.version(id).ok_or(NotReady::Missing)?.version;
        let secrets = sealed(parts, version).await?;
        let kept = before.as_ref().and_then(|before| {
            let (then, ready) = (&before.known.version(id)?.version, before.version(id)?);
            let is_same = then.info == version.info && then.signature == version.signature;
            (is_same && ready.secrets == secrets).then(|| ready.clone())
        });
        versions.push(match kept {
            Some(ready) => ready,
            None => load(parts, registered, version, secrets).await?,
        });
    }
    Ok((!versions.is_empty()).then_some(ReadyPlugin { known, versions }))
}

/// The secrets that a version reads. One that it may read and nobody has set is simply not there.
async fn sealed(
    parts: &LoaderParts,
    version: &PluginVersion,
) -> Result<Vec<SealedSecret>, StoreError> {
    let wanted = &version.info.grants.secrets;
    if wanted.is_empty() {
        return Ok(Vec::new());
    }
    let mut secrets = parts.store.secrets(&version.info.name).await?;
    secrets.retain(|secret| wanted.contains(&secret.name));
    Ok(secrets)
}

async fn load(
    parts: &LoaderParts,
    plugin: &RegisteredPlugin,
    version: &PluginVersion,
    secrets: Vec<SealedSecret>,
) -> Result<ReadyVersion, NotReady> {
    let info = &version.info;
    parts.runtime.check_limits(&info.limits)?;
    // Whoever can write to the database can write grants, names and owners there, and no statement.
    // The sandbox holds whatever it loads against the digest, so what is checked here is what will
    // run.
    let signature = version.signature.as_deref();
    let (policy, owner) = (&parts.signatures, plugin.owner.as_ref());
    policy.check(&plugin.name, owner, info, signature)?;
    let opened = secrets.iter().map(|secret| {
        let keyring = parts.keyring.as_ref().ok_or(SecretError::NoKey)?;
        let value = keyring.open(&info.name, &secret.name, &secret.sealed)?;
        Ok((secret.name.clone(), value))
    });
    let opened: BTreeMap<_, _> = opened.collect::<Result<_, SecretError>>()?;
    let ready = parts.runtime.register(info.clone(), opened);
    parts.runtime.prepare(&ready).await?;
    Ok(ReadyVersion { id: version.id, plugin: ready, secrets })
}
