//! From bytes to a plugin: errors that an author can act on, and the code cache.

use std::fs;

use serde_json::json;
use taskforge_domain::{FailureKind, Manifest, Shape};
use taskforge_runtime::{LoadError, PluginSettings, Runtime, RuntimeConfig, inspect};
use taskforge_testing::guests;

use crate::bed::{Bed, config, invocation, output, settings};

async fn refused(bed: &Bed, bytes: Vec<u8>) -> LoadError {
    bed.runtime.load(bytes, PluginSettings::default()).await.unwrap_err()
}

async fn refused_wat(bed: &Bed, name: &str) -> LoadError {
    refused(bed, wat::parse_str(guests::wat(name)).unwrap()).await
}

#[tokio::test]
async fn what_is_no_component_is_told_apart() {
    let bed = Bed::new().await;
    assert!(matches!(refused(&bed, b"#!/bin/sh".to_vec()).await, LoadError::NotWasm(_)));
    assert!(matches!(refused(&bed, Vec::new()).await, LoadError::NotWasm(_)));
    let module = wat::parse_str("(module)").unwrap();
    let error = refused(&bed, module).await;
    assert!(error.to_string().contains("wasm32-wasip2"), "{error}");
    let component = wat::parse_str(
        r#"(component (import "a:b/c" (instance $i)) (export "a:b/d" (instance $i)))"#,
    )
    .unwrap();
    let error = refused(&bed, component).await;
    assert!(
        error.to_string().contains("exports a:b/d, not taskforge:plugin/handler@0.1"),
        "{error}"
    );
    let error = refused_wat(&bed, "no_handler").await;
    assert!(error.to_string().contains("exports nothing"), "{error}");
}

fn exporting(names: impl IntoIterator<Item = String>) -> Vec<u8> {
    let exports: String =
        names.into_iter().map(|name| format!("(export \"{name}\" (instance $i))")).collect();
    wat::parse_str(format!("(component (instance $i) {exports})")).unwrap()
}

#[tokio::test]
async fn a_refusal_says_what_to_do() {
    let bed = Bed::new().await;
    let many = || (0..10_000).map(|index| format!("acme:many/e{index}"));
    let handler = "taskforge:plugin/handler@0.1.0".to_owned();
    for (bytes, sentence) in [
        (
            exporting(many()),
            "acme:many/e9, … and 9,990 more, not taskforge:plugin/handler@0.1: export the handler interface of taskforge:plugin",
        ),
        (
            exporting(many().chain([handler])),
            "imports and exports 10001 names of 148920 bytes; this host loads at most 1000 of 131072 bytes",
        ),
        (
            exporting(["taskforge:plugin/handler@0.2.0".to_owned()]),
            "exports taskforge:plugin/handler@0.2.0; this host speaks taskforge:plugin/handler@0.1",
        ),
        (
            exporting(["wasi:http/incoming-handler@0.2.4".to_owned()]),
            "exports wasi:http/incoming-handler@0.2.4, not taskforge:plugin/handler@0.1, and so does not say its name: give name and version \
             with the push",
        ),
        (
            b"(module)".to_vec(),
            "this is WebAssembly text, which must be assembled first, not a WebAssembly component",
        ),
    ] {
        let text = refused(&bed, bytes).await.to_string();
        assert!(text.contains(sentence) && text.len() < 500, "{text}");
    }
}

#[tokio::test]
async fn a_handler_that_is_pushed_under_another_name_is_refused() {
    let bed = Bed::new().await;
    let manifest =
        |name: &str| serde_json::from_value(json!({"name": name, "version": "1.0.0"})).unwrap();
    let bytes = || wat::parse_str(guests::wat("well_behaved")).unwrap();
    let load = async |manifest| {
        let settings = PluginSettings::default();
        bed.runtime.load_as(bytes(), settings, Some(&manifest)).await
    };
    assert!(load(manifest("hostile-wat")).await.is_ok());
    let error = load(manifest("other")).await.unwrap_err();
    assert!(
        error
            .to_string()
            .contains("it is hostile-wat 1.0.0, and other 1.0.0 was said to be pushed"),
        "{error}"
    );
}

