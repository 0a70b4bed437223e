//! A runtime with a plugin under attack and a well-behaved neighbour.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use serde_json::{Value, json};
use taskforge_domain::{
    Digest, Failure, FailureKind, Json, Limits, Manifest, Outcome, Progress, TaskId, TenantId,
};
use taskforge_runtime::{
    CancellationToken, ComponentSource, Invocation, Invoked, LogTail, MemoryKeyValue, OutboxMailer,
    Plugin, PluginSettings, Runtime, RuntimeConfig, inspect,
};
use taskforge_testing::guests;
use tempfile::TempDir;

/// When a neighbour of an attack is taken for stuck. It takes well under a millisecond alone.
const STUCK: Duration = Duration::from_secs(60);

pub struct Bed {
    pub runtime: Runtime,
    pub outbox: TempDir,
    neighbour: Arc<Plugin>,
}

/// Settings from JSON, as a settings file would give them.
pub fn settings(settings: Value) -> PluginSettings {
    serde_json::from_value(settings).unwrap()
}

/// A folder that outlives the tests, so that guests are compiled once.
pub fn cache_dir() -> PathBuf {
    PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("code")
}

pub fn config(outbox: &TempDir) -> RuntimeConfig {
    let mailer =
        OutboxMailer::new(outbox.path().to_path_buf(), "TaskForge <noreply@example.com>").unwrap();
    let config = RuntimeConfig::new(Arc::new(mailer));
    RuntimeConfig {
        max_instances: 8,
        // Some attacks must not end by these before they end by what they are about.
        ceilings: Limits { fuel: u64::MAX, host_calls: u64::MAX, ..Limits::ceilings() },
        cache_dir: Some(cache_dir()),
        source: Some(Arc::new(Guests)),
        key_value: Some(Arc::new(MemoryKeyValue::new())),
        ..config
    }
}

/// Finds the components of registered plugins among the guests.
struct Guests;

#[async_trait]
impl ComponentSource for Guests {
    async fn component(&self, digest: &Digest) -> Result<Vec<u8>, String> {
        ["hostile", "sms"]
            .into_iter()
            .map(guests::bytes)
            .find(|bytes| inspect(bytes).unwrap().digest == *digest)
            .ok_or_else(|| "no guest has this digest".to_owned())
    }
}

impl Bed {
    pub async fn new() -> Self {
        let outbox = tempfile::tempdir().unwrap();
        Self::with(config(&outbox), outbox).await
    }

    pub async fn with(config: RuntimeConfig, outbox: TempDir) -> Self {
        let runtime = Runtime::new(config).unwrap();
        let neighbour =
            runtime.load(guests::bytes("fibonacci"), PluginSettings::default()).await.unwrap();
        Self { runtime, outbox, neighbour }
    }

    pub async fn hostile(&self, with: Value) -> Arc<Plugin> {
        self.runtime.load(guests::bytes("hostile"), settings(with)).await.unwrap()
    }

    pub async fn wat(&self, name: &str, with: Value) -> Arc<Plugin> {
        let bytes = wat::parse_str(guests::wat(name)).unwrap();
        self.runtime.load(bytes, settings(with)).await.unwrap()
    }

    /// A component that cannot describe itself.
    pub async fn shaped(&self, bytes: Vec<u8>, with: Value) -> Arc<Plugin> {
        let manifest = json!({"name": "shaped", "version": "1.0.0"});
        let manifest: Manifest = serde_json::from_value(manifest).unwrap();
        let loaded = self.runtime.load_as(bytes, settings(with), Some(&manifest)).await;
        loaded.unwrap()
    }

    /// A plugin as the registry hands it over, secrets included.
    pub async fn registered(
        &self,
        name: &str,
        with: Value,
        secrets: &[(&str, &str)],
    ) -> Arc<Plugin> {
        let loaded = self.runtime.load(guests::bytes(name), settings(with)).await;
        let secrets = secrets.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        self.runtime.register(loaded.unwrap().info().clone(), BTreeMap::from_iter(secrets))
    }

    /// Runs an attack, and neighbours beside it until it ends.
    pub async fn run(&self, plugin: &Plugin, input: Value) -> Invoked {
        let ended = Mutex::new(false);
        let attack = async {
            let invoked = self.runtime.invoke(plugin, invocation(input)).await;
            *ended.lock().unwrap() = true;
            invoked
        };
        let neighbours = async {
            loop {
                self.neighbour_completes().await;
                if *ended.lock().unwrap() {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let (invoked, ()) = tokio::join!(attack, neighbours);
        invoked
    }

    /// Runs an attack that must fail.
    pub async fn fails(&self, plugin: &Plugin, input: Value) -> (Failure, Invoked) {
        let invoked = self.run(plugin, input).await;
        match &invoked.outcome {
            Outcome::Failed(failure) => (failure.clone(), invoked),
            Outcome::Completed(output) => {
                panic!("completed with {output:?}; log {:#?}", invoked.logs)
            }
        }
    }

    /// Runs an attack that must fail in this way.
    pub async fn fails_as(&self, kind: FailureKind, plugin: &Plugin, input: Value) -> Invoked {
        let (failure, invoked) = self.fails(plugin, input).await;
        assert_eq!(failure.kind, kind, "{failure}; log {:#?}", invoked.logs);
        assert!(!failure.message.is_empty());
        invoked
    }

    /// Runs something that must complete.
    pub async fn completes(&self, plugin: &Plugin, input: Value) -> (Value, Invoked) {
        let invoked = self.run(plugin, input).await;
        (output(&invoked), invoked)
    }

    pub async fn neighbour_completes(&self) {
        let neighbour = self.runtime.invoke(&self.neighbour, invocation(json!({"n": 20})));
        let invoked = tokio::time::timeout(STUCK, neighbour).await;
        let invoked = invoked.expect("the neighbour is stuck");
        assert_eq!(output(&invoked), json!({"result": 6765}));
    }
}

pub fn output(invoked: &Invoked) -> Value {
    match &invoked.outcome {
        Outcome::Completed(output) => output.to_value(),
        Outcome::Failed(failure) => panic!("{failure}; log {:#?}", invoked.logs),
    }
}

pub fn invocation(input: Value) -> Invocation {
    Invocation {
        tenant: TenantId::default(),
        task: TaskId::generate(),
        attempt: 1,
        max_attempts: 4,
        input: Json::from(input),
        cancel: CancellationToken::new(),
        progress: None,
        log: LogTail::default(),
    }
}

type OnProgress = Arc<dyn Fn(Progress) + Send + Sync>;

/// Collects progress reports.
pub fn recorder() -> (Arc<Mutex<Vec<Progress>>>, OnProgress) {
    let reports = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&reports);
    (reports, Arc::new(move |report| sink.lock().unwrap().push(report)))
}

/// The log as one text.
pub fn log(invoked: &Invoked) -> String {
    invoked.logs.iter().map(|line| format!("{:?} {}\n", line.level, line.message)).collect()
}
