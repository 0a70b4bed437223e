//! What a loaded plugin takes, and how fast its code comes back: 200 distinct components made of
//! one handler.
//!
//! `cargo bench --workspace --bench loading`, after `make plugins`. Prints the
//! process's memory as the kernel counts it: all of it, the part that only this process has, and
//! the part that lies in files and may be dropped.

// A benchmark that cannot start has nothing to say but why.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout
)]

use std::{
    collections::HashMap,
    fs,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use taskforge_domain::{Digest, Json, Outcome, PluginInfo, TaskId, TenantId};
use taskforge_runtime::{
    CancellationToken, ComponentSource, Invocation, LogTail, MailError, MailErrorKind, MailMessage,
    MailReceipt, Mailer, Plugin, PluginSettings, Runtime, RuntimeConfig,
};
use taskforge_testing::guests;

const PLUGINS: usize = 200;

struct NoMail;

#[async_trait]
impl Mailer for NoMail {
    async fn send(&self, _: MailMessage) -> Result<MailReceipt, MailError> {
        Err(MailError { kind: MailErrorKind::Unavailable, message: "none".to_owned() })
    }
}

/// Where the components lie, as they would in the registry.
struct Folder(HashMap<Digest, PathBuf>);

#[async_trait]
impl ComponentSource for Folder {
    async fn component(&self, digest: &Digest) -> Result<Vec<u8>, String> {
        let path = self.0.get(digest).ok_or("unknown")?;
        fs::read(path).map_err(|error| error.to_string())
    }
}

/// The handler with a custom section that holds a number: another digest, another plugin.
fn distinct(bytes: &[u8], number: usize) -> Vec<u8> {
    let mut content = b"\x06number".to_vec();
    content.extend_from_slice(format!("{number:08}").as_bytes());
    let mut bytes = bytes.to_vec();
    bytes.push(0);
    bytes.push(u8::try_from(content.len()).unwrap());
    bytes.extend_from_slice(&content);
    bytes
}

/// VmRSS, RssAnon and RssFile, in kB.
fn memory() -> [u64; 3] {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    ["VmRSS:", "RssAnon:", "RssFile:"].map(|field| {
        let line = status.lines().find(|line| line.starts_with(field)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    })
}

fn report(what: &str, now: [u64; 3], before: [u64; 3]) {
    let each = |index: usize| now[index].saturating_sub(before[index]) / PLUGINS as u64;
    println!(
        "{what:<34} RSS {:>7} kB, anonymous {:>7}, of files {:>7}; a plugin: {:>5} kB, anonymous {:>5}, of files {:>5}",
        now[0],
        now[1],
        now[2],
        each(0),
        each(1),
        each(2)
    );
}

fn quantiles(what: &str, mut took: Vec<Duration>) {
    took.sort_unstable();
    println!(
        "{what:<34} p50 {:.2?}, p99 {:.2?}, max {:.2?}",
        took[took.len() / 2],
        took[took.len() * 99 / 100],
        took[took.len() - 1]
    );
}

async fn invoke(runtime: &Runtime, plugin: &Plugin) {
    let invocation = Invocation {
        tenant: TenantId::default(),
        task: TaskId::generate(),
        attempt: 1,
        max_attempts: 4,
        input: Json::parse(r#"{"n":20}"#.to_owned()).unwrap(),
        cancel: CancellationToken::new(),
        progress: None,
        log: LogTail::default(),
    };
    let invoked = runtime.invoke(plugin, invocation).await;
    assert!(matches!(invoked.outcome, Outcome::Completed(_)), "{:?}", invoked.outcome);
}

async fn prepare_all(runtime: &Runtime, plugins: &[Arc<Plugin>]) -> Vec<Duration> {
    let mut took = Vec::new();
    for plugin in plugins {
        let begun = Instant::now();
        runtime.prepare(plugin).await.unwrap();
        took.push(begun.elapsed());
    }
    took
}

/// Compiles every component once, in a runtime of its own, and says what is known of each.
async fn compile(config: &RuntimeConfig, components: &[Vec<u8>]) -> Vec<PluginInfo> {
    let runtime = Runtime::new(config.clone()).unwrap();
    let mut infos = Vec::new();
    for bytes in components {
        let plugin = runtime.load(bytes.clone(), PluginSettings::default()).await.unwrap();
        infos.push(plugin.info().clone());
    }
    infos
}

fn main() {
    let tokio = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    tokio.block_on(run());
}

async fn run() {
    let cache = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("bench-loading");
    let folder = tempfile::tempdir().unwrap();
    let name = std::env::var("TASKFORGE_BENCH_PLUGIN").unwrap_or_else(|_| "fibonacci".to_owned());
    let handler = guests::bytes(&name);
    let components: Vec<_> = (0..PLUGINS).map(|number| distinct(&handler, number)).collect();
    let config =
        RuntimeConfig { cache_dir: Some(cache.clone()), ..RuntimeConfig::new(Arc::new(NoMail)) };
    let infos = compile(&config, &components).await;
    let mut files = HashMap::new();
    for (number, (info, bytes)) in infos.iter().zip(&components).enumerate() {
        let path = folder.path().join(format!("{number}.wasm"));
        fs::write(&path, bytes).unwrap();
        files.insert(info.digest, path);
    }
    drop(components);
    let code: u64 = fs::read_dir(&cache)
        .unwrap()
        .map(|entry| entry.unwrap().metadata().unwrap().len())
        .max()
        .unwrap();
    println!("{name}: {} kB as a component, {} kB compiled", handler.len() / 1000, code / 1000);

    let config = RuntimeConfig { source: Some(Arc::new(Folder(files))), ..config };
    let runtime = Runtime::new(config.clone()).unwrap();
    let plugins: Vec<_> =
        infos.iter().map(|info| runtime.register(info.clone(), Default::default())).collect();
    let before = memory();
    report("200 plugins registered", before, before);
    quantiles("loaded from the cache", prepare_all(&runtime, &plugins).await);
    report("200 plugins loaded", memory(), before);
    for plugin in &plugins {
        invoke(&runtime, plugin).await;
    }
    report("each ran once", memory(), before);
    for _ in 0..20 {
        for plugin in &plugins {
            invoke(&runtime, plugin).await;
        }
    }
    report("each ran 20 times more", memory(), before);
    println!("{:?}", runtime.residents());
    drop((plugins, runtime));

    // A budget of half of them, used in turn: each comes back from the cache at each use.
    let runtime = Runtime::new(RuntimeConfig { resident_plugins: PLUGINS / 2, ..config }).unwrap();
    let plugins: Vec<_> =
        infos.iter().map(|info| runtime.register(info.clone(), Default::default())).collect();
    prepare_all(&runtime, &plugins).await;
    quantiles("back from the cache", prepare_all(&runtime, &plugins).await);
    println!("{:?}", runtime.residents());
}