#[tokio::test]
async fn a_damaged_component_harms_nobody() {
    let bed = Bed::new().await;
    let whole = wat::parse_str(guests::wat("well_behaved")).unwrap();
    for length in 0..whole.len() {
        let cut = bed.runtime.load(whole[..length].to_vec(), PluginSettings::default()).await;
        // Only names for debugging may be missing.
        assert!(cut.is_err() || length > whole.len() / 2, "the first {length} bytes were loaded");
    }
    for index in 0..whole.len() {
        let mut changed = whole.clone();
        changed[index] ^= 0x55;
        // Some bytes are names and data that mean nothing; what matters is that nobody panics.
        drop(bed.runtime.load(changed, PluginSettings::default()).await);
    }
    bed.neighbour_completes().await;
}

#[tokio::test]
async fn every_plugin_that_ships_loads() {
    let bed = Bed::new().await;
    for name in ["fibonacci", "scraper", "email", "sms"] {
        let plugin =
            bed.runtime.load(guests::bytes(name), PluginSettings::default()).await.unwrap();
        assert_eq!(plugin.info().name.as_str(), name);
    }
}

#[tokio::test]
async fn a_missing_import_is_named() {
    let bed = Bed::new().await;
    let error = refused_wat(&bed, "unknown_import").await;
    assert!(matches!(error, LoadError::Incompatible(_)), "{error:?}");
    assert!(error.to_string().contains("acme:rocket/launch@1.0.0"), "{error}");
}

#[tokio::test]
async fn a_plugin_that_cannot_describe_itself_is_refused() {
    let bed = Bed::new().await;
    let kind = |error: LoadError| match error {
        LoadError::Describe(failure) => failure.kind,
        other => panic!("{other:?}"),
    };
    assert_eq!(kind(refused_wat(&bed, "trapping_describe").await), FailureKind::Trap);
    for endless in ["endless_describe", "endless_start"] {
        // On a machine that is busy its time is over before its fuel is.
        let kind = kind(refused_wat(&bed, endless).await);
        assert!(matches!(kind, FailureKind::OutOfFuel | FailureKind::Deadline), "{kind:?}");
    }
    for (name, word) in [("bad_name", "task type"), ("bad_schema", "not JSON")] {
        let error = refused_wat(&bed, name).await;
        assert!(matches!(error, LoadError::Description(_)), "{error:?}");
        assert!(error.to_string().contains(word), "{error}");
    }
}

#[tokio::test]
async fn a_component_that_needs_a_proposal_is_told_how_to_be_built_without_it() {
    let bed = Bed::new().await;
    let manifest = json!({"name": "needing", "version": "1.0.0"});
    let manifest: Manifest = serde_json::from_value(manifest).unwrap();
    for (module, advice) in [
        ("(tag (param i32))", "-fno-exceptions"),
        ("(tag $e) (func (block $h (try_table (catch $e $h) (throw $e))))", "setjmp"),
        ("(type (struct (field i32)))", "brings its own collector"),
        ("(memory 1 1 shared)", "no threads"),
        ("(memory i64 1)", "32-bit memories"),
    ] {
        // With an export that this host calls, so that nothing else is wrong with it.
        let component = format!(
            r#"(component
                (core module $needing {module})
                (core instance (instantiate $needing))
                (core module $main (func (export "run") (result i32) (i32.const 0)))
                (core instance $main (instantiate $main))
                (func $run (result (result)) (canon lift (core func $main "run")))
                (instance $command (export "run" (func $run)))
                (export "wasi:cli/run@0.2.0" (instance $command)))"#
        );
        let bytes = wat::parse_str(&component).unwrap();
        let loaded = bed.runtime.load_as(bytes, settings(json!({})), Some(&manifest)).await;
        let error = loaded.unwrap_err();
        assert!(matches!(error, LoadError::Unsupported(_)), "{module}: {error:?}");
        assert!(error.to_string().contains(advice), "{module}: {error}");
    }
}

#[tokio::test]
async fn a_component_of_too_many_parts_is_refused() {
    let bed = Bed::new().await;
    for (name, word) in [
        ("too_many_memories", "memor"),
        ("too_many_tables", "table"),
        ("too_many_instances", "instance"),
        ("huge_minimum_memory", "memor"),
    ] {
        let error = refused_wat(&bed, name).await;
        assert!(error.to_string().contains(word), "{name}: {error}");
    }
}

#[tokio::test]
async fn the_plugins_own_limits_on_parts_hold_too() {
    let bed = Bed::new().await;
    let load = async |name: &str, limits| {
        let bytes = wat::parse_str(guests::wat(name)).unwrap();
        bed.runtime.load(bytes, settings(json!({ "limits": limits }))).await
    };
    for limits in [
        json!({"memories": 3}),
        json!({"instances": 3}),
        json!({"memory": "64 KiB", "memories": 0}),
    ] {
        match load("many_memories", limits.clone()).await {
            Err(LoadError::Describe(failure)) => {
                assert_eq!(failure.kind, FailureKind::OutOfMemory, "{failure}");
            }
            other => panic!("{limits}: {other:?}"),
        }
    }
}

