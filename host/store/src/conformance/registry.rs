//! Which versions run, and who hears of a change.

use super::{
    versions::{event, pushed, version},
    *,
};
use taskforge_domain::{
    Canary, CanaryGuard, PluginEvent, PluginEventKind, PluginSettings, RegisteredPlugin, Revision,
    Rollout, VersionId, VersionState,
};

use crate::{Added, RegistrySnapshot, RolloutChange, SealedSecret, StoreError};

fn change(plugin: &RegisteredPlugin, rollout: Rollout) -> RolloutChange {
    RolloutChange {
        plugin: plugin.name.clone(),
        expected: plugin.revision,
        rollout,
        states: Vec::new(),
        event: event(PluginEventKind::Activated, "by hand"),
    }
}

pub(super) fn running(phase: i64, stable: VersionId) -> Rollout {
    Rollout { phase, since: Some(at(phase)), stable: Some(stable), ..Rollout::default() }
}

pub(super) fn canary(version: VersionId) -> Canary {
    Canary {
        version,
        percent: 10,
        guard: CanaryGuard {
            min_attempts: 20,
            failure_margin: 0.1 + 0.2,
            latency_factor: 1.0 / 0.3,
        },
    }
}

impl World {
    pub(crate) async fn plugin(&self, name: &str) -> RegisteredPlugin {
        let plugin = self.plugins.plugin(&kind(name)).await.unwrap();
        plugin.expect("the plugin is there")
    }

    /// Changes a rollout from what it is now.
    pub(crate) async fn roll_out(&self, name: &str, rollout: Rollout) -> Revision {
        let change = change(&self.plugin(name).await, rollout);
        let revision = self.plugins.change_rollout(&change).await.unwrap();
        revision.expect("nobody else changes it")
    }

    async fn snapshot(&self) -> RegistrySnapshot {
        self.plugins.registry().await.unwrap()
    }

    async fn state(&self, version: VersionId) -> VersionState {
        let mut versions = self.plugins.versions_by_id(&[version]).await.unwrap();
        versions.remove(0).state
    }

    async fn set_state(&self, version: VersionId, state: &VersionState) -> bool {
        let event = event(PluginEventKind::Retired, "");
        let set = self.plugins.set_version_state(version, state, &event);
        set.await.unwrap()
    }
}

fn rolled_back() -> VersionState {
    VersionState::RolledBack { reason: "failed 12 of 50 attempts".into() }
}

pub async fn a_new_version_runs_nowhere(world: World) {
    assert_eq!(world.snapshot().await, RegistrySnapshot::default());
    world.push("x", "1.0.0", 1).await;
    let plugin = world.plugin("x").await;
    assert_eq!(plugin.rollout, Rollout::default());
    let snapshot = world.snapshot().await;
    assert_eq!(snapshot.revision, plugin.revision);
    assert_eq!(snapshot.plugins, [plugin]);
    assert!(snapshot.versions.is_empty());
}

pub async fn a_rollout_reads_back(world: World) {
    let first = world.push("x", "1.0.0", 1).await.id;
    let second = world.push("x", "2.0.0", 2).await.id;
    let trial = Rollout { canary: Some(canary(second)), ..running(2, first) };
    let swapped = Rollout { previous: Some(first), ..running(3, second) };
    let paused = Rollout { paused: true, ..swapped.clone() };
    let retired = Rollout { retired: true, ..swapped.clone() };
    let none = Rollout {
        highest: Some("2.0.0".into()),
        phase: 4,
        since: Some(at(4)),
        previous: Some(second),
        ..Rollout::default()
    };
    for rollout in [running(1, first), trial, swapped, paused, retired, none] {
        let revision = world.roll_out("x", rollout.clone()).await;
        let plugin = world.plugin("x").await;
        assert_eq!((plugin.rollout, plugin.revision), (rollout, revision));
        assert_eq!(world.revision().await, revision);
    }
}

pub async fn the_snapshot_shows_what_runs_and_nothing_else(world: World) {
    let mut expected = Vec::new();
    for name in ["b", "a", "c"] {
        let versions = [
            world.push(name, "1.0.0", 1).await,
            world.push(name, "2.0.0", 2).await,
            world.push(name, "3.0.0", 3).await,
        ];
        if name == "c" {
            continue;
        }
        let rollout = Rollout {
            canary: (name == "a").then(|| canary(versions[1].id)),
            previous: Some(versions[2].id),
            ..running(1, versions[0].id)
        };
        world.roll_out(name, rollout).await;
        expected.extend(versions.into_iter().take(if name == "a" { 2 } else { 1 }));
    }
    let mut snapshot = world.snapshot().await;
    let names: Vec<_> = snapshot.plugins.iter().map(|plugin| plugin.name.as_str()).collect();
    assert_eq!(names, ["a", "b", "c"]);
    for plugin in &snapshot.plugins {
        assert_eq!(*plugin, world.plugin(plugin.name.as_str()).await);
    }
    assert_eq!(snapshot.revision, world.revision().await);
    snapshot.versions.sort_by_key(|version| version.id);
    expected.sort_by_key(|version| version.id);
    assert_eq!(snapshot.versions, expected);
}

