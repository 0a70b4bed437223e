//! What the sandbox costs: an invocation beside a bare loop of instantiate and call on the same
//! engine, and what each knob of the pool is worth.
//!
//! `cargo bench -p taskforge-runtime`, after `make plugins`.

// A benchmark that cannot start has nothing to say but why.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use criterion::{Criterion, criterion_group, criterion_main};
use taskforge_domain::{Json, Outcome, TaskId, TenantId};
use taskforge_runtime::{
    CancellationToken, Invocation, LogTail, MailError, MailErrorKind, MailMessage, MailReceipt,
    Mailer, Plugin, PluginSettings, Runtime, RuntimeConfig,
    engine::{PoolTuning, YIELD_INTERVAL},
};
use taskforge_testing::guests;
use tokio::runtime::{Builder, Runtime as Tokio};
use wasmtime::{
    Engine, Store,
    component::{Component, ComponentNamedList, ComponentType, Lift, Linker, Lower, ResourceTable},
};
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};

const INPUT: &str = r#"{"n":20}"#;

struct NoMail;

#[async_trait]
impl Mailer for NoMail {
    async fn send(&self, _: MailMessage) -> Result<MailReceipt, MailError> {
        Err(MailError { kind: MailErrorKind::Unavailable, message: "none".to_owned() })
    }
}

fn config() -> RuntimeConfig {
    let cache_dir = Some(Path::new(env!("CARGO_TARGET_TMPDIR")).join("bench-code"));
    RuntimeConfig { max_instances: 16, cache_dir, ..RuntimeConfig::new(Arc::new(NoMail)) }
}

// Ids are made when a task is accepted, not when it runs: each costs a system call for randomness.
fn invocation(task: TaskId) -> Invocation {
    Invocation {
        tenant: TenantId::default(),
        task,
        attempt: 1,
        max_attempts: 4,
        input: Json::parse(INPUT.to_owned()).unwrap(),
        cancel: CancellationToken::new(),
        progress: None,
        log: LogTail::default(),
    }
}

async fn invoke(runtime: &Runtime, plugin: &Plugin, task: TaskId) {
    let invoked = runtime.invoke(plugin, invocation(task)).await;
    assert!(matches!(invoked.outcome, Outcome::Completed(_)), "{:?}", invoked.outcome);
}

/// What an embedder would write who wants no limits: fuel and yields only, as the engine demands.
struct Bare {
    engine: Engine,
    pre: wasmtime::component::InstancePre<Host>,
    handle: wasmtime::component::ComponentExportIndex,
}

struct Host {
    table: ResourceTable,
    // Made when it is needed, as the runtime does, so that both sides do the same work.
    wasi: Option<WasiCtx>,
}

impl WasiView for Host {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        let ctx = self.wasi.get_or_insert_with(|| WasiCtx::builder().build());
        WasiCtxView { ctx, table: &mut self.table }
    }
}

#[derive(ComponentType, Lower)]
#[component(record)]
struct Task<'a> {
    id: &'a str,
    attempt: u32,
    #[component(name = "max-attempts")]
    max_attempts: u32,
    deadline: u64,
    input: &'a str,
}

#[derive(ComponentType, Lift)]
#[component(variant)]
enum Retry {
    #[component(name = "never")]
    Never,
    #[component(name = "backoff")]
    Backoff,
    #[component(name = "after")]
    After(#[allow(dead_code)] u64),
}

#[derive(ComponentType, Lift)]
#[component(record)]
#[allow(dead_code)]
struct Failed {
    message: String,
    retry: Retry,
}

impl Bare {
    fn new(engine: &Engine) -> Self {
        let component = Component::from_binary(engine, &guests::bytes("fibonacci")).unwrap();
        let mut linker = Linker::new(engine);
        wasmtime_wasi::p2::add_to_linker_async(&mut linker).unwrap();
        // Our own interfaces, for a component that imports them; this input never calls them.
        for (interface, function) in [
            ("taskforge:plugin/progress@0.1.0", "report"),
            ("taskforge:plugin/mail@0.1.0", "send"),
            ("wasi:logging/logging@0.1.0-draft", "log"),
        ] {
            linker.instance(interface).unwrap().func_new(function, |_, _, _, _| Ok(())).unwrap();
        }
        let handler = component.get_export_index(None, "taskforge:plugin/handler@0.1.0").unwrap();
        let handle = component.get_export_index(Some(&handler), "handle").unwrap();
        Self { engine: engine.clone(), pre: linker.instantiate_pre(&component).unwrap(), handle }
    }

