//! A component is compiled in a process of its own, and one that asks for too much ends there.

use std::{
    fmt::Write as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use serde_json::json;
use taskforge_domain::{Json, Outcome, TaskId, TenantId};
use taskforge_runtime::{
    CancellationToken, CompileProcess, Compiler, Invocation, LoadError, LogTail, OutboxMailer,
    PluginSettings, Runtime, RuntimeConfig,
};
use taskforge_testing::guests;

use crate::slow::{component, locals_in_loops};

fn ourselves() -> CompileProcess {
    let program = PathBuf::from(env!("CARGO_BIN_EXE_taskforge"));
    CompileProcess::new(program, vec!["compile-component".into()])
}

/// Caps that a bomb reaches soon.
fn small() -> CompileProcess {
    CompileProcess { memory: 256 << 20, time: Duration::from_secs(1), ..ourselves() }
}

fn runtime(folder: &Path, compiler: Compiler) -> Runtime {
    let mailer =
        OutboxMailer::new(folder.join("outbox"), "TaskForge <noreply@example.com>").unwrap();
    Runtime::new(RuntimeConfig {
        cache_dir: Some(folder.join("code")),
        max_instances: 2,
        compiler,
        ..RuntimeConfig::new(Arc::new(mailer))
    })
    .unwrap()
}

async fn load(runtime: &Runtime, bytes: Vec<u8>) -> Result<(), LoadError> {
    let loaded = runtime.load(bytes, PluginSettings::default()).await;
    loaded.map(|_| ())
}

#[tokio::test]
async fn what_was_compiled_apart_runs_here_and_is_compiled_once() {
    let folder = tempfile::tempdir().unwrap();
    for compiler in [
        Compiler::Process(ourselves()),
        // From the cache: this one could not compile anything.
        Compiler::Process(CompileProcess::new(PathBuf::from("/nowhere"), Vec::new())),
    ] {
        let runtime = runtime(folder.path(), compiler);
        let plugin =
            runtime.load(guests::bytes("fibonacci"), PluginSettings::default()).await.unwrap();
        let invocation = Invocation {
            tenant: TenantId::default(),
            task: TaskId::generate(),
            attempt: 1,
            max_attempts: 1,
            input: Json::from(json!({"n": 20})),
            cancel: CancellationToken::new(),
            progress: None,
            log: LogTail::default(),
        };
        match runtime.invoke(&plugin, invocation).await.outcome {
            Outcome::Completed(output) => assert_eq!(output.to_value(), json!({"result": 6765})),
            Outcome::Failed(failure) => panic!("{failure}"),
        }
    }
    let files = std::fs::read_dir(folder.path().join("code")).unwrap().count();
    assert_eq!(files, 1, "no draft is left");
}

#[tokio::test]
async fn a_compiler_that_hangs_or_is_not_there_is_told_apart() {
    let folder = tempfile::tempdir().unwrap();
    let shell = |script: &str| {
        CompileProcess::new(PathBuf::from("/bin/sh"), vec!["-c".into(), script.into()])
    };
    for (process, message) in [
        (
            CompileProcess { time: Duration::from_millis(50), ..shell("exec sleep 1000") },
            "compiling this component took longer than 50ms",
        ),
        (
            shell("echo 'no luck today' >&2; exit 1"),
            "the plugin could not be loaded: the compiler failed: no luck today",
        ),
        (
            shell("kill -KILL $$"),
            "the plugin could not be loaded: the compiler was ended by signal 9",
        ),
        (
            CompileProcess::new(PathBuf::from("/nowhere"), Vec::new()),
            "the compiler /nowhere cannot be started",
        ),
    ] {
        let runtime = runtime(folder.path(), Compiler::Process(process));
        let error = load(&runtime, guests::bytes("fibonacci")).await.unwrap_err();
        assert!(error.to_string().contains(message), "{error}");
    }
    let files = std::fs::read_dir(folder.path().join("code")).unwrap().count();
    assert_eq!(files, 0, "no draft is left");
}

fn many_locals_in_many_loops() -> Vec<u8> {
    locals_in_loops(3000, 1500)
}

/// Each jump may lead to every block around it.
fn tables_of_jumps() -> Vec<u8> {
    let depth = 1500;
    let mut body = "block ".repeat(depth);
    for open in (1..=depth).rev() {
        let targets: Vec<_> = (0..open).map(|target| target.to_string()).collect();
        write!(body, "local.get 0 br_table {} end ", targets.join(" ")).unwrap();
    }
    component(&format!("(func (param i32) {body})"))
}

fn fifty_thousand_functions() -> Vec<u8> {
    let body =
        "(local.set 0 (i32.mul (i32.add (local.get 0) (i32.const 3)) (i32.load (local.get 0))))"
            .repeat(20);
    let function = format!("(func (param i32) (result i32) {body} (local.get 0))");
    component(&format!("(memory 1) {}", function.repeat(50_000)))
}

fn deep_blocks() -> Vec<u8> {
    let depth = 200_000;
    component(&format!("(func {} {})", "block ".repeat(depth), "end ".repeat(depth)))
}

fn length(mut value: usize, into: &mut Vec<u8>) {
    loop {
        let low = u8::try_from(value & 0x7f).unwrap();
        value >>= 7;
        if value == 0 {
            return into.push(low);
        }
        into.push(low | 0x80);
    }
}

/// A component in a component in a component, by hand: the assembler's text would be too deep for
/// the assembler.
fn deep_components() -> Vec<u8> {
    const HEADER: &[u8] = b"\0asm\x0d\0\x01\0";
    // Built from the inside, and so backwards.
    let mut reversed: Vec<u8> = Vec::new();
    for _ in 0..100_000 {
        let mut start = vec![4];
        length(reversed.len() + HEADER.len(), &mut start);
        start.extend_from_slice(HEADER);
        reversed.extend(start.iter().rev());
    }
    let nested: Vec<_> = reversed.into_iter().rev().collect();
    let mut shell = wat::parse_str(
        r#"(component (instance $i) (export "taskforge:plugin/handler@0.1.0" (instance $i)))"#,
    )
    .unwrap();
    shell.extend(nested);
    shell
}

/// Each type is the one before it, ten times.
fn types_that_grow() -> Vec<u8> {
    let mut types = "(type $t0 (tuple u8 u8 u8 u8 u8 u8 u8 u8 u8 u8))".to_owned();
    for index in 1..12 {
        let members = format!("$t{} ", index - 1).repeat(10);
        write!(types, "(type $t{index} (tuple {members}))").unwrap();
    }
    let text = format!(
        r#"(component {types} (instance $i) (export "taskforge:plugin/handler@0.1.0" (instance $i)))"#
    );
    wat::parse_str(text).unwrap()
}

/// Makes a component.
type Bomb = fn() -> Vec<u8>;

#[tokio::test]
async fn a_compile_bomb_ends_at_its_caps() {
    let folder = tempfile::tempdir().unwrap();
    let runtime = runtime(folder.path(), Compiler::Process(small()));
    let bombs: [(&str, Bomb); 6] = [
        ("many locals in many loops", many_locals_in_many_loops),
        ("tables of jumps", tables_of_jumps),
        ("fifty thousand functions", fifty_thousand_functions),
        ("deep blocks", deep_blocks),
        ("deep components", deep_components),
        ("types that grow", types_that_grow),
    ];
    let mut capped = 0;
    for (name, bomb) in bombs {
        let bytes = bomb();
        let (size, begun) = (bytes.len(), Instant::now());
        let error = load(&runtime, bytes).await.unwrap_err();
        println!("{name}, {size} bytes, {:.1?}: {error}", begun.elapsed());
        // Ten times the CPU time is when the host stops waiting for a turn on a busy machine.
        assert!(begun.elapsed() < Duration::from_secs(60), "{name} took {:?}", begun.elapsed());
        let text = error.to_string();
        assert!(text.len() < 1000 && !text.contains(char::is_control), "{name}: {text:?}");
        match error {
            LoadError::CompileTime(_) | LoadError::CompileMemory(_) => capped += 1,
            // Deep or large types are refused before they are compiled, and an empty handler once
            // it is.
            LoadError::Unsupported(_) | LoadError::Incompatible(_) | LoadError::Malformed(_) => {}
            other => panic!("{name}: {other}"),
        }
    }
    assert!(capped >= 3, "only {capped} bombs reached a cap");
    let files = std::fs::read_dir(folder.path().join("code")).unwrap();
    let drafts =
        files.filter(|file| file.as_ref().unwrap().path().extension() != Some("code".as_ref()));
    assert_eq!(drafts.count(), 0, "no draft is left");
}

/// The compilers that this process has started, as their folders in `/proc`.
#[cfg(target_os = "linux")]
fn compilers() -> Vec<PathBuf> {
    let ours = format!("PPid:\t{}\n", std::process::id());
    let processes =
        std::fs::read_dir("/proc").unwrap().filter_map(|entry| Some(entry.ok()?.path()));
    let read =
        |process: &Path, file| std::fs::read_to_string(process.join(file)).unwrap_or_default();
    processes
        .filter(|process| read(process, "status").contains(&ours))
        .filter(|process| read(process, "cmdline").contains("compile-component"))
        .collect()
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_compiler_has_given_up_what_it_does_not_need() {
    let folder = tempfile::tempdir().unwrap();
    let runtime = runtime(folder.path(), Compiler::Process(ourselves()));
    let compiling = tokio::spawn(async move { load(&runtime, many_locals_in_many_loops()).await });
    let confined = async {
        loop {
            for compiler in compilers() {
                let read = |file| std::fs::read_to_string(compiler.join(file)).unwrap_or_default();
                let status = read("status");
                if status.contains("Seccomp:\t2\n") {
                    return (status, read("limits"), read("environ"), compiler);
                }
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let confined = tokio::time::timeout(Duration::from_secs(60), confined).await;
    let (status, limits, variables, compiler) =
        confined.expect("a compiler filters its system calls");
    assert!(status.contains("NoNewPrivs:\t1\n") && status.contains("Threads:\t1\n"), "{status}");
    assert_eq!(variables, "", "it has no variables");
    for limit in ["Max core file size", "Max open files", "Max processes"] {
        let line = limits.lines().find(|line| line.starts_with(limit)).unwrap();
        let values: Vec<_> = line[limit.len()..].split_whitespace().take(2).collect();
        assert_eq!(values, ["0", "0"], "{line}");
    }
    let open = std::fs::read_dir(compiler.join("fd")).map_or(0, Iterator::count);
    assert!(open <= 4, "{open} descriptors are open");
    compiling.abort();
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_compiler_that_could_be_tried_out_left_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    let (good, bad) = (
        runtime(folder.path(), Compiler::Process(ourselves())),
        CompileProcess::new(PathBuf::from("/nowhere"), Vec::new()),
    );
    good.try_compiler().await.unwrap();
    let error = runtime(folder.path(), Compiler::Process(bad)).try_compiler().await.unwrap_err();
    assert!(error.to_string().contains("the compiler /nowhere cannot be started"), "{error}");
    assert_eq!(std::fs::read_dir(folder.path().join("code")).unwrap().count(), 0);
}

#[tokio::test]
async fn damaged_components_end_in_the_compiler_too() {
    let folder = tempfile::tempdir().unwrap();
    let runtime = runtime(folder.path(), Compiler::Process(ourselves()));
    let whole = wat::parse_str(guests::wat("well_behaved")).unwrap();
    let mut random = fastrand::Rng::with_seed(7);
    for _ in 0..40 {
        let mut bytes = whole.clone();
        let place = random.usize(8..bytes.len());
        bytes[place] = random.u8(..);
        if let Err(error) = load(&runtime, bytes).await {
            let text = error.to_string();
            assert!(!matches!(error, LoadError::Internal(_)), "{text}");
            assert!(text.len() < 1000 && !text.contains(char::is_control), "{text:?}");
        }
    }
}