pub async fn a_change_of_what_is_past_changes_nothing(world: World) {
    let first = world.push("x", "1.0.0", 1).await.id;
    let late = change(&world.plugin("x").await, running(1, first));
    world.roll_out("x", running(7, first)).await;
    let (plugin, revision) = (world.plugin("x").await, world.revision().await);
    assert_eq!(world.plugins.change_rollout(&late).await.unwrap(), None);
    let unknown = RolloutChange { plugin: kind("none"), ..late };
    assert_eq!(world.plugins.change_rollout(&unknown).await.unwrap(), None);
    assert_eq!(world.plugin("x").await, plugin);
    assert_eq!(world.revision().await, revision);
    let events = world.plugins.plugin_events(&kind("x"), 10).await.unwrap();
    assert_eq!(events.len(), 2);
}

pub async fn of_many_changes_of_one_state_one_is_made(world: World) {
    let first = world.push("x", "1.0.0", 1).await.id;
    let plugin = world.plugin("x").await;
    let changes: Vec<_> = (1..=8)
        .map(|phase| {
            let plugins = Arc::clone(&world.plugins);
            let change = change(&plugin, running(phase, first));
            tokio::spawn(async move {
                let made = plugins.change_rollout(&change).await.unwrap();
                made.map(|revision| (revision, phase))
            })
        })
        .collect();
    let mut made = Vec::new();
    for change in changes {
        made.extend(change.await.unwrap());
    }
    let plugin = world.plugin("x").await;
    assert_eq!(made, [(plugin.revision, plugin.rollout.phase)]);
}

pub async fn a_rollout_takes_states_with_it(world: World) {
    let first = world.push("x", "1.0.0", 1).await.id;
    let second = world.push("x", "2.0.0", 2).await.id;
    let trial = Rollout { canary: Some(canary(second)), ..running(1, first) };
    world.roll_out("x", trial).await;
    let stopped = RolloutChange {
        states: vec![(second, rolled_back())],
        ..change(&world.plugin("x").await, running(2, first))
    };
    world.plugins.change_rollout(&stopped).await.unwrap().unwrap();
    assert_eq!(world.state(second).await, rolled_back());
    assert_eq!(world.state(first).await, VersionState::Available);
    let activated = RolloutChange {
        states: vec![(second, VersionState::Available)],
        ..change(&world.plugin("x").await, running(3, second))
    };
    world.plugins.change_rollout(&activated).await.unwrap().unwrap();
    assert_eq!(world.state(second).await, VersionState::Available);
}

pub async fn what_cannot_run_is_refused(world: World) {
    let first = world.push("x", "1.0.0", 1).await.id;
    let retired = world.push("x", "2.0.0", 2).await.id;
    let foreign = world.push("y", "1.0.0", 3).await.id;
    assert!(world.set_state(retired, &VersionState::Retired).await);
    let (plugin, revision) = (world.plugin("x").await, world.revision().await);
    let on_trial = |version| Rollout { canary: Some(canary(version)), ..running(1, first) };
    let with_states = |version, state| RolloutChange {
        states: vec![(version, state)],
        ..change(&plugin, running(1, first))
    };
    for bad in [
        change(&plugin, running(1, retired)),
        change(&plugin, running(1, foreign)),
        change(&plugin, running(1, VersionId::generate())),
        change(&plugin, on_trial(retired)),
        change(&plugin, on_trial(foreign)),
        change(&plugin, on_trial(first)),
        with_states(retired, VersionState::Available),
        with_states(foreign, VersionState::Retired),
        with_states(first, VersionState::Retired),
    ] {
        let refused = world.plugins.change_rollout(&bad).await;
        assert!(matches!(refused, Err(StoreError::Refused(_))), "{bad:?}: {refused:?}");
    }
    assert_eq!(world.plugin("x").await, plugin);
    assert_eq!(world.revision().await, revision);
    assert_eq!(world.state(foreign).await, VersionState::Available);
}

pub async fn the_state_of_a_version_that_runs_does_not_change(world: World) {
    let [stable, trial, idle] = [
        world.push("x", "1.0.0", 1).await.id,
        world.push("x", "2.0.0", 2).await.id,
        world.push("x", "3.0.0", 3).await.id,
    ];
    let rollout =
        Rollout { canary: Some(canary(trial)), previous: Some(idle), ..running(1, stable) };
    world.roll_out("x", rollout).await;
    let revision = world.revision().await;
    for version in [stable, trial, VersionId::generate()] {
        for state in [VersionState::Retired, rolled_back()] {
            assert!(!world.set_state(version, &state).await);
        }
    }
    assert_eq!(world.state(stable).await, VersionState::Available);
    assert_eq!(world.state(trial).await, VersionState::Available);
    assert_eq!(world.revision().await, revision);
    assert!(world.set_state(idle, &VersionState::Retired).await);
}

