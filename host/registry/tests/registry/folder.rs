//! A folder of components.

use std::{fs, path::PathBuf, time::Duration};

use taskforge_domain::PluginSettings;
use taskforge_registry::{Folder, FolderProgress, folder::Looked};
use taskforge_testing::{guests, wait::wait_until};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use crate::bed::{BY, Bed, name, push, rebuilt};

fn put(folder: &std::path::Path, file: &str, bytes: &[u8]) -> PathBuf {
    fs::create_dir_all(folder).unwrap();
    let path = folder.join(file);
    fs::write(&path, bytes).unwrap();
    path
}

const MANIFEST: &str = "[manifest]\nname = \"work\"\nversion = \"1.0.0\"\n";

async fn running(bed: &Bed) -> Option<String> {
    let plugin = bed.registry.plugin(&name("work")).await.ok()?;
    let stable = plugin.rollout.stable?;
    let versions = bed.registry.versions(&name("work")).await.unwrap();
    let version = versions.into_iter().find(|version| version.id == stable)?;
    Some(version.info.version)
}

fn results(looked: Vec<Looked>) -> Vec<Result<String, String>> {
    let text = |looked: Looked| match looked.result {
        Ok((plugin, version)) => Ok(format!("{plugin} {version}")),
        Err(error) => Err(error.to_string()),
    };
    looked.into_iter().map(text).collect()
}

#[tokio::test]
async fn a_folder_is_registered_and_one_bad_file_does_not_stop_the_others() {
    let bed = Bed::new().await;
    let path = bed.folder.path().join("plugins");
    put(&path, "a.wasm", &guests::bytes("command"));
    put(&path, "a.toml", MANIFEST.as_bytes());
    put(&path, "b.wasm", b"hello");
    put(&path, "c.wasm", &guests::bytes("command"));
    put(&path, "c.toml", b"[limits]\nfeul = 1");
    put(&path, "d.wasm", &guests::bytes("command"));
    put(&path, "d.toml", MANIFEST.as_bytes());
    let mut folder = Folder::new(bed.registry.clone(), path);
    let results = results(folder.sync().await.unwrap());
    // The small ones first.
    assert!(results[0].as_ref().unwrap_err().contains("WebAssembly"), "{results:?}");
    assert_eq!(results[1], Ok("work 1.0.0".to_owned()));
    assert!(results[2].as_ref().unwrap_err().contains("feul"), "{results:?}");
    assert!(
        results[3].as_ref().unwrap_err().contains("another file already handles work"),
        "{results:?}"
    );
    assert_eq!(running(&bed).await.as_deref(), Some("1.0.0"));
}

#[tokio::test]
async fn a_process_that_starts_does_not_undo_what_an_operator_did() {
    let bed = Bed::new().await;
    let path = bed.folder.path().join("plugins");
    put(&path, "work.wasm", &guests::bytes("command"));
    let toml = put(&path, "work.toml", MANIFEST.as_bytes());
    let sync = async |watched: bool| {
        let folder = if watched { Folder::watched } else { Folder::new };
        results(folder(bed.registry.clone(), path.clone()).sync().await.unwrap());
    };
    sync(false).await;
    assert_eq!(running(&bed).await.as_deref(), Some("1.0.0"));
    // A process with newer files, and then one that still has the old ones.
    fs::write(&toml, MANIFEST.replace("1.0.0", "1.1.0")).unwrap();
    sync(false).await;
    assert_eq!(running(&bed).await.as_deref(), Some("1.1.0"));
    fs::write(&toml, MANIFEST).unwrap();
    sync(false).await;
    assert_eq!(running(&bed).await.as_deref(), Some("1.1.0"), "an old process brings nothing back");
    sync(true).await;
    assert_eq!(running(&bed).await.as_deref(), Some("1.0.0"), "a watched folder is what runs");

    bed.push("work", "2.0.0").await;
    bed.activate("work", "2.0.0").await;
    let settings = PluginSettings {
        config: [("color".to_owned(), "blue".to_owned())].into(),
        ..PluginSettings::default()
    };
    let by_hand = bed.registry.set_settings(&name("work"), "1.0.0", settings, BY).await;
    by_hand.unwrap();
    fs::write(&toml, format!("{MANIFEST}\n[config]\ncolor = \"red\"\n")).unwrap();
    for watched in [false, true] {
        sync(watched).await;
        assert_eq!(running(&bed).await.as_deref(), Some("2.0.0"));
        let version = bed.registry.version(&name("work"), "1.0.0").await.unwrap();
        assert_eq!(version.info.config["color"], "blue");
    }
}

