//! What a signature says holds: when a component comes in, when it goes live, and wherever it runs.

use std::sync::Arc;

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use taskforge_domain::{
    CanaryGuard, PluginEvent, PluginEventKind, PluginSettings, Rollout, TenantId, Timestamp,
};
use taskforge_registry::{
    Force, Push, Pushed, RegistryError, RegistryResult, SameVersion, SignatureError,
    SignaturePolicy, TrustedKeys, signature,
};
use taskforge_store::{Added, Quota, RolloutChange};
use taskforge_testing::guests;

use crate::bed::{BY, Bed, name, push, rebuilt};

/// A host that takes what one key signs.
struct Strict {
    pair: signature::KeyPair,
    policy: SignaturePolicy,
    bed: Bed,
}

fn trusting(pair: &signature::KeyPair, required: bool) -> SignaturePolicy {
    let public = &pair.public;
    let keys = format!(
        "[[key]]\nname = \"ci\"\npublic_key = \"{public}\"\nshared = true\ntenants = [\"acme\"]"
    );
    SignaturePolicy { required, trusted: TrustedKeys::parse(&keys).unwrap() }
}

impl Strict {
    async fn new() -> Self {
        let pair = signature::keygen().unwrap();
        let policy = trusting(&pair, true);
        Self { bed: Bed::with(policy.clone()).await, pair, policy }
    }

    /// Signs the command as this version of `work`, with the statement changed.
    fn sign(&self, version: &str, change: &Value) -> Vec<u8> {
        let mut statement = json!({
            "name": "work", "version": version, "owner": null, "digest": digest(&guests::bytes("command")),
            "shape": "command", "grants": {}, "config": [],
        });
        for (field, value) in change.as_object().unwrap() {
            statement[field] = value.clone();
        }
        let statement = serde_json::from_value(statement).unwrap();
        signature::sign(&self.pair.private_pem, &statement).unwrap()
    }

    async fn push(&self, version: &str, change: &Value, settings: Value) -> RegistryResult<Pushed> {
        let push = Push {
            signature: Some(self.sign(version, change)),
            ..push("work", version, serde_json::from_value(settings).unwrap())
        };
        self.bed.registry.push(guests::bytes("command"), push).await
    }

    /// A version that allows nothing, and is granted nothing.
    async fn plain(&self, version: &str) {
        self.push(version, &json!({}), json!({})).await.unwrap();
    }
}

fn digest(component: &[u8]) -> String {
    taskforge_domain::Digest::from_bytes(Sha256::digest(component).into()).to_string()
}

fn refusal<T: std::fmt::Debug>(result: RegistryResult<T>) -> String {
    match result.unwrap_err() {
        RegistryError::Signature(error) => error.to_string(),
        error => panic!("refused for another reason: {error}"),
    }
}

#[tokio::test]
async fn a_host_that_asks_for_signatures_takes_and_runs_nothing_else() {
    let strict = Strict::new().await;
    let unsigned =
        strict.bed.push_with("work", "1.0.0", PluginSettings::default()).await.unwrap_err();
    assert!(matches!(unsigned, RegistryError::Signature(SignatureError::Unsigned(_))));
    strict.plain("1.0.0").await;
    strict.bed.activate("work", "1.0.0").await;
    let process = strict.bed.follow().await;
    assert_eq!(process.version("work").as_deref(), Some("1.0.0"));

    // What another host took without a signature, this one does not run.
    let lax = Bed::new().await;
    lax.push("work", "1.0.0").await;
    lax.activate("work", "1.0.0").await;
    let process = lax.follow_with(None, Arc::new(strict.policy)).await;
    assert_eq!(process.version("work"), None);
    assert_eq!(lax.follow().await.version("work").as_deref(), Some("1.0.0"));
}