pub async fn a_retired_version_stays_retired(world: World) {
    let version = world.push("x", "1.0.0", 1).await.id;
    assert!(world.set_state(version, &rolled_back()).await);
    assert_eq!(world.state(version).await, rolled_back());
    assert!(world.set_state(version, &VersionState::Available).await);
    assert!(world.set_state(version, &VersionState::Retired).await);
    for state in [VersionState::Available, rolled_back()] {
        assert!(!world.set_state(version, &state).await);
    }
    assert_eq!(world.state(version).await, VersionState::Retired);
}

pub async fn settings_change_and_nothing_else_of_a_version(world: World) {
    let mut version = world.push("x", "1.0.0", 1).await;
    world.push("x", "2.0.0", 2).await;
    let settings: PluginSettings = serde_json::from_value(serde_json::json!({
        "limits": {"fuel": 5, "deadline": "2s"}, "grants": {"mail": true}, "config": {"a": "b"}
    }))
    .unwrap();
    let changed = event(PluginEventKind::SettingsChanged, "fuel 10000000000 -> 5");
    let set = async |id| world.plugins.set_settings(id, &settings, None, &changed).await.unwrap();
    assert!(set(version.id).await);
    version.info = version.info.with_settings(settings.clone());
    let read = world.plugins.versions_by_id(&[version.id]).await.unwrap();
    assert_eq!(read, [version]);
    assert!(!set(VersionId::generate()).await);
    let events = world.plugins.plugin_events(&kind("x"), 1).await.unwrap();
    assert_eq!(events, [changed]);
}

/// Whoever made a change from an older state is told so, whatever it was that changed.
pub async fn every_change_raises_the_revision_of_its_plugin(world: World) {
    world.push("x", "1.0.0", 1).await;
    world.push("y", "1.0.0", 1).await;
    let untouched = world.plugin("y").await;
    let idle = world.push("x", "2.0.0", 2).await.id;
    let mut seen = world.plugin("x").await.revision;
    assert!(seen > untouched.revision);
    let name = kind("x");
    let changed = event(PluginEventKind::SettingsChanged, "");
    let secret = SealedSecret { name: "key".into(), sealed: vec![1], updated_at: at(1) };
    for step in 0..5 {
        let plugins = &world.plugins;
        let done = match step {
            0 => plugins.set_settings(idle, &PluginSettings::default(), None, &changed).await,
            1 => plugins.set_version_state(idle, &rolled_back(), &changed).await,
            2 => plugins.set_secret(&name, &secret, &changed).await.map(|()| true),
            3 => plugins.delete_secret(&name, "key", &changed).await,
            _ => Ok(world.add_version(None, &version("x", "3.0.0", 3)).await == Added::Stored),
        };
        assert_eq!(done, Ok(true), "step {step}");
        let plugin = world.plugin("x").await;
        assert_eq!(plugin.revision, Revision(seen.0 + 1), "step {step}");
        assert_eq!(plugin.revision, world.revision().await);
        seen = plugin.revision;
    }
    assert_eq!(world.plugin("y").await, untouched);
}

pub async fn events_come_newest_first(world: World) {
    world.push("x", "1.0.0", 1).await;
    world.push("y", "1.0.0", 1).await;
    let mut expected = vec![pushed()];
    for (n, kind_of) in PluginEventKind::ALL.iter().enumerate() {
        let event = PluginEvent {
            // Their order is that of the changes, whatever a clock said.
            at: at(100 - i64::try_from(n).unwrap()),
            version: (n % 2 == 0).then(|| "1.0.0".into()),
            by: "bob".into(),
            detail: format!("the {n}th\u{0}"),
            kind: *kind_of,
        };
        let secret = SealedSecret { name: "key".into(), sealed: vec![1], updated_at: at(1) };
        world.plugins.set_secret(&kind("x"), &secret, &event).await.unwrap();
        expected.insert(0, PluginEvent { detail: format!("the {n}th\u{fffd}"), ..event });
    }
    let read = async |limit| world.plugins.plugin_events(&kind("x"), limit).await.unwrap();
    assert_eq!(read(1_000).await, expected);
    assert_eq!(read(3).await, expected[..3]);
    assert!(read(0).await.is_empty());
}

/// A process that has seen a revision never asks for what was before it again.
pub async fn whoever_sees_a_revision_sees_every_change_up_to_it(world: World) {
    let world = Arc::new(world);
    let writers: Vec<_> = (0..4)
        .map(|n| {
            let world = Arc::clone(&world);
            tokio::spawn(async move {
                for m in 0..10 {
                    world.push(&format!("p{n}"), &format!("1.0.{m}"), n).await;
                }
            })
        })
        .collect();
    let mut seen = Revision::default();
    while seen < Revision(40) {
        let told = world.revision().await;
        let snapshot = world.snapshot().await;
        let latest = snapshot.plugins.iter().map(|plugin| plugin.revision).max();
        assert_eq!(snapshot.revision, latest.unwrap_or_default());
        assert!(seen <= told && told <= snapshot.revision);
        seen = snapshot.revision;
    }
    for writer in writers {
        writer.await.unwrap();
    }
    assert_eq!(world.revision().await, Revision(40));
}