    async fn call(&self) {
        let host = Host { table: ResourceTable::new(), wasi: None };
        let mut store = Store::new(&self.engine, host);
        store.set_fuel(10_000_000_000).unwrap();
        store.fuel_async_yield_interval(Some(YIELD_INTERVAL)).unwrap();
        let instance = self.pre.instantiate_async(&mut store).await.unwrap();
        let handle = instance.get_func(&mut store, self.handle).unwrap();
        let handle = typed::<(Task<'_>,), (Result<String, Failed>,)>(handle, &store);
        let task = Task { id: "0", attempt: 1, max_attempts: 4, deadline: 0, input: INPUT };
        let (output,) = handle.call_async(&mut store, (task,)).await.unwrap();
        assert!(output.is_ok());
    }
}

fn typed<P: ComponentNamedList + Lower, R: ComponentNamedList + Lift>(
    func: wasmtime::component::Func,
    store: &Store<Host>,
) -> wasmtime::component::TypedFunc<P, R> {
    func.typed(store).unwrap()
}

fn tokio() -> Tokio {
    Builder::new_current_thread().enable_all().build().unwrap()
}

fn sandbox_beside_bare(criterion: &mut Criterion) {
    let (tokio, task) = (tokio(), TaskId::generate());
    let runtime = Runtime::new(config()).unwrap();
    let plugin = tokio
        .block_on(runtime.load(guests::bytes("fibonacci"), PluginSettings::default()))
        .unwrap();
    let bare = Bare::new(runtime.engine());
    interleaved(&tokio, &runtime, &plugin, &bare);
    let mut group = criterion.benchmark_group("fibonacci n=20");
    group.bench_function("bare instantiate and call", |b| {
        b.to_async(&tokio).iter(|| bare.call());
    });
    group.bench_function("invoke", |b| {
        b.to_async(&tokio).iter(|| invoke(&runtime, &plugin, task));
    });
    group.finish();
}

/// The ratio that a busy machine does not blur: both sides in turn, and their medians.
fn interleaved(tokio: &Tokio, runtime: &Runtime, plugin: &Plugin, bare: &Bare) {
    const ROUNDS: usize = 401;
    const CALLS: u32 = 50;
    let task = TaskId::generate();
    let (mut bares, mut invokes) = (Vec::with_capacity(ROUNDS), Vec::with_capacity(ROUNDS));
    tokio.block_on(async {
        for _ in 0..ROUNDS {
            let started = Instant::now();
            for _ in 0..CALLS {
                bare.call().await;
            }
            bares.push(started.elapsed() / CALLS);
            let started = Instant::now();
            for _ in 0..CALLS {
                invoke(runtime, plugin, task).await;
            }
            invokes.push(started.elapsed() / CALLS);
        }
    });
    let median = |times: &mut Vec<Duration>| {
        times.sort_unstable();
        times[ROUNDS / 2]
    };
    let (bare, invoke) = (median(&mut bares), median(&mut invokes));
    let ratio = invoke.as_secs_f64() / bare.as_secs_f64();
    eprintln!(
        "medians of {ROUNDS} rounds in turn: bare {bare:?}, invoke {invoke:?}, ratio {ratio:.2}"
    );
}

fn pool_knobs(criterion: &mut Criterion) {
    let (tokio, task) = (tokio(), TaskId::generate());
    let chosen = PoolTuning::default;
    let mut group = criterion.benchmark_group("invoke, one knob changed");
    for (name, tuning) in [
        ("as chosen", chosen()),
        ("no pool", PoolTuning { pooling: false, ..chosen() }),
        ("no copy-on-write image", PoolTuning { copy_on_write: false, ..chosen() }),
        ("no resident memory", PoolTuning { memory_keep_resident: 0, ..chosen() }),
        ("4 MiB of resident memory", PoolTuning { memory_keep_resident: 4 << 20, ..chosen() }),
        ("no resident tables", PoolTuning { table_keep_resident: 0, ..chosen() }),
        ("no warm slots", PoolTuning { warm_slots: 0, ..chosen() }),
        ("no pagemap scan", PoolTuning { pagemap_scan: false, ..chosen() }),
    ] {
        let runtime = Runtime::with_tuning(config(), &tuning).unwrap();
        let plugin = tokio
            .block_on(runtime.load(guests::bytes("fibonacci"), PluginSettings::default()))
            .unwrap();
        group.bench_function(name, |b| {
            b.to_async(&tokio).iter(|| invoke(&runtime, &plugin, task));
        });
    }
    group.finish();
}

criterion_group!(benches, sandbox_beside_bare, pool_knobs);
criterion_main!(benches);