#[tokio::test]
async fn what_was_signed_passes_for_nothing_else() {
    let strict = Strict::new().await;
    let signed = strict.sign("1.0.0", &json!({}));
    let as_other = |change: &dyn Fn(&mut Push)| {
        let mut push = Push {
            signature: Some(signed.clone()),
            ..push("work", "1.0.0", PluginSettings::default())
        };
        change(&mut push);
        push
    };
    let acme = TenantId::new("acme").unwrap();
    for (push, said) in [
        (
            as_other(&|push| push.manifest.as_mut().unwrap().name = name("other")),
            "the plugin work, and this is other",
        ),
        (
            as_other(&|push| push.manifest.as_mut().unwrap().version = "1.0.1".into()),
            "version 1.0.0, and this is 1.0.1",
        ),
        (as_other(&|push| push.owner = Some(acme.clone())), "all tenants, and this is tenant acme"),
        (
            as_other(&|push| push.settings.as_mut().unwrap().grants.keyvalue.allowed = true),
            "grants.keyvalue",
        ),
        (
            as_other(&|push| push.settings.as_mut().unwrap().grants.secrets.push("key".into())),
            "grants.secrets",
        ),
        (
            as_other(&|push| {
                let config = &mut push.settings.as_mut().unwrap().config;
                config.insert("url".into(), "x".into());
            }),
            "config",
        ),
    ] {
        let refused = refusal(strict.bed.registry.push(guests::bytes("command"), push).await);
        assert!(refused.contains(said), "{refused}");
    }
    let other = rebuilt(guests::bytes("command"), 1);
    let refused = refusal(strict.bed.registry.push(other.clone(), as_other(&|_| {})).await);
    assert!(refused.contains("the component"), "{refused}");
    // A folder numbers what is rebuilt anew. What is signed has the number that was signed.
    let rebuilt = Push {
        signature: Some(strict.sign("1.0.0", &json!({ "digest": digest(&other) }))),
        same_version: SameVersion::Suffix,
        ..push("work", "1.0.0", PluginSettings::default())
    };
    strict.plain("1.0.0").await;
    let refused = strict.bed.registry.push(other, rebuilt).await.unwrap_err();
    assert!(matches!(refused, RegistryError::VersionTaken { .. }), "{refused}");
    let shape = strict.push("2.0.0", &json!({"shape": "http"}), json!({})).await;
    assert!(refusal(shape).contains("shape http"));
    let old =
        Push { signature: Some(vec![7; 64]), ..push("work", "2.0.0", PluginSettings::default()) };
    let refused = strict.bed.registry.push(guests::bytes("command"), old).await;
    assert!(refusal(refused).contains("taskforge plugin sign"));
}

#[tokio::test]
async fn settings_stay_within_what_was_signed() {
    let strict = Strict::new().await;
    let bound = json!({
        "grants": {"http": {"hosts": ["*.example.com"]}, "secrets": ["key"]}, "config": ["url"],
    });
    strict.push("1.0.0", &bound, json!({})).await.unwrap();
    let set = async |settings: Value| {
        let settings = serde_json::from_value(settings).unwrap();
        let (registry, work) = (&strict.bed.registry, name("work"));
        registry.set_settings(&work, "1.0.0", settings, BY).await
    };
    set(json!({
        "limits": {"fuel": 7}, "config": {"url": "x"},
        "grants": {"http": {"hosts": ["a.example.com:443"]}, "secrets": ["key"]},
    }))
    .await
    .unwrap();
    for (settings, field) in [
        (json!({"grants": {"http": {"hosts": ["*"]}}}), "grants.http.hosts"),
        (json!({"grants": {"http": {"private_networks": ["10.0.0.0/8"]}}}), "private_networks"),
        (json!({"grants": {"mail": true}}), "grants.mail"),
        (json!({"config": {"URL": "x"}}), "config"),
    ] {
        let refused = refusal(set(settings).await);
        assert!(refused.contains(field), "{refused}");
    }
    let version = strict.bed.registry.version(&name("work"), "1.0.0").await.unwrap();
    assert_eq!(version.info.limits.fuel, 7, "what was refused changed nothing");
}

