//! Versions of plugins come in, and never change.

use super::*;
use std::collections::BTreeMap;
use taskforge_domain::{
    Grants, KeyValueGrant, Limits, MailGrant, PluginEvent, PluginEventKind, PluginInfo,
    PluginVersion, Revision, Shape, VersionId, VersionState,
};

use crate::{Added, Quota, QuotaKind};

/// A component that is its own digest, so to speak: `[n; 32]`.
pub(crate) fn digest(n: u8) -> Digest {
    Digest::from_bytes([n; 32])
}

pub(crate) fn version(plugin: &str, number: &str, n: u8) -> PluginVersion {
    PluginVersion {
        id: VersionId::generate(),
        info: PluginInfo {
            name: kind(plugin),
            version: number.into(),
            shape: Shape::Handler,
            digest: digest(n),
            summary: "does nothing".into(),
            input_schema: json(serde_json::json!({"type": "object"})),
            output_schema: json(serde_json::json!({})),
            capabilities: Vec::new(),
            imports: Vec::new(),
            exports: Vec::new(),
            size: 3,
            limits: Limits::default(),
            grants: Grants::default(),
            config: BTreeMap::new(),
        },
        signature: None,
        state: VersionState::Available,
        pushed_by: "alice".into(),
        pushed_at: at(1),
    }
}

pub(crate) fn event(kind: PluginEventKind, detail: &str) -> PluginEvent {
    PluginEvent { at: at(2), kind, version: None, by: "alice".into(), detail: detail.into() }
}

pub(crate) fn pushed() -> PluginEvent {
    event(PluginEventKind::Pushed, "")
}

impl World {
    /// Adds a shared version, which must be new.
    pub(crate) async fn push(&self, plugin: &str, number: &str, n: u8) -> PluginVersion {
        let version = version(plugin, number, n);
        assert_eq!(self.add_version(None, &version).await, Added::Stored);
        version
    }

    pub(crate) async fn add_version(
        &self,
        owner: Option<&TenantId>,
        version: &PluginVersion,
    ) -> Added {
        let (component, pushed) = (version.info.digest.as_bytes(), pushed());
        let quota = Quota::UNLIMITED;
        let added = self.plugins.add_version(owner, version, component, quota, &pushed);
        added.await.unwrap()
    }

    pub(crate) async fn revision(&self) -> Revision {
        self.plugins.registry_revision().await.unwrap()
    }

    async fn versions(&self, plugin: &str) -> Vec<PluginVersion> {
        self.plugins.plugin_versions(&kind(plugin)).await.unwrap()
    }
}

pub async fn everything_about_a_version_reads_back(world: World) {
    let mut full = version("full", "1.2.3-rc.1+build.7", 1);
    full.info.shape = Shape::Http;
    full.info.summary = "Größe — \"quoted\" \u{1f980}".into();
    full.info.input_schema = Json::parse("{ \"type\":  \"object\" }".into()).unwrap();
    full.info.capabilities = vec!["http".into(), "mail".into()];
    full.info.imports = vec!["wasi:http/outgoing-handler@0.2.6".into()];
    full.info.exports = vec!["wasi:http/incoming-handler@0.2.6".into()];
    full.info.size = u64::from(u32::MAX) + 1;
    full.info.limits = Limits {
        fuel: u64::MAX,
        deadline: Duration::from_millis(1_500),
        concurrency: Some(7),
        ..Limits::default()
    };
    full.info.grants = Grants {
        http: serde_json::from_value(serde_json::json!({
            "hosts": ["*.example.com", {"host": "api.test:8080", "methods": ["POST"]}],
            "private_networks": ["10.0.0.0/8"]
        }))
        .unwrap(),
        mail: MailGrant::unlimited(),
        secrets: vec!["key".into()],
        keyvalue: KeyValueGrant { allowed: true, bytes: 5, keys: 6 },
    };
    full.info.config = BTreeMap::from([("a\"b".into(), "c\u{0}d".into())]);
    full.signature = Some(vec![9; 64]);
    let acme = TenantId::new("acme").unwrap();
    assert_eq!(world.add_version(Some(&acme), &full).await, Added::Stored);
    let plain = world.push("plain", "0.1.0", 2).await;

    assert_eq!(world.versions("full").await, [full.clone()]);
    assert_eq!(world.versions("plain").await, std::slice::from_ref(&plain));
    let mut both =
        world.plugins.versions_by_id(&[plain.id, VersionId::generate(), full.id]).await.unwrap();
    both.sort_by_key(|version| version.id);
    assert_eq!(both, [full, plain]);
    assert!(world.versions("none").await.is_empty());
    assert!(world.plugins.versions_by_id(&[]).await.unwrap().is_empty());
    let owner = async |name| world.plugins.plugin(&kind(name)).await.unwrap().unwrap().owner;
    assert_eq!(owner("full").await, Some(acme));
    assert_eq!(owner("plain").await, None);
    assert_eq!(world.plugins.plugin(&kind("none")).await.unwrap(), None);
}

