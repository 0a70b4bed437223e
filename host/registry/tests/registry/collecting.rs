//! Versions that nothing refers to go, and what is needed stays.

use std::time::Duration;

use taskforge_domain::{PluginSettings, Timestamp, WorkerId};
use taskforge_registry::{Collector, RegistryError, Retention};
use taskforge_store::{Quota, Store as _};
use taskforge_testing::guests;

use crate::bed::{BY, Bed, name, push, rebuilt};

async fn numbers(bed: &Bed) -> Vec<String> {
    let versions = bed.registry.versions(&name("work")).await.unwrap();
    versions.into_iter().map(|version| version.info.version).collect()
}

#[tokio::test]
async fn an_operator_deletes_what_nothing_refers_to_and_sees_it_before() {
    let bed = Bed::new().await;
    let work = name("work");
    for n in 0..5 {
        let push = push("work", &format!("1.0.{n}"), PluginSettings::default());
        let component = rebuilt(guests::bytes("command"), n);
        bed.registry.push(component, push).await.unwrap();
    }
    bed.activate("work", "1.0.1").await;
    let zero = bed.registry.prune(&work, 0, false, BY).await.unwrap_err();
    assert!(matches!(zero, RegistryError::Invalid { .. }));
    let dry = bed.registry.prune(&work, 1, true, BY).await.unwrap();
    assert_eq!((dry.versions.len(), dry.components), (3, 0));
    assert_eq!(numbers(&bed).await.len(), 5);

    let pruned = bed.registry.prune(&work, 1, false, BY).await.unwrap();
    assert_eq!((pruned.versions, pruned.components), (dry.versions.clone(), 3));
    assert_eq!(numbers(&bed).await, ["1.0.4", "1.0.1"]);
    let record = bed.record("work").await.remove(0);
    assert_eq!(record, "collected - all but the newest 1: 1.0.0, 1.0.2, 1.0.3");
    for gone in dry.versions {
        assert_eq!(bed.registry.component(&gone.digest).await.unwrap(), None);
    }
    assert_eq!(bed.follow().await.version("work").as_deref(), Some("1.0.1"));
    let gone = bed.registry.activate(&work, "1.0.2", false, BY).await;
    assert!(matches!(gone, Err(RegistryError::UnknownVersion { .. })));

    // The number stays taken, for these bytes.
    let other = push("work", "1.0.2", PluginSettings::default());
    let component = rebuilt(guests::bytes("command"), 9);
    let refused = bed.registry.push(component, other.clone()).await.unwrap_err();
    assert!(refused.to_string().contains("was there before, with other bytes"), "{refused}");
    let component = rebuilt(guests::bytes("command"), 2);
    assert!(bed.registry.push(component, other).await.unwrap().is_new);
}

#[tokio::test]
async fn the_leader_keeps_the_registry_to_its_retention() {
    let bed = Bed::new().await;
    for n in 0..4 {
        bed.push("work", &format!("1.0.{n}")).await;
    }
    let retention = Retention { keep: 2, keep_for: Duration::from_secs(3600) };
    let collector = Collector::new(bed.store.clone(), retention);
    let store = &bed.sqlite;
    let now = Timestamp::now();
    let term = store.lead(WorkerId::generate(), now, Duration::from_secs(60)).await.unwrap();
    let term = term.unwrap();
    assert_eq!(collector.collect(term, now).await.unwrap(), (0, 0));
    let later = now + Duration::from_secs(3601);
    assert_eq!(collector.collect(term, later).await.unwrap(), (2, 0));
    assert_eq!(numbers(&bed).await, ["1.0.3", "1.0.2"]);
    store.resign(term).await.unwrap();
    assert!(collector.collect(term, later).await.is_err(), "it leads no more");
}

#[tokio::test]
async fn a_quota_says_what_is_used_up() {
    let bed = Bed::new().await;
    let size = guests::bytes("command").len() as u64;
    let few = bed.registry.clone().with_quota(Quota { versions: 2, bytes: size * 2 });
    let add = async |plugin: &str, version: &str, build: u8| {
        let push = push(plugin, version, PluginSettings::default());
        few.push(rebuilt(guests::bytes("command"), build), push).await
    };
    add("work", "1.0.0", 1).await.unwrap();
    add("work", "1.0.1", 1).await.unwrap();
    let refused = add("work", "1.0.2", 1).await.unwrap_err().to_string();
    assert!(
        refused
            .starts_with("versions of work would be more than the quota allows: 2 of 2 are in use"),
        "{refused}"
    );
    let refused = add("other", "1.0.0", 2).await.unwrap_err().to_string();
    let used = format!("{} of {} are in use, and this one has {}", size + 5, size * 2, size + 5);
    assert!(refused.contains(&used), "{refused}");
    few.prune(&name("work"), 1, false, BY).await.unwrap();
    add("work", "1.0.2", 1).await.unwrap();
}
