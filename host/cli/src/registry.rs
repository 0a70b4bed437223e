//! The registry's side of a process: it is connected, fed from a folder, and followed.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::Context as _;
use taskforge_api::Readiness;
use taskforge_broker::Broker;
use taskforge_domain::{PluginInfo, Revision, TaskType};
use taskforge_registry::{
    Catalog, Collector, DEFAULT_QUOTA, Folder, FolderProgress, Follower, Keyring, KnownTypes, Live,
    Loader, LoaderParts, Parts, Registry, Retention, SignaturePolicy, TrustedKeys, UsageBoard,
};
use taskforge_runtime::Runtime;
use taskforge_store::{PluginStore, Quota, StoreResult};
use tokio::sync::watch;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    args::{PluginFolderArgs, TrustArgs, VersionRetentionArgs},
    plugin_folder,
};

/// How long a process that starts waits for its plugins to be ready before it says that it has
/// started. One that compiles for longer is served as soon as it is ready.
const SETTLE: Duration = Duration::from_secs(60);

/// Between two reads of a registry whose database is away.
const REGISTRY_PAUSE: Duration = Duration::from_secs(1);

/// What a process that starts says when it cannot go on.
pub(crate) const UNREADABLE: &str = "the registry of plugins cannot be read";

/// Whose plugins a process trusts, the keys to their secrets, and how much may be stored of them.
#[derive(Clone)]
pub(crate) struct Trust {
    keyring: Option<Arc<Keyring>>,
    signatures: Arc<SignaturePolicy>,
    quota: Quota,
}

impl Default for Trust {
    fn default() -> Self {
        Self { keyring: None, signatures: Arc::default(), quota: DEFAULT_QUOTA }
    }
}

impl Trust {
    pub(crate) fn read(args: &TrustArgs) -> anyhow::Result<Self> {
        let keyring = args.secret_key.as_deref().map(Keyring::parse).transpose();
        let keyring = keyring.context("--secret-key, TASKFORGE_SECRET_KEY")?;
        let trusted = args.trusted_keys.as_deref().map(|file| {
            let text = std::fs::read_to_string(file)
                .with_context(|| format!("cannot read {}", file.display()))?;
            TrustedKeys::parse(&text)
                .with_context(|| format!("cannot use the keys in {}", file.display()))
        });
        let trusted = trusted.transpose().context("--trusted-keys, TASKFORGE_TRUSTED_KEYS")?;
        Ok(Self {
            keyring: keyring.map(Arc::new),
            signatures: Arc::new(SignaturePolicy {
                required: args.require_signature,
                trusted: trusted.unwrap_or_default(),
            }),
            quota: Quota {
                versions: args.max_plugin_versions,
                bytes: args.max_plugin_bytes.as_u64(),
            },
        })
    }
}

/// What a process needs to change the registry and to follow it.
pub(crate) struct Access {
    pub(crate) store: Arc<dyn PluginStore>,
    pub(crate) broker: Arc<dyn Broker>,
    pub(crate) runtime: Runtime,
    pub(crate) trust: Trust,
}

/// What a worker serves, and the loops that keep it at what the registry says.
pub(crate) struct Served {
    pub(crate) live: Arc<Live>,
    pub(crate) usage: Arc<UsageBoard>,
    settled: watch::Receiver<Option<Revision>>,
}

impl Served {
    /// Waits until what the registry names is served or was tried, but not for ever: what is
    /// compiled for longer is served as soon as it is ready.
    pub(crate) async fn settle(&self) {
        let mut settled = self.settled.clone();
        let revision = self.live.catalog().known().revision;
        let ready = settled.wait_for(|settled| *settled >= Some(revision));
        if tokio::time::timeout(SETTLE, ready).await.is_err() {
            tracing::warn!("some plugins are not ready yet; they are served as soon as they are");
        }
    }
}

impl Access {
    pub(crate) fn registry(&self) -> Registry {
        Registry::new(Parts {
            store: self.store.clone(),
            broker: self.broker.clone(),
            runtime: self.runtime.clone(),
            keyring: self.trust.keyring.clone(),
            signatures: self.trust.signatures.clone(),
        })
        .with_quota(self.trust.quota)
    }

    /// Reads the registry, and follows it until `stop`.
    ///
    /// # Errors
    /// When the database fails: nothing follows then, and the same call may succeed later.
    pub(crate) async fn follow(
        &self,
        catalog: &Arc<Catalog>,
        tasks: &TaskTracker,
        stop: &CancellationToken,
    ) -> StoreResult<()> {
        let (store, catalog) = (self.store.clone(), catalog.clone());
        let follower = Follower::start(store, &*self.broker, catalog).await?;
        tasks.spawn(follower.run(stop.clone()));
        Ok(())
    }

