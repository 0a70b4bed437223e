//! How components come in.

use serde_json::json;
use taskforge_domain::{Json, PluginSettings, TenantId};
use taskforge_registry::{Push, RegistryError, SameVersion, SettingsFrom};
use taskforge_testing::guests;

use crate::bed::{BY, Bed, name, push, rebuilt};

#[tokio::test]
async fn a_version_never_changes_and_the_same_bytes_again_change_nothing() {
    let bed = Bed::new().await;
    let first = bed.push("work", "1.0.0").await;
    assert!(
        first.is_new && first.plugin.rollout.stable.is_none(),
        "it is stored, and does not run"
    );
    let again = bed.push("work", "1.0.0").await;
    assert!(!again.is_new);
    assert_eq!((again.version.id, bed.record("work").await.len()), (first.version.id, 1));

    let component = rebuilt(guests::bytes("command"), 1);
    let other = push("work", "1.0.0", PluginSettings::default());
    let refused = bed.registry.push(component, other).await.unwrap_err();
    assert_eq!(
        refused.to_string(),
        "version 1.0.0 of work is there with other bytes; raise the version"
    );
    let mut schema = push("work", "1.0.0", PluginSettings::default());
    schema.manifest.as_mut().unwrap().input_schema = Json::from(json!({"type": "object"}));
    let refused = bed.registry.push(guests::bytes("command"), schema).await;
    assert!(refused.unwrap_err().to_string().contains("other schemas"));
}

#[tokio::test]
async fn a_rebuilt_component_may_be_told_apart_by_its_bytes() {
    let bed = Bed::new().await;
    bed.push("work", "1.0.0").await;
    let mut numbers = Vec::new();
    for build in [1, 2, 1] {
        let push = Push {
            same_version: SameVersion::Suffix,
            ..push("work", "1.0.0", PluginSettings::default())
        };
        let component = rebuilt(guests::bytes("command"), build);
        let pushed = bed.registry.push(component, push).await.unwrap();
        let digest = pushed.version.info.digest.to_string();
        assert_eq!(pushed.version.info.version, format!("1.0.0+sha.{}", &digest[..8]));
        numbers.push((pushed.version.info.version, pushed.is_new));
    }
    assert_eq!(numbers[0].0, numbers[2].0);
    assert_eq!((numbers[0].1, numbers[1].1, numbers[2].1), (true, true, false));
}

#[tokio::test]
async fn a_name_belongs_to_whoever_took_it() {
    let bed = Bed::new().await;
    let acme = TenantId::new("acme").unwrap();
    let of = |owner: Option<&TenantId>| Push {
        owner: owner.cloned(),
        ..push("work", "1.0.0", PluginSettings::default())
    };
    let component = || guests::bytes("command");
    bed.registry.push(component(), of(Some(&acme))).await.unwrap();
    for other in [None, Some(&TenantId::default())] {
        let refused = bed.registry.push(component(), of(other)).await.unwrap_err();
        assert!(matches!(refused, RegistryError::NameTaken(_)));
        assert!(!refused.to_string().contains("acme"), "{refused}");
    }
}

#[tokio::test]
async fn what_makes_no_sense_is_told_with_its_field() {
    let bed = Bed::new().await;
    let mut bad_schema = push("work", "1.0.0", PluginSettings::default());
    bad_schema.manifest.as_mut().unwrap().input_schema = Json::from(json!({"type": "nonsense"}));
    let mut no_fuel = push("work", "1.0.0", PluginSettings::default());
    no_fuel.settings.as_mut().unwrap().limits.fuel = 0;
    let mut none_at_once = push("work", "1.0.0", PluginSettings::default());
    none_at_once.settings.as_mut().unwrap().limits.concurrency = Some(0);
    for (push, field) in [
        (bad_schema, "input_schema"),
        (no_fuel, "limits.fuel"),
        (none_at_once, "limits.concurrency"),
    ] {
        let refused = bed.registry.push(guests::bytes("command"), push).await.unwrap_err();
        assert!(
            matches!(&refused, RegistryError::Invalid { field: found, .. } if found == field),
            "{refused}"
        );
    }
    let text = bed
        .registry
        .push(b"hello".to_vec(), push("work", "1.0.0", PluginSettings::default()))
        .await
        .unwrap_err();
    assert!(matches!(text, RegistryError::Load(_)), "{text}");
    assert!(bed.registry.plugin(&name("work")).await.is_err(), "nothing was kept");
}

#[tokio::test]
async fn a_secret_is_sealed_and_never_told() {
    let bed = Bed::new().await;
    let work = name("work");
    let early = bed.registry.set_secret(&work, "key", "swordfish", BY).await;
    assert!(matches!(early, Err(RegistryError::UnknownPlugin(_))));
    bed.push("work", "1.0.0").await;
    bed.registry.set_secret(&work, "key", "swordfish", BY).await.unwrap();
    let sealed = &bed.store.secrets(&work).await.unwrap()[0].sealed;
    assert!(!sealed.windows(9).any(|window| window == b"swordfish"));
    let listed = bed.registry.secrets(&work).await.unwrap();
    assert!(listed[0].can_open && listed[0].name == "key");
    let record = bed.record("work").await.join("\n");
    assert!(record.contains("secret_set") && !record.contains("swordfish"), "{record}");
    bed.registry.delete_secret(&work, "key", BY).await.unwrap();
    let gone = bed.registry.delete_secret(&work, "key", BY).await;
    assert!(matches!(gone, Err(RegistryError::UnknownSecret { .. })));
}