#[tokio::test]
async fn a_worker_runs_nothing_that_the_signature_does_not_allow() {
    let strict = Strict::new().await;
    let (bed, work) = (&strict.bed, name("work"));
    strict.plain("1.0.0").await;
    bed.activate("work", "1.0.0").await;
    let version = bed.registry.version(&work, "1.0.0").await.unwrap();
    let event = || PluginEvent {
        at: Timestamp::now(),
        kind: PluginEventKind::SettingsChanged,
        version: None,
        by: "a thief".into(),
        detail: String::new(),
    };
    // Past the registry, as whoever can write to the database would do it.
    let write = async |settings: Value| {
        let settings = serde_json::from_value(settings).unwrap();
        let (signature, event) = (version.signature.as_deref(), event());
        let set = bed.store.set_settings(version.id, &settings, signature, &event);
        assert!(set.await.unwrap());
    };
    let running = bed.follow().await;
    for settings in [
        json!({"grants": {"keyvalue": {"bytes": 1, "keys": 1}}}),
        json!({"grants": {"http": {"hosts": ["*"]}}}),
        json!({"config": {"url": "x"}}),
    ] {
        write(settings.clone()).await;
        assert_eq!(bed.follow().await.version("work"), None, "{settings}");
        write(json!({})).await;
        running.serves("work", "1.0.0").await;
    }

    // The same statement under another number, or for another shape, of a version that is slipped
    // in.
    for change in [json!({"version": "1.0.1"}), json!({"shape": "http"}), json!({"owner": "acme"})]
    {
        let bed = Bed::with(strict.policy.clone()).await;
        let mut slipped = version.clone();
        slipped.signature = Some(strict.sign("1.0.0", &change));
        let (bytes, quota, pushed) = (guests::bytes("command"), Quota::UNLIMITED, event());
        let added = bed.store.add_version(None, &slipped, &bytes, quota, &pushed);
        assert_eq!(added.await.unwrap(), Added::Stored);
        let refused = bed.registry.activate(&work, "1.0.0", true, BY).await;
        refusal(refused);
        let rollout = RolloutChange {
            plugin: work.clone(),
            expected: bed.registry.plugin(&work).await.unwrap().revision,
            rollout: Rollout {
                phase: 1,
                since: Some(Timestamp::now()),
                stable: Some(slipped.id),
                ..Rollout::default()
            },
            states: Vec::new(),
            event: event(),
        };
        assert!(bed.store.change_rollout(&rollout).await.unwrap().is_some());
        assert_eq!(bed.follow().await.version("work"), None, "{change}");
    }
}

#[tokio::test]
async fn an_older_version_goes_live_by_an_operators_word_only() {
    let strict = Strict::new().await;
    for version in ["1.0.0", "1.1.0", "2.0.0"] {
        strict.plain(version).await;
    }
    let (bed, registry, work) = (&strict.bed, &strict.bed.registry, name("work"));
    bed.activate("work", "1.0.0").await;
    bed.activate("work", "2.0.0").await;
    let refused = registry.activate(&work, "1.1.0", true, BY).await.unwrap_err();
    assert!(matches!(&refused, RegistryError::Downgrade { highest, .. } if highest == "2.0.0"));
    assert!(refused.to_string().contains("--allow-downgrade"), "{refused}");
    let guard = CanaryGuard::default();
    let refused = registry.canary(&work, "1.1.0", 10, guard, true, BY).await;
    assert!(matches!(refused, Err(RegistryError::Downgrade { .. })));

    // A rollback is the word itself, and does not lower the bar.
    registry.rollback(&work, BY).await.unwrap();
    let refused = registry.activate(&work, "1.1.0", false, BY).await;
    assert!(matches!(refused, Err(RegistryError::Downgrade { .. })));
    let record = bed.record("work").await.remove(0);
    assert!(record.contains("older than 2.0.0, which was live: by the operator"), "{record}");
    registry.rollback(&work, BY).await.unwrap();

    let force = Force { downgrade: true, ..Force::default() };
    registry.canary(&work, "1.1.0", 10, guard, force, BY).await.unwrap();
    registry.stop_canary(&work, BY).await.unwrap();
    registry.activate(&work, "1.1.0", force, BY).await.unwrap();
    let record = bed.record("work").await.remove(0);
    assert!(record.contains("older than 2.0.0"), "{record}");
    bed.activate("work", "2.0.0").await;

    // The bar outlives the version that set it.
    strict.plain("2.0.0-rc.1").await;
    let refused = registry.activate(&work, "2.0.0-rc.1", false, BY).await;
    assert!(matches!(refused, Err(RegistryError::Downgrade { .. })));
}