    /// Serves what the catalog has, or only some types of it, until `stop`: each as soon as it is
    /// ready.
    pub(crate) fn serve(
        &self,
        catalog: Arc<Catalog>,
        only: Option<Vec<TaskType>>,
        tasks: &TaskTracker,
        stop: &CancellationToken,
    ) -> Served {
        let parts = LoaderParts {
            store: self.store.clone(),
            runtime: self.runtime.clone(),
            keyring: self.trust.keyring.clone(),
            signatures: self.trust.signatures.clone(),
            only,
        };
        let live = Arc::new(Live::new(catalog));
        let loader = Loader::new(parts, live.clone());
        let settled = loader.settled();
        tasks.spawn(loader.run(stop.clone()));
        let usage = Arc::new(UsageBoard::default());
        tasks.spawn(usage.clone().write_until(self.store.clone(), stop.clone()));
        Served { live, usage, settled }
    }
}

/// Whether a process that has started to answer has also made its plugins ready.
#[derive(Clone, Default)]
pub(crate) struct Started(Arc<AtomicBool>);

impl Started {
    pub(crate) fn now(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Readiness for Started {
    fn check(&self) -> Result<(), String> {
        match self.0.load(Ordering::Relaxed) {
            true => Ok(()),
            false => Err("its plugins are being made ready; those that are run already".to_owned()),
        }
    }
}

/// What keeps a registry to its retention.
pub(crate) fn collector(store: Arc<dyn PluginStore>, args: &VersionRetentionArgs) -> Collector {
    let retention = Retention { keep: args.plugin_keep, keep_for: args.plugin_retention };
    Collector::new(store, retention)
}

/// The plugins of a folder, which are registered while the process works already.
#[derive(Clone, Default)]
pub(crate) struct Registered(Option<watch::Receiver<FolderProgress>>);

impl Registered {
    /// Begins to register what is in a folder, and goes on as the folder is made, until `stop`.
    pub(crate) fn begin(folder: Folder, tasks: &TaskTracker, stop: &CancellationToken) -> Self {
        let progress = folder.progress();
        tasks.spawn(folder.run(stop.clone()));
        Self(Some(progress))
    }

    /// Returns once each file was tried.
    pub(crate) async fn tried(&self) {
        self.reached(|progress| progress != FolderProgress::Looking).await;
    }

    /// Returns once each file was taken, or refused for good.
    pub(crate) async fn settled(&self) {
        self.reached(|progress| progress == FolderProgress::Settled).await;
    }

    async fn reached(&self, is_reached: impl Fn(FolderProgress) -> bool) {
        if let Some(mut progress) = self.0.clone() {
            // It fails when nobody tries any more: the process ends.
            progress.wait_for(|progress| is_reached(*progress)).await.ok();
        }
    }
}

impl Readiness for Registered {
    fn check(&self) -> Result<(), String> {
        let progress = self.0.as_ref().map(|progress| *progress.borrow());
        match progress {
            Some(FolderProgress::Looking) => {
                Err("the plugins of the folder are being registered; those that are run already"
                    .to_owned())
            }
            Some(FolderProgress::Owed) => {
                Err("the plugins of the folder could not be registered yet; it is tried again"
                    .to_owned())
            }
            Some(FolderProgress::Settled) | None => Ok(()),
        }
    }
}

/// Begins to register what is in the folder that the arguments name, or in one of the usual places.
/// A process of a fleet needs none, unless one was named: others may have registered what there is.
pub(crate) fn register_found(
    args: &PluginFolderArgs,
    access: &Access,
    tasks: &TaskTracker,
    stop: &CancellationToken,
) -> anyhow::Result<Registered> {
    let path = match plugin_folder::locate(args) {
        Ok(path) => path,
        Err(error) if args.plugins.is_some() => return Err(error),
        Err(_) => return Ok(Registered::default()),
    };
    let folder = Folder::new(access.registry(), path);
    Ok(Registered::begin(folder, tasks, stop))
}

/// Waits until this process knows everything that is in the registry now, however long the database
/// is away.
pub(crate) async fn heard(store: &dyn PluginStore, catalog: &Catalog) {
    while let Err(error) = catalog.refresh(store).await {
        tracing::debug!(%error, "the registry was not read");
        tokio::time::sleep(REGISTRY_PAUSE).await;
    }
}

/// The versions that run, as people call them.
pub(crate) fn names(known: &KnownTypes) -> Vec<String> {
    let infos = running(known);
    infos.iter().map(|info| format!("{} {}", info.name, info.version)).collect()
}

/// The stable versions, by name.
pub(crate) fn running(known: &KnownTypes) -> Vec<PluginInfo> {
    known.plugins().filter_map(|plugin| plugin.stable().cloned()).collect()
}
