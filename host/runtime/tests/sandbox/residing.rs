//! Whose code is in memory: it is loaded at the first use and once, makes room when there is too
//! much, and comes back.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use serde_json::json;
use taskforge_domain::{Digest, Outcome, PluginInfo};
use taskforge_runtime::{
    CancellationToken, ComponentSource, Invocation, Plugin, PluginSettings, Runtime, RuntimeConfig,
};
use taskforge_testing::{guests, wait::wait_until};
use tempfile::TempDir;

use crate::bed::{config, invocation, output};

/// A registry that counts what it is asked.
#[derive(Default)]
struct Registry {
    components: Mutex<HashMap<Digest, Vec<u8>>>,
    asked: AtomicUsize,
}

impl Registry {
    fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }

    fn put(&self, digest: Digest, bytes: Vec<u8>) {
        self.components.lock().unwrap().insert(digest, bytes);
    }
}

#[async_trait]
impl ComponentSource for Registry {
    async fn component(&self, digest: &Digest) -> Result<Vec<u8>, String> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        let bytes = self.components.lock().unwrap().get(digest).cloned();
        bytes.ok_or_else(|| "the registry does not have it".to_owned())
    }
}

struct Home {
    runtime: Runtime,
    registry: Arc<Registry>,
    _folder: TempDir,
}

impl Home {
    /// With a cache of its own, and room for so many.
    fn new(plugins: usize) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let registry = Arc::new(Registry::default());
        let config = RuntimeConfig {
            cache_dir: Some(folder.path().join("code")),
            source: Some(Arc::clone(&registry) as Arc<dyn ComponentSource>),
            resident_plugins: plugins,
            ..config(&folder)
        };
        Self { runtime: Runtime::new(config).unwrap(), registry, _folder: folder }
    }

    /// What another process would have found out when the component was pushed.
    async fn pushed(&self, bytes: Vec<u8>) -> PluginInfo {
        let outbox = tempfile::tempdir().unwrap();
        let elsewhere = Runtime::new(config(&outbox)).unwrap();
        let plugin = elsewhere.load(bytes.clone(), PluginSettings::default()).await.unwrap();
        self.registry.put(plugin.info().digest, bytes);
        plugin.info().clone()
    }

    async fn registered(&self, bytes: Vec<u8>) -> Arc<Plugin> {
        let info = self.pushed(bytes).await;
        self.runtime.register(info, Default::default())
    }

    async fn runs(&self, plugin: &Plugin) {
        let invoked = self.runtime.invoke(plugin, invocation(json!({}))).await;
        assert_eq!(output(&invoked), json!({"ok": true}));
    }
}

/// The smallest plugin, with a number that makes it another one.
fn numbered(number: u8) -> Vec<u8> {
    let mut bytes = wat::parse_str(guests::wat("well_behaved")).unwrap();
    bytes.extend_from_slice(&[0, 3, 1, b'n', number]);
    bytes
}

#[tokio::test]
async fn what_was_not_used_for_longest_makes_room_and_comes_back() {
    let home = Home::new(2);
    let mut plugins = Vec::new();
    for number in 0..4 {
        plugins.push(home.registered(numbered(number)).await);
    }
    assert_eq!(home.runtime.residents().plugins, 0, "nothing is loaded before it is used");
    for plugin in plugins.iter().chain(&plugins) {
        home.runs(plugin).await;
        assert!(home.runtime.residents().plugins <= 2, "{:?}", home.runtime.residents());
    }
    assert!(home.runtime.residents().bytes > 0);
    assert_eq!(home.registry.asked(), 4, "the second time the code came from the cache");
}

#[tokio::test]
async fn code_that_runs_stays() {
    let home = Home::new(1);
    let slow = home.registered(guests::bytes("hostile")).await;
    let others = [home.registered(numbered(1)).await, home.registered(numbered(2)).await];
    let cancel = CancellationToken::new();
    let running = Invocation {
        cancel: cancel.clone(),
        ..invocation(json!({"attack": "sleep", "ms": 25_000}))
    };
    let runtime = home.runtime.clone();
    let running = tokio::spawn(async move { runtime.invoke(&slow, running).await });
    wait_until("the attempt runs", async || home.runtime.residents().plugins == 1).await;

    home.runs(&others[0]).await;
    assert_eq!(home.runtime.residents().plugins, 2, "there is no room, and nothing that may go");
    home.runs(&others[1]).await;
    assert_eq!(home.runtime.residents().plugins, 2, "the other one made room");
    cancel.cancel();
    running.await.unwrap();
    home.runs(&others[0]).await;
    assert_eq!(home.runtime.residents().plugins, 1);
}

#[tokio::test]
async fn many_first_uses_load_once() {
    let home = Home::new(2);
    let plugin = home.registered(numbered(1)).await;
    let same = home.runtime.register(plugin.info().clone(), Default::default());
    let uses = (0..16).map(|index| home.runs(if index % 2 == 0 { &plugin } else { &same }));
    futures_util::future::join_all(uses).await;
    assert_eq!((home.registry.asked(), home.runtime.residents().plugins), (1, 1));
    drop((plugin, same));
    assert_eq!(home.runtime.residents().plugins, 0, "what nobody has any more is gone");
}

#[tokio::test]
async fn a_failed_load_is_not_repeated_at_once_but_later() {
    let home = Home::new(2);
    let plugin = home.registered(numbered(1)).await;
    let digest = plugin.info().digest;
    let bytes = home.registry.components.lock().unwrap().remove(&digest).unwrap();
    for _ in 0..100 {
        let error = home.runtime.prepare(&plugin).await.unwrap_err();
        assert!(error.to_string().contains("the registry does not have it"), "{error}");
    }
    assert_eq!(home.registry.asked(), 1);
    home.registry.put(digest, bytes);
    let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
    while home.runtime.prepare(&plugin).await.is_err() {
        assert!(tokio::time::Instant::now() < deadline, "it was never tried again");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(home.registry.asked(), 2);
    home.runs(&plugin).await;
}

#[tokio::test]
async fn bytes_of_another_digest_are_not_loaded() {
    let home = Home::new(2);
    let plugin = home.registered(numbered(1)).await;
    home.registry.put(plugin.info().digest, numbered(2));
    let error = home.runtime.prepare(&plugin).await.unwrap_err();
    assert!(error.to_string().contains("not those of its digest"), "{error}");
    let invoked = home.runtime.invoke(&plugin, invocation(json!({}))).await;
    assert!(matches!(invoked.outcome, Outcome::Failed(_)));
}

#[tokio::test]
async fn what_could_not_come_back_stays() {
    let outbox = tempfile::tempdir().unwrap();
    let runtime = Runtime::new(RuntimeConfig {
        resident_plugins: 1,
        cache_dir: None,
        source: None,
        ..config(&outbox)
    })
    .unwrap();
    let mut plugins = Vec::new();
    for number in 0..3 {
        plugins.push(runtime.load(numbered(number), PluginSettings::default()).await.unwrap());
    }
    assert_eq!(runtime.residents().plugins, 3);
    for plugin in &plugins {
        output(&runtime.invoke(plugin, invocation(json!({}))).await);
    }
}