pub async fn versions_come_newest_first(world: World) {
    let mut expected = Vec::new();
    for number in ["2.0.0", "10.0.0", "1.0.0"] {
        expected.insert(0, world.push("x", number, 1).await);
    }
    assert_eq!(world.versions("x").await, expected);
}

pub async fn a_version_never_changes(world: World) {
    let first = world.push("x", "1.0.0", 1).await;
    let revision = world.revision().await;

    // The same again, under settings of its own.
    let mut again = version("x", "1.0.0", 1);
    again.info.limits.fuel = 1;
    again.info.summary = "in other words".into();
    let there = Box::new(first.clone());
    assert_eq!(world.add_version(None, &again).await, Added::AlreadyThere(there.clone()));

    let same = || version("x", "1.0.0", 1);
    let mut others = [version("x", "1.0.0", 2), same(), same(), same(), same()];
    others[1].info.shape = Shape::Command;
    others[2].info.input_schema = json(serde_json::json!({}));
    others[3].info.output_schema = json(serde_json::json!({"type": "null"}));
    others[4].signature = Some(vec![1; 64]);
    for other in &others {
        assert_eq!(world.add_version(None, other).await, Added::Different(there.clone()));
    }

    assert_eq!(world.versions("x").await, [first]);
    assert_eq!(world.plugins.component(&digest(2)).await.unwrap(), None);
    assert_eq!(world.revision().await, revision);
    let events = world.plugins.plugin_events(&kind("x"), 10).await.unwrap();
    assert_eq!(events, [pushed()]);
}

pub async fn a_name_has_one_owner(world: World) {
    let [acme, other] = ["acme", "other"].map(|name| TenantId::new(name).unwrap());
    world.push("shared", "1.0.0", 1).await;
    let owned = version("owned", "1.0.0", 2);
    assert_eq!(world.add_version(Some(&acme), &owned).await, Added::Stored);
    let revision = world.revision().await;
    let theirs = || Added::NameTaken(Some(acme.clone()));
    for number in ["1.0.0", "2.0.0"] {
        let (shared, owned) = (version("shared", number, 3), version("owned", number, 3));
        assert_eq!(world.add_version(Some(&acme), &shared).await, Added::NameTaken(None));
        assert_eq!(world.add_version(None, &owned).await, theirs());
        assert_eq!(world.add_version(Some(&other), &owned).await, theirs());
    }
    assert_eq!(world.revision().await, revision);
    assert_eq!(world.plugins.component(&digest(3)).await.unwrap(), None);
    let second = version("owned", "2.0.0", 2);
    assert_eq!(world.add_version(Some(&acme), &second).await, Added::Stored);
}

pub async fn of_many_who_push_one_version_one_adds_it(world: World) {
    let world = Arc::new(world);
    let pushes: Vec<_> = (0..8)
        .map(|n| {
            let world = Arc::clone(&world);
            tokio::spawn(
                async move { world.add_version(None, &version("x", "1.0.0", n % 2)).await },
            )
        })
        .collect();
    let (mut stored, mut same, mut different) = (0, 0, 0);
    for push in pushes {
        match push.await.unwrap() {
            Added::Stored => stored += 1,
            Added::AlreadyThere(_) => same += 1,
            Added::Different(_) => different += 1,
            added => panic!("{added:?}"),
        }
    }
    assert_eq!((stored, same, different), (1, 3, 4));
    assert_eq!(world.versions("x").await.len(), 1);
}

