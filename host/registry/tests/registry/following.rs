//! Processes that follow the registry.

use std::sync::Arc;

use taskforge_domain::{PluginSettings, QueuePolicy, TaskId};
use taskforge_registry::{Catalog, SignaturePolicy};
use taskforge_testing::{guests, wait::wait_until};

use crate::bed::{BY, Bed, keyring, name};

#[tokio::test]
async fn what_is_activated_is_served_soon_and_everything_else_stays_as_it_is() {
    let bed = Bed::new().await;
    for plugin in ["work", "other"] {
        bed.push(plugin, "1.0.0").await;
        bed.activate(plugin, "1.0.0").await;
    }
    let process = bed.follow().await;
    let plugin = |of: &str| process.live.get(&name(of), TaskId::generate()).unwrap().plugin;
    let (work, other) = (plugin("work"), plugin("other"));
    assert_eq!(process.live.types().len(), 2);

    bed.push("work", "2.0.0").await;
    bed.activate("work", "2.0.0").await;
    process.serves("work", "2.0.0").await;
    assert!(Arc::ptr_eq(&other, &plugin("other")), "what has not changed is not loaded again");
    assert_eq!(work.info().version, "1.0.0", "attempts keep what they began with");

    bed.registry.rollback(&name("work"), BY).await.unwrap();
    process.serves("work", "1.0.0").await;
}

#[tokio::test]
async fn tasks_from_before_are_to_be_checked_again() {
    let bed = Bed::new().await;
    bed.push("work", "1.0.0").await;
    bed.activate("work", "1.0.0").await;
    let process = bed.follow().await;
    let serving = process.live.get(&name("work"), TaskId::generate()).unwrap();
    assert!(serving.recheck && serving.input.is_some() && serving.counted.1 == 1);
    // Centuries from now: the registry was not looked at since.
    let later = "0fffffff-ffff-7000-8000-000000000000".parse().unwrap();
    let serving = process.live.get(&name("work"), later).unwrap();
    assert!(!serving.recheck && !process.live.is_current(&name("work"), later));
    let now = TaskId::generate();
    wait_until("the registry was looked at since", async || {
        process.live.is_current(&name("work"), now)
    })
    .await;
}

#[tokio::test]
async fn settings_and_secrets_reach_a_process_and_what_it_cannot_open_leaves_the_old_version_serving()
 {
    let bed = Bed::new().await;
    let work = name("work");
    let mut settings = PluginSettings::default();
    settings.grants.secrets.push("key".into());
    bed.push("work", "1.0.0").await;
    bed.push_with("work", "2.0.0", settings.clone()).await.unwrap();
    bed.activate("work", "1.0.0").await;
    let process = bed.follow().await;
    let stranger = bed.follow_with(Some(keyring(9)), Arc::new(SignaturePolicy::default())).await;
    bed.registry.set_secret(&work, "key", "swordfish", BY).await.unwrap();
    bed.activate("work", "2.0.0").await;
    process.serves("work", "2.0.0").await;
    assert_eq!(stranger.version("work").as_deref(), Some("1.0.0"));
    let plugin = || process.live.get(&work, TaskId::generate()).unwrap().plugin;
    let before = plugin();
    bed.registry.set_secret(&work, "key", "another", BY).await.unwrap();
    wait_until("the plugin has its new secret", async || !Arc::ptr_eq(&before, &plugin())).await;

    settings.limits.fuel = 4_711;
    bed.registry.set_settings(&work, "2.0.0", settings, BY).await.unwrap();
    wait_until("it goes by its new limits", async || plugin().info().limits.fuel == 4_711).await;
    assert!(!format!("{:?}", plugin()).contains("another"));
    assert_eq!(stranger.version("work").as_deref(), Some("1.0.0"));
}

#[tokio::test]
async fn a_pause_reaches_the_queue_s_policy() {
    let bed = Bed::new().await;
    bed.push("work", "1.0.0").await;
    bed.activate("work", "1.0.0").await;
    let process = bed.follow().await;
    let work = name("work");
    let policy = || process.live.catalog().overlay(QueuePolicy::default());
    assert!(!policy().is_paused(&work));
    bed.registry.pause(&work, BY).await.unwrap();
    wait_until("it is paused", async || policy().is_paused(&work)).await;
    bed.registry.retire(&work, BY).await.unwrap();
    bed.registry.resume(&work, BY).await.unwrap();
    wait_until("it is not", async || !policy().is_paused(&work)).await;
    assert_eq!(process.version("work").as_deref(), Some("1.0.0"), "what was accepted still runs");
}

#[tokio::test]
async fn a_component_that_is_compiled_for_the_first_time_comes_from_the_store() {
    let bed = Bed::new().await;
    let push = taskforge_registry::Push {
        manifest: None,
        ..crate::bed::push("fibonacci", "0.1.0", PluginSettings::default())
    };
    let pushed = bed.registry.push(guests::bytes("fibonacci"), push).await.unwrap();
    let number = pushed.version.info.version.clone();
    bed.activate("fibonacci", &number).await;
    assert_eq!(bed.follow().await.version("fibonacci"), Some(number));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_who_read_the_registry_at_once_none_brings_an_older_state_back() {
    let bed = Bed::new().await;
    let work = name("work");
    for version in ["1.0.0", "2.0.0"] {
        bed.push("work", version).await;
    }
    let catalog = Arc::new(Catalog::default());
    for round in 0..20 {
        let refreshes: Vec<_> = (0..4)
            .map(|_| {
                let (catalog, registry) = (catalog.clone(), bed.registry.clone());
                tokio::spawn(async move { registry.refresh(&catalog).await.unwrap() })
            })
            .collect();
        let version = if round % 2 == 0 { "1.0.0" } else { "2.0.0" };
        bed.activate("work", version).await;
        bed.registry.refresh(&catalog).await.unwrap();
        for refresh in refreshes {
            refresh.await.unwrap();
        }
        let known = catalog.known();
        assert_eq!(known.plugin(&work).unwrap().stable().unwrap().version, version);
        assert_eq!(known.revision, bed.store.registry_revision().await.unwrap());
    }
}
