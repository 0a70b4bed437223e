//! A registry of a test's own.

use std::sync::Arc;

use serde_json::json;
use taskforge_broker::LocalBroker;
use taskforge_domain::{Json, Manifest, PluginSettings, TaskId, TaskType};
use taskforge_registry::{
    Follower, Keyring, Live, Loader, LoaderParts, Parts, Push, Pushed, Registry, RegistryResult,
    SameVersion, SignaturePolicy, StoredComponents,
};
use taskforge_runtime::{OutboxMailer, Runtime, RuntimeConfig};
use taskforge_store::{PluginStore, SqliteStore};
use taskforge_testing::{guests, wait::wait_until};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

pub(crate) const BY: &str = "a test";

pub(crate) struct Bed {
    pub(crate) registry: Registry,
    pub(crate) parts: Parts,
    pub(crate) store: Arc<dyn PluginStore>,
    /// The same.
    pub(crate) sqlite: Arc<SqliteStore>,
    pub(crate) folder: tempfile::TempDir,
}

/// A process that follows the registry.
pub(crate) struct Process {
    pub(crate) live: Arc<Live>,
    _loops: [AbortOnDropHandle<()>; 2],
}

pub(crate) fn name(text: &str) -> TaskType {
    TaskType::new(text).unwrap()
}

pub(crate) fn keyring(byte: u8) -> Arc<Keyring> {
    let key: String = format!("{byte:02x}").repeat(32);
    Arc::new(Keyring::parse(&key).unwrap())
}

/// The same component with other bytes: a custom section more, which nothing reads.
pub(crate) fn rebuilt(mut component: Vec<u8>, build: u8) -> Vec<u8> {
    component.extend([0, 3, 1, b'b', build]);
    component
}

impl Bed {
    pub(crate) async fn new() -> Self {
        Self::with(SignaturePolicy::default()).await
    }

    pub(crate) async fn with(signatures: SignaturePolicy) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(&folder.path().join("taskforge.db")).await.unwrap();
        let mailer =
            OutboxMailer::new(folder.path().join("outbox"), "Test <test@localhost>").unwrap();
        let runtime = Runtime::new(RuntimeConfig {
            cache_dir: Some(std::env::temp_dir().join("taskforge-test-cache")),
            max_instances: 4,
            source: Some(Arc::new(StoredComponents::new(store.clone()))),
            ..RuntimeConfig::new(Arc::new(mailer))
        });
        let parts = Parts {
            store: store.clone(),
            broker: Arc::new(LocalBroker::new()),
            runtime: runtime.unwrap(),
            keyring: Some(keyring(1)),
            signatures: Arc::new(signatures),
        };
        Self {
            registry: Registry::new(parts.clone()),
            parts,
            store: store.clone(),
            sqlite: store,
            folder,
        }
    }

    /// Pushes a component that is whatever its manifest says.
    pub(crate) async fn push(&self, plugin: &str, version: &str) -> Pushed {
        let push = push(plugin, version, PluginSettings::default());
        self.registry.push(guests::bytes("command"), push).await.unwrap()
    }

    pub(crate) async fn push_with(
        &self,
        plugin: &str,
        version: &str,
        settings: PluginSettings,
    ) -> RegistryResult<Pushed> {
        let push = push(plugin, version, settings);
        self.registry.push(guests::bytes("command"), push).await
    }

    pub(crate) async fn activate(&self, plugin: &str, version: &str) {
        let activated = self.registry.activate(&name(plugin), version, false, BY).await;
        activated.unwrap();
    }

    /// What was written down of a plugin, newest first: `kind version detail`.
    pub(crate) async fn record(&self, plugin: &str) -> Vec<String> {
        let events = self.registry.events(&name(plugin), 100).await.unwrap();
        let texts = events.iter().map(|event| {
            let version = event.version.as_deref().unwrap_or("-");
            format!("{} {version} {}", event.kind, event.detail)
        });
        texts.collect()
    }

    /// A process that serves what the registry says.
    pub(crate) async fn follow(&self) -> Process {
        self.follow_with(self.parts.keyring.clone(), self.parts.signatures.clone()).await
    }

    pub(crate) async fn follow_with(
        &self,
        keyring: Option<Arc<Keyring>>,
        signatures: Arc<SignaturePolicy>,
    ) -> Process {
        let live = Arc::new(Live::default());
        let catalog = live.catalog().clone();
        let follower = Follower::start(self.store.clone(), &*self.parts.broker, catalog).await;
        let parts = LoaderParts {
            store: self.store.clone(),
            runtime: self.parts.runtime.clone(),
            keyring,
            signatures,
            only: None,
        };
        let loader = Loader::new(parts, live.clone());
        let stop = CancellationToken::new();
        let mut settled = loader.settled();
        let loops = [
            AbortOnDropHandle::new(tokio::spawn(follower.unwrap().run(stop.clone()))),
            AbortOnDropHandle::new(tokio::spawn(loader.run(stop))),
        ];
        settled.wait_for(|settled| settled.is_some()).await.unwrap();
        Process { live, _loops: loops }
    }
}

impl Process {
    /// The version that a task would run on here.
    pub(crate) fn version(&self, plugin: &str) -> Option<String> {
        let serving = self.live.get(&name(plugin), TaskId::generate())?;
        Some(serving.plugin.info().version.clone())
    }

    pub(crate) async fn serves(&self, plugin: &str, version: &str) {
        wait_until(&format!("{plugin} {version} is served"), async || {
            self.version(plugin).as_deref() == Some(version)
        })
        .await;
    }
}

pub(crate) fn push(plugin: &str, version: &str, settings: PluginSettings) -> Push {
    Push {
        owner: None,
        manifest: Some(manifest(plugin, version)),
        settings: Some(settings),
        signature: None,
        by: BY.to_owned(),
        same_version: SameVersion::Refuse,
    }
}

pub(crate) fn manifest(plugin: &str, version: &str) -> Manifest {
    Manifest {
        name: name(plugin),
        version: version.to_owned(),
        summary: String::new(),
        input_schema: Json::from(json!({})),
        output_schema: Json::from(json!({})),
    }
}