pub async fn a_component_comes_out_as_it_went_in(world: World) {
    // Of all bytes, and of no round size.
    let large: Vec<u8> =
        (0..(9_u32 << 20) + 4_321).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let exact = vec![7; 2 << 20];
    for (n, component) in [(1, large), (2, exact), (3, Vec::new()), (4, vec![0])] {
        let version = version("x", &format!("1.0.{n}"), n);
        let pushed = pushed();
        let quota = Quota::UNLIMITED;
        let added = world.plugins.add_version(None, &version, &component, quota, &pushed);
        assert_eq!(added.await.unwrap(), Added::Stored);
        let read = world.plugins.component(&digest(n)).await.unwrap();
        assert!(read == Some(component), "component {n}");
    }
    assert_eq!(world.plugins.component(&digest(9)).await.unwrap(), None);
}

pub async fn versions_may_share_a_component(world: World) {
    world.push("x", "1.0.0", 1).await;
    world.push("x", "1.0.1", 1).await;
    world.push("y", "1.0.0", 1).await;
    let component = world.plugins.component(&digest(1)).await.unwrap();
    assert_eq!(component.as_deref(), Some(&[1; 32][..]));
}

pub async fn a_quota_counts_versions_and_each_component_once(world: World) {
    let [acme, other] = ["acme", "other"].map(|name| TenantId::new(name).unwrap());
    let quota = Quota { versions: 3, bytes: 10 };
    let add = async |owner: &TenantId, plugin: &str, number: &str, n: u8, size: u64| {
        let mut version = version(plugin, number, n);
        version.info.size = size;
        let (pushed, bytes) = (pushed(), [n; 32]);
        let added = world.plugins.add_version(Some(owner), &version, &bytes, quota, &pushed);
        added.await.unwrap()
    };
    assert_eq!(add(&acme, "x", "1.0.0", 1, 6).await, Added::Stored);
    assert_eq!(add(&acme, "x", "1.0.1", 1, 6).await, Added::Stored, "of the same bytes");
    let too_much = Added::OverQuota { kind: QuotaKind::Bytes, used: 6 };
    assert_eq!(add(&acme, "y", "1.0.0", 2, 5).await, too_much);
    assert_eq!(world.plugins.component(&digest(2)).await.unwrap(), None);
    assert_eq!(add(&other, "z", "1.0.0", 2, 5).await, Added::Stored, "of another owner");
    assert_eq!(add(&acme, "y", "1.0.0", 3, 4).await, Added::Stored);
    assert_eq!(add(&acme, "x", "1.0.2", 1, 6).await, Added::Stored);
    let too_many = Added::OverQuota { kind: QuotaKind::Versions, used: 3 };
    assert_eq!(add(&acme, "x", "1.0.3", 1, 6).await, too_many);
    let again = add(&acme, "x", "1.0.0", 1, 6).await;
    assert!(matches!(again, Added::AlreadyThere(_)), "{again:?}");
}

pub async fn a_signature_changes_if_nothing_else_has(world: World) {
    let first = world.push("x", "1.0.0", 1).await;
    let revision = world.plugin("x").await.revision;
    let signed = event(PluginEventKind::Signed, "");
    let set = async |id, expected, signature: &[u8]| {
        world.plugins.set_signature(id, expected, signature, &signed).await.unwrap()
    };
    assert!(!set(VersionId::generate(), revision, b"one").await);
    assert!(!set(first.id, Revision(revision.0 + 1), b"one").await);
    assert!(set(first.id, revision, b"one").await);
    assert!(!set(first.id, revision, b"two").await, "it was made from what is past");
    let there = world.versions("x").await.remove(0);
    assert_eq!(there.signature.as_deref(), Some(&b"one"[..]));

    let changed = event(PluginEventKind::SettingsChanged, "");
    let mut settings = there.info.settings();
    settings.limits.fuel = 7;
    let set = async |signature: Option<&[u8]>| {
        let set = world.plugins.set_settings(first.id, &settings, signature, &changed);
        set.await.unwrap()
    };
    assert!(!set(None).await && !set(Some(b"two")).await);
    assert!(set(Some(b"one")).await);
}