fn grants(value: serde_json::Value) -> PluginSettings {
    let grants = serde_json::from_value(value).unwrap();
    PluginSettings { grants, ..PluginSettings::default() }
}

#[tokio::test]
async fn a_new_version_gets_the_settings_of_the_one_that_runs_unless_it_brings_its_own() {
    let bed = Bed::new().await;
    let without =
        |version: &str| Push { settings: None, ..push("work", version, PluginSettings::default()) };
    let component = || guests::bytes("command");
    let mut running = grants(json!({"http": {"hosts": ["a.test"]}, "secrets": ["key"]}));
    running.limits.fuel = 4_711;
    running.config.insert("url".into(), "x".into());
    bed.push_with("work", "1.0.0", running.clone()).await.unwrap();
    let early = bed.registry.push(component(), without("0.9.0")).await.unwrap();
    assert_eq!(
        (early.version.info.settings(), early.settings_from),
        (PluginSettings::default(), SettingsFrom::Own),
        "nothing runs yet"
    );
    bed.activate("work", "1.0.0").await;
    let two = bed.registry.push(component(), without("2.0.0")).await.unwrap();
    assert_eq!(two.version.info.settings(), running);
    assert_eq!(two.settings_from, SettingsFrom::Running("1.0.0".into()));
    assert!(bed.record("work").await[0].ends_with(", settings of 1.0.0"));
    let stored = bed.registry.version(&name("work"), "2.0.0").await.unwrap();
    assert_eq!(stored.info.settings(), running);
    bed.activate("work", "2.0.0").await;
    let own = bed.push_with("work", "3.0.0", grants(json!({}))).await.unwrap();
    assert_eq!(own.version.info.settings(), PluginSettings::default());

    // The name of another tenant tells nothing of its settings.
    let foreign = Push { owner: Some(TenantId::new("acme").unwrap()), ..without("4.0.0") };
    let refused = bed.registry.push(component(), foreign).await.unwrap_err();
    assert!(matches!(refused, RegistryError::NameTaken(_)), "{refused}");
}

#[tokio::test]
async fn what_describes_itself_gets_the_settings_of_the_one_that_runs_too() {
    let bed = Bed::new().await;
    let one = |component: Vec<u8>, settings: Option<PluginSettings>| {
        let push = Push {
            manifest: None,
            settings,
            same_version: SameVersion::Suffix,
            ..push("scraper", "1.0.0", PluginSettings::default())
        };
        bed.registry.push(component, push)
    };
    let mut settings = grants(json!({"http": {"hosts": ["a.test"]}}));
    settings.limits.memory = 96 << 20;
    let first = one(guests::bytes("scraper"), Some(settings.clone())).await.unwrap();
    let number = first.version.info.version.clone();
    bed.activate("scraper", &number).await;
    let next = one(rebuilt(guests::bytes("scraper"), 1), None).await.unwrap();
    assert_eq!(next.version.info.settings(), settings);
    assert_eq!(next.settings_from, SettingsFrom::Running(number.clone()));
    bed.activate("scraper", &next.version.info.version).await;

    let bare = one(rebuilt(guests::bytes("scraper"), 2), Some(PluginSettings::default()));
    let bare = bare.await.unwrap().version.info.version;
    let refused = bed.registry.activate(&name("scraper"), &bare, false, BY).await.unwrap_err();
    assert!(
        matches!(&refused, RegistryError::GrantDropped { grant, .. } if grant.field == "grants.http.hosts"),
        "{refused}"
    );
    bed.registry.activate(&name("scraper"), &bare, true, BY).await.unwrap();
    bed.registry.rollback(&name("scraper"), BY).await.unwrap();
}

#[tokio::test]
async fn other_settings_beside_the_same_bytes_are_told() {
    let bed = Bed::new().await;
    bed.push("work", "1.0.0").await;
    let mut other = grants(json!({"secrets": ["key"]}));
    other.limits.fuel = 7;
    let again = bed.push_with("work", "1.0.0", other).await.unwrap();
    assert_eq!(again.settings_from, SettingsFrom::Before(vec!["limits", "grants"]));
    assert_eq!(again.version.info.settings(), PluginSettings::default());
    let note = again.settings_from.note(&name("work"), "1.0.0").unwrap();
    assert!(note.contains("taskforge plugin settings work 1.0.0"), "{note}");
    let same = bed.push("work", "1.0.0").await;
    assert_eq!(same.settings_from, SettingsFrom::Own);
}