#[tokio::test]
async fn limits_beyond_the_runtimes_are_refused_by_name() {
    let bed = Bed::new().await;
    let bytes = guests::bytes("fibonacci");
    let error =
        bed.runtime.load(bytes, settings(json!({"limits": {"memories": 1000}}))).await.unwrap_err();
    assert_eq!(error.to_string(), "limits.memories is 1000; this host allows at most 16");
}

#[tokio::test]
async fn limits_beyond_the_ceilings_are_refused() {
    let outbox = tempfile::tempdir().unwrap();
    let mut config = config(&outbox);
    config.ceilings.log = 1 << 20;
    let bed = Bed::with(config, outbox).await;
    for (limits, refusal) in [
        (
            json!({"log": u64::MAX}),
            "limits.log is 18446744073709551615; this host allows at most 1048576",
        ),
        (
            json!({"deadline": "1000000y"}),
            "limits.deadline is 1000000years; this host allows at most 1day",
        ),
    ] {
        let settings = settings(json!({"limits": limits}));
        let loaded = bed.runtime.load(guests::bytes("fibonacci"), settings.clone()).await;
        assert_eq!(loaded.unwrap_err().to_string(), refusal);
        let changed = bed.runtime.check_limits(&settings.limits);
        assert_eq!(changed.unwrap_err().to_string(), refusal);
    }
}

#[tokio::test]
async fn a_loaded_plugin_is_what_it_says() {
    let bed = Bed::new().await;
    let plugin = bed.hostile(json!({"limits": {"fuel": 123}, "grants": {"mail": true}})).await;
    let info = plugin.info();
    assert_eq!(info.name.as_str(), "hostile");
    assert!(info.input_schema.to_value().is_object());
    assert_eq!(info.exports, ["taskforge:plugin/handler@0.1.0"]);
    assert!(info.imports.iter().any(|name| name.starts_with("wasi:")), "{:?}", info.imports);
    assert_eq!((info.limits.fuel, info.grants.mail.allowed), (123, true));

    let bytes = guests::bytes("hostile");
    let inspection = inspect(&bytes).unwrap();
    assert_eq!((inspection.digest, inspection.size), (info.digest, bytes.len() as u64));
    assert_eq!((&inspection.imports, inspection.shape), (&info.imports, Some(Shape::Handler)));
}

#[tokio::test]
async fn code_is_cached_and_a_damaged_file_is_compiled_again() {
    let outbox = tempfile::tempdir().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let cached = RuntimeConfig { cache_dir: Some(folder.path().join("code")), ..config(&outbox) };
    let load = async || {
        let runtime = Runtime::new(cached.clone()).unwrap();
        let plugin =
            runtime.load(guests::bytes("hostile"), PluginSettings::default()).await.unwrap();
        let invoked =
            runtime.invoke(&plugin, invocation(json!({"attack": "ok", "value": 1}))).await;
        assert_eq!(output(&invoked), json!({"ok": true, "value": 1}));
    };
    load().await;
    let files: Vec<_> = fs::read_dir(folder.path().join("code"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    let [file] = files.as_slice() else { panic!("{files:?}") };
    let code = fs::read(file).unwrap();
    let modified = || fs::metadata(file).unwrap().modified().unwrap();
    let written = modified();

    load().await;
    assert_eq!(modified(), written, "it was compiled again");

    for damage in [&code[..code.len() / 2], b"", b"not ours at all"] {
        fs::write(file, damage).unwrap();
        load().await;
        assert_eq!(fs::read(file).unwrap().len(), code.len(), "the damaged file was replaced");
    }
}

#[cfg(unix)]
#[tokio::test]
async fn the_cache_is_private() {
    use std::os::unix::fs::PermissionsExt as _;

    let outbox = tempfile::tempdir().unwrap();
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let cached = RuntimeConfig { cache_dir: Some(folder.path().to_path_buf()), ..config(&outbox) };
    let runtime = Runtime::new(cached).unwrap();
    runtime.load(guests::bytes("fibonacci"), PluginSettings::default()).await.unwrap();
    assert_eq!(fs::metadata(folder.path()).unwrap().permissions().mode() & 0o777, 0o700);
}
