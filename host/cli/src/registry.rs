//! The registry's side of a process: it is connected, fed from a folder, and followed.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::Context as _;
use taskforge_api::{Catalog, Readiness};
use taskforge_broker::Broker;
use taskforge_domain::{PluginInfo, Revision, TaskType};
use taskforge_registry::{
    Collector, DEFAULT_QUOTA, Folder, Follower, Keyring, Live, Loader, LoaderParts, Parts, Registry,
    Retention, SignaturePolicy, Snapshots, TrustedKeys, UsageBoard,
};
use taskforge_runtime::Runtime;
use taskforge_store::{PluginStore, Quota, RegistrySnapshot, StoreResult};
use tokio::sync::watch;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    args::{PluginFolderArgs, TrustArgs, VersionRetentionArgs},
    plugin_folder,
};

/// How long a process that starts waits for its plugins to be ready before it says that it has started. One that compiles for longer is served
/// as soon as it is ready.
const SETTLE: Duration = Duration::from_secs(60);

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
        Self {
            keyring: None,
            signatures: Arc::default(),
            quota: DEFAULT_QUOTA,
        }
    }
}

impl Trust {
    pub(crate) fn read(args: &TrustArgs) -> anyhow::Result<Self> {
        let keyring = args.secret_key.as_deref().map(Keyring::parse).transpose();
        let keyring = keyring.context("--secret-key, TASKFORGE_SECRET_KEY")?;
        let trusted = args.trusted_keys.as_deref().map(|file| {
            let text =
                std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
            TrustedKeys::parse(&text).with_context(|| format!("cannot use the keys in {}", file.display()))
        });
        let trusted = trusted
            .transpose()
            .context("--trusted-keys, TASKFORGE_TRUSTED_KEYS")?;
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
    /// Waits until what the registry names is served or was tried, but not for ever: what is compiled for longer is
    /// served as soon as it is ready.
    pub(crate) async fn settle(&self, snapshots: &Snapshots) {
        let mut settled = self.settled.clone();
        let revision = snapshots.borrow().revision;
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

    /// Reads the registry, and follows it until `stop`. `live`: what this process serves of it, if it serves anything.
    ///
    /// # Errors
    /// When the database fails: nothing follows then, and the same call may succeed later.
    pub(crate) async fn follow(
        &self,
        live: Option<&Arc<Live>>,
        tasks: &TaskTracker,
        stop: &CancellationToken,
    ) -> StoreResult<Snapshots> {
        let follower = Follower::start(self.store.clone(), &*self.broker).await?;
        let follower = match live {
            Some(live) => follower.confirming(live.clone()),
            None => follower,
        };
        let snapshots = follower.snapshots();
        tasks.spawn(follower.run(stop.clone()));
        Ok(snapshots)
    }

    /// Serves what the registry says, or only some types of it, until `stop`: each as soon as it is ready.
    pub(crate) fn serve(
        &self,
        live: Arc<Live>,
        snapshots: Snapshots,
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
        // Its pauses and caps hold from now on, whatever is ready.
        live.see(&snapshots.borrow());
        let loader = Loader::new(parts, live.clone());
        let settled = loader.settled();
        tasks.spawn(loader.run(snapshots, stop.clone()));
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
    let retention = Retention {
        keep: args.plugin_keep,
        keep_for: args.plugin_retention,
    };
    Collector::new(store, retention)
}

/// Registers what is in a folder; what was refused is logged. Returns the folder, and how many files were taken.
pub(crate) async fn sync(mut folder: Folder, path: &Path) -> anyhow::Result<(Folder, usize)> {
    tracing::info!(
        "registering the plugins in {}; what was not compiled before takes some seconds",
        path.display()
    );
    let looked = folder.sync().await?;
    let taken = looked.iter().filter(|looked| looked.result.is_ok()).count();
    Ok((folder, taken))
}

/// Whether the plugins that a folder held at the start are registered.
#[derive(Clone, Default)]
pub(crate) struct Registered(Option<watch::Receiver<bool>>);

impl Registered {
    pub(crate) fn of(folder: &Folder) -> Self {
        Self(Some(folder.settled()))
    }

    /// Returns once they are.
    pub(crate) async fn wait(&self) {
        if let Some(mut settled) = self.0.clone() {
            // It fails when nobody tries any more: the process ends.
            settled.wait_for(|settled| *settled).await.ok();
        }
    }
}

impl Readiness for Registered {
    fn check(&self) -> Result<(), String> {
        match &self.0 {
            Some(settled) if !*settled.borrow() => {
                Err("the plugins of the folder could not be registered yet; it is tried again".to_owned())
            }
            _ => Ok(()),
        }
    }
}

/// Registers what is in the folder that the arguments name, or in one of the usual places. A process of a fleet needs none, unless one was
/// named: others may have registered what there is. What the database cannot take now is tried again until `stop`.
pub(crate) async fn sync_if_found(
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
    let (folder, _) = sync(Folder::new(access.registry(), path.clone()), &path).await?;
    let registered = Registered::of(&folder);
    tasks.spawn(folder.settle(stop.clone()));
    Ok(registered)
}

/// The versions that run, as people call them.
pub(crate) fn names(snapshot: &RegistrySnapshot) -> Vec<String> {
    let infos = running(snapshot);
    infos
        .iter()
        .map(|info| format!("{} {}", info.name, info.version))
        .collect()
}

/// Offers what the registry says, from now on until `stop`.
pub(crate) async fn offer(catalog: Arc<Catalog>, mut snapshots: Snapshots, stop: CancellationToken) {
    loop {
        let snapshot = snapshots.borrow_and_update().clone();
        offer_now(&catalog, &snapshot);
        match stop.run_until_cancelled(snapshots.changed()).await {
            Some(Ok(())) => {}
            _ => return,
        }
    }
}

pub(crate) fn offer_now(catalog: &Catalog, snapshot: &RegistrySnapshot) {
    catalog.set_registry(snapshot);
}

/// The stable versions, by name.
pub(crate) fn running(snapshot: &RegistrySnapshot) -> Vec<PluginInfo> {
    let stable = snapshot.plugins.iter().filter_map(|plugin| plugin.rollout.stable);
    stable
        .filter_map(|id| snapshot.versions.iter().find(|version| version.id == id))
        .map(|version| version.info.clone())
        .collect()
}