#[tokio::test]
async fn a_watched_folder_is_followed() {
    let bed = Bed::new().await;
    let path = bed.folder.path().join("plugins");
    fs::create_dir_all(&path).unwrap();
    let mut folder = Folder::watched(bed.registry.clone(), path.clone());
    assert!(folder.sync().await.unwrap().is_empty());
    let _watch = AbortOnDropHandle::new(tokio::spawn(folder.run(CancellationToken::new())));

    put(&path, "work.toml", MANIFEST.as_bytes());
    // Written slowly, as a linker or a copy does: no half of it is ever read.
    let component = guests::bytes("command");
    for part in [component.len() / 3, component.len() / 2, component.len()] {
        put(&path, "work.wasm", &component[..part]);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    wait_until("it runs", async || running(&bed).await.as_deref() == Some("1.0.0")).await;
    put(&path, "work.wasm", &rebuilt(component.clone(), 1));
    wait_until("the new build runs", async || {
        running(&bed).await.is_some_and(|version| version.starts_with("1.0.0+sha."))
    })
    .await;
    let number = running(&bed).await.unwrap();
    put(&path, "work.toml", format!("{MANIFEST}\n[limits]\nfuel = 4711\n").as_bytes());
    wait_until("its settings are set", async || {
        let version = bed.registry.version(&name("work"), &number).await.unwrap();
        version.info.limits.fuel == 4_711
    })
    .await;
    let retired = async || bed.registry.plugin(&name("work")).await.unwrap().rollout.retired;
    fs::remove_file(path.join("work.wasm")).unwrap();
    wait_until("it is retired", async || retired().await).await;
    put(&path, "work.wasm", &component);
    wait_until("it is back", async || !retired().await).await;
    assert_eq!(running(&bed).await.as_deref(), Some("1.0.0"));
    // What is not the folder's is left alone.
    let other = push("other", "1.0.0", PluginSettings::default());
    bed.registry.push(component, other).await.unwrap();
}

#[tokio::test]
async fn a_new_build_without_settings_beside_it_keeps_those_of_the_one_that_runs() {
    let bed = Bed::new().await;
    let path = bed.folder.path().join("plugins");
    put(&path, "work.toml", MANIFEST.as_bytes());
    put(&path, "work.wasm", &guests::bytes("command"));
    let sync = async || {
        let mut folder = Folder::new(bed.registry.clone(), path.clone());
        results(folder.sync().await.unwrap())
    };
    assert_eq!(sync().await, [Ok("work 1.0.0".to_owned())]);
    let mut settings = PluginSettings::default();
    settings.grants.secrets.push("key".into());
    bed.registry.set_settings(&name("work"), "1.0.0", settings.clone(), BY).await.unwrap();
    put(&path, "work.wasm", &rebuilt(guests::bytes("command"), 1));
    sync().await;
    let number = running(&bed).await.unwrap();
    assert!(number.starts_with("1.0.0+sha."), "{number}");
    let version = bed.registry.version(&name("work"), &number).await.unwrap();
    assert_eq!(version.info.settings(), settings);
}

#[tokio::test]
async fn a_build_that_lacked_a_grant_runs_once_it_has_it() {
    let bed = Bed::new().await;
    let path = bed.folder.path().join("plugins");
    let granted = "[grants.http]\nhosts = [\"example.com\"]\n";
    put(&path, "sms.toml", granted.as_bytes());
    put(&path, "sms.wasm", &guests::bytes("sms"));
    let folder = Folder::watched(bed.registry.clone(), path.clone());
    let _watch = AbortOnDropHandle::new(tokio::spawn(folder.run(CancellationToken::new())));
    let runs = async || {
        let plugin = bed.registry.plugin(&name("sms")).await.ok()?;
        let stable = plugin.rollout.stable?;
        let versions = bed.registry.versions(&name("sms")).await.unwrap();
        let running = versions.into_iter().find(|version| version.id == stable)?;
        Some(running.info.version)
    };
    wait_until("it runs", async || runs().await.is_some()).await;
    let first = runs().await.unwrap();

    put(&path, "sms.toml", b"[limits]\nfuel = 4711\n");
    put(&path, "sms.wasm", &rebuilt(guests::bytes("sms"), 1));
    wait_until("the new build is there", async || {
        bed.registry.versions(&name("sms")).await.unwrap().len() == 2
    })
    .await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(runs().await.as_ref(), Some(&first), "it would lose its grant");
    put(&path, "sms.toml", granted.as_bytes());
    wait_until("the new build runs", async || runs().await.is_some_and(|version| version != first))
        .await;
}

#[tokio::test]
async fn a_file_that_was_refused_at_the_start_runs_once_what_stands_beside_it_is_mended() {
    let bed = Bed::new().await;
    let path = bed.folder.path().join("plugins");
    put(&path, "work.wasm", &guests::bytes("command"));
    put(&path, "work.toml", format!("{MANIFEST}\n[limits]\nfeul = 1\n").as_bytes());
    let folder = Folder::watched(bed.registry.clone(), path.clone());
    let mut progress = folder.progress();
    let _watch = AbortOnDropHandle::new(tokio::spawn(folder.run(CancellationToken::new())));
    progress.wait_for(|progress| *progress == FolderProgress::Settled).await.unwrap();
    assert_eq!(running(&bed).await, None);
    put(&path, "work.toml", format!("{MANIFEST}\n[limits]\nfuel = 4711\n").as_bytes());
    wait_until("it runs", async || running(&bed).await.as_deref() == Some("1.0.0")).await;
    let version = bed.registry.version(&name("work"), "1.0.0").await.unwrap();
    assert_eq!(version.info.limits.fuel, 4_711);
}