#[tokio::test]
async fn a_stored_version_may_be_signed_later_and_otherwise() {
    let strict = Strict::new().await;
    let lax = Bed::new().await;
    lax.push_with(
        "work",
        "1.0.0",
        serde_json::from_value(json!({"config": {"url": "x"}})).unwrap(),
    )
    .await
    .unwrap();
    lax.activate("work", "1.0.0").await;
    let strict_process = || lax.follow_with(None, Arc::new(strict.policy.clone()));
    assert_eq!(strict_process().await.version("work"), None);

    let work = name("work");
    let attach = async |change: Value| {
        let signature = strict.sign("1.0.0", &change);
        lax.registry.attach_signature(&work, "1.0.0", &signature, BY).await
    };
    for (change, said) in [
        (json!({}), "config"),
        (json!({"config": ["url"], "version": "1.0.1"}), "version"),
        (json!({"config": ["url"], "owner": "acme"}), "acme"),
    ] {
        let refused = refusal(attach(change).await);
        assert!(refused.contains(said), "{refused}");
    }
    assert!(lax.registry.version(&work, "1.0.0").await.unwrap().signature.is_none());
    attach(json!({"config": ["url"]})).await.unwrap();
    strict_process().await.serves("work", "1.0.0").await;
    let wider = json!({"config": ["url"], "grants": {"secrets": ["key"]}});
    attach(wider).await.unwrap();
    let record = lax.record("work").await;
    assert!(record[0].starts_with("signed 1.0.0"), "{record:?}");
    let settings: PluginSettings =
        serde_json::from_value(json!({"grants": {"secrets": ["key"]}})).unwrap();
    let set = lax.registry.set_settings(&work, "1.0.0", settings, BY).await;
    set.unwrap();
    let back = attach(json!({"config": ["url"]})).await;
    assert!(refusal(back).contains("grants.secrets"), "what it has now would be too much");
}

#[tokio::test]
async fn settings_that_are_taken_over_stay_within_the_signature_too() {
    let strict = Strict::new().await;
    let bound = json!({"grants": {"secrets": ["key"]}});
    let settings = json!({"grants": {"secrets": ["key"]}});
    strict.push("1.0.0", &bound, settings).await.unwrap();
    let work = name("work");
    strict.bed.registry.activate(&work, "1.0.0", false, BY).await.unwrap();
    let next = async |version: &str, bound: &Value| {
        let push = Push {
            settings: None,
            signature: Some(strict.sign(version, bound)),
            ..push("work", version, PluginSettings::default())
        };
        strict.bed.registry.push(guests::bytes("command"), push).await
    };
    let refused = refusal(next("2.0.0", &json!({})).await);
    assert!(
        refused.contains("grants.secrets") && refused.contains("settings of 1.0.0"),
        "{refused}"
    );
    let taken = next("2.0.0", &bound).await.unwrap();
    assert_eq!(taken.version.info.grants.secrets, ["key"]);
}

#[tokio::test]
async fn the_same_bytes_again_are_judged_by_the_settings_that_they_have() {
    let strict = Strict::new().await;
    let narrow = json!({});
    strict.push("1.0.0", &narrow, json!({})).await.unwrap();
    let wide = json!({"grants": {"secrets": ["key"]}});
    strict.push("2.0.0", &wide, wide.clone()).await.unwrap();
    let registry = &strict.bed.registry;
    registry.activate(&name("work"), "2.0.0", false, BY).await.unwrap();
    let again = Push {
        settings: None,
        signature: Some(strict.sign("1.0.0", &narrow)),
        ..push("work", "1.0.0", PluginSettings::default())
    };
    let pushed = registry.push(guests::bytes("command"), again).await.unwrap();
    assert!(!pushed.is_new);
    assert!(pushed.version.info.grants.secrets.is_empty());
}
