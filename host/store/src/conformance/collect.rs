//! Versions that nothing refers to go; what is needed, and what is known of the past, stays.

use super::{
    versions::{digest, event, version},
    *,
};
use taskforge_domain::{
    Canary, CanaryGuard, PluginEventKind, PluginVersion, Rollout, VersionId, VersionState,
    VersionUsage,
};

use crate::{Added, CollectRule, Quota, RolloutChange, SETTLED_AFTER, StoreError};

/// Long after whatever the rules do.
const LATE: i64 = 1_000_000;

fn rule(keep: u32, before: i64) -> CollectRule {
    CollectRule { keep, pushed_before: at(before), released_before: at(before) }
}

impl World {
    async fn collect(&self, plugin: &str, rule: CollectRule) -> Vec<String> {
        let event = event(PluginEventKind::Collected, "nothing refers to them");
        let (plugin, term) = (kind(plugin), Some(self.term));
        let collected = self.plugins.collect(term, &plugin, rule, 100, &event).await;
        let collected = collected.unwrap();
        collected.into_iter().map(|version| version.version).collect()
    }

    /// What may go, without anything going.
    async fn collectable(&self, plugin: Option<&str>, rule: CollectRule) -> Vec<String> {
        let plugin = plugin.map(kind);
        let found = self.plugins.collectable(plugin.as_ref(), rule, 100).await;
        found.unwrap().into_iter().map(|version| version.version).collect()
    }

    async fn numbers(&self, plugin: &str) -> Vec<String> {
        let versions = self.plugins.plugin_versions(&kind(plugin)).await.unwrap();
        versions.into_iter().map(|version| version.info.version).collect()
    }

    /// Versions 1.0.0, 2.0.0 and so on, each of a component of its own.
    async fn push_many(&self, plugin: &str, count: u8) -> Vec<PluginVersion> {
        let mut versions = Vec::new();
        for n in 1..=count {
            versions.push(self.push(plugin, &format!("{n}.0.0"), n).await);
        }
        versions
    }

    async fn run(&self, plugin: &str, stable: VersionId, previous: Option<VersionId>, second: i64) {
        let rollout = Rollout {
            phase: second,
            since: Some(at(second)),
            stable: Some(stable),
            previous,
            ..Rollout::default()
        };
        assert!(self.change(plugin, rollout, second).await);
    }

    async fn change(&self, plugin: &str, rollout: Rollout, second: i64) -> bool {
        let before = self.plugin(plugin).await;
        let change = RolloutChange {
            plugin: kind(plugin),
            expected: before.revision,
            rollout,
            states: Vec::new(),
            event: taskforge_domain::PluginEvent {
                at: at(second),
                ..event(PluginEventKind::Activated, "")
            },
        };
        self.plugins.change_rollout(&change).await.unwrap().is_some()
    }
}

pub async fn what_is_referred_to_stays(world: World) {
    let versions = world.push_many("x", 6).await;
    let id = |n: usize| versions[n].id;
    let rollout = Rollout {
        phase: 1,
        since: Some(at(10)),
        stable: Some(id(1)),
        previous: Some(id(0)),
        canary: Some(Canary { version: id(2), percent: 5, guard: CanaryGuard::default() }),
        ..Rollout::default()
    };
    assert!(world.change("x", rollout, 10).await);
    let rule = rule(1, LATE);
    assert_eq!(world.collectable(None, rule).await, ["4.0.0", "5.0.0"]);
    assert_eq!(world.collectable(Some("y"), rule).await, [""; 0]);
    assert_eq!(world.collect("x", rule).await, ["4.0.0", "5.0.0"]);
    assert_eq!(world.numbers("x").await, ["6.0.0", "3.0.0", "2.0.0", "1.0.0"]);
    assert_eq!(world.collect("x", rule).await, [""; 0]);
    let events = world.plugins.plugin_events(&kind("x"), 1).await.unwrap();
    assert_eq!(events[0].detail, "nothing refers to them: 4.0.0, 5.0.0");
}

pub async fn what_is_young_stays(world: World) {
    let versions = world.push_many("x", 4).await;
    world.run("x", versions[0].id, None, 10).await;
    world.run("x", versions[1].id, Some(versions[0].id), 20).await;
    world.run("x", versions[2].id, Some(versions[1].id), 30).await;
    // All were pushed at second 1. The first was let go of at second 30.
    assert_eq!(world.collect("x", rule(1, 1)).await, [""; 0]);
    assert_eq!(world.collect("x", rule(1, 30)).await, [""; 0]);
    assert_eq!(world.collect("x", rule(1, 31)).await, ["1.0.0"]);
    world.push("x", "5.0.0", 5).await;
    let young = CollectRule { pushed_before: at(1), ..rule(0, LATE) };
    assert_eq!(world.collect("x", young).await, [""; 0]);
    assert_eq!(world.collect("x", rule(2, LATE)).await, [""; 0], "the newest two");
    assert_eq!(world.collect("x", rule(1, LATE)).await, ["4.0.0"]);
}

pub async fn a_version_that_a_running_task_may_use_stays(world: World) {
    let versions = world.push_many("work", 4).await;
    world.run("work", versions[0].id, None, 10).await;
    world.run("work", versions[1].id, Some(versions[0].id), 20).await;
    world.run("work", versions[2].id, Some(versions[1].id), 30).await;
    let settled = 30 + i64::try_from(SETTLED_AFTER.as_secs()).unwrap();
    let task = world.add(new_task()).await;
    let claimed = world.claim_as(world.worker, &[task], settled - 1).await.remove(0);
    assert_eq!(world.collect("work", rule(1, LATE)).await, [""; 0]);
    world.end(&claimed, Next::Complete).await;
    let later = world.add(new_task()).await;
    assert_eq!(world.claim_as(world.worker, &[later], settled).await.len(), 1);
    assert_eq!(world.collect("work", rule(1, LATE)).await, ["1.0.0"]);
}

pub async fn a_number_that_was_collected_stays_taken(world: World) {
    let versions = world.push_many("x", 3).await;
    let retired = event(PluginEventKind::Retired, "");
    let set = world.plugins.set_version_state(versions[0].id, &VersionState::Retired, &retired);
    assert!(set.await.unwrap());
    assert_eq!(world.collect("x", rule(1, LATE)).await, ["1.0.0", "2.0.0"]);
    let collected = |n, retired| Added::Collected { digest: digest(n), retired };
    let again = version("x", "1.0.0", 1);
    assert_eq!(world.add_version(None, &again).await, collected(1, true));
    let other = version("x", "2.0.0", 9);
    assert_eq!(world.add_version(None, &other).await, collected(2, false));
    assert_eq!(world.plugins.component(&digest(9)).await.unwrap(), None);
    let same = version("x", "2.0.0", 2);
    assert_eq!(world.add_version(None, &same).await, Added::Stored);
    assert!(world.plugins.component(&digest(2)).await.unwrap().is_some());
    assert_eq!(world.collect("x", rule(1, LATE)).await, ["3.0.0"]);
    assert_eq!(world.add_version(None, &other).await, Added::Different(Box::new(same)));
}

pub async fn a_component_goes_with_its_last_version(world: World) {
    world.push("x", "1.0.0", 1).await;
    world.push("x", "2.0.0", 2).await;
    world.push("x", "3.0.0", 3).await;
    world.push("y", "1.0.0", 2).await;
    let usage = VersionUsage { attempts: 7, ..VersionUsage::default() };
    let gone = world.plugins.plugin_versions(&kind("x")).await.unwrap().remove(2).id;
    world.plugins.add_usage(&[(gone, 1, usage)]).await.unwrap();
    assert_eq!(world.collect("x", rule(1, LATE)).await.len(), 2);
    let components = async |limit| {
        let collected = world.plugins.collect_components(Some(world.term), limit);
        collected.await.unwrap()
    };
    assert_eq!(components(0).await, 0);
    assert_eq!(components(10).await, 1);
    assert_eq!(components(10).await, 0);
    assert_eq!(world.plugins.component(&digest(1)).await.unwrap(), None);
    assert!(world.plugins.component(&digest(2)).await.unwrap().is_some(), "y's");
    assert!(world.plugins.component(&digest(3)).await.unwrap().is_some());
    assert_eq!(world.plugins.usage(gone, None).await.unwrap().attempts, 0);
}

pub async fn a_rollout_made_from_what_was_collected_is_refused(world: World) {
    let versions = world.push_many("x", 2).await;
    world.run("x", versions[1].id, None, 10).await;
    let before = world.plugin("x").await;
    let back = RolloutChange {
        plugin: kind("x"),
        expected: before.revision,
        rollout: Rollout {
            stable: Some(versions[0].id),
            previous: Some(versions[1].id),
            ..before.rollout.clone()
        },
        states: Vec::new(),
        event: event(PluginEventKind::Activated, ""),
    };
    assert_eq!(world.collect("x", rule(0, LATE)).await, ["1.0.0"]);
    assert_eq!(world.plugins.change_rollout(&back).await.unwrap(), None);
    let stubborn = RolloutChange { expected: world.plugin("x").await.revision, ..back };
    let refused = world.plugins.change_rollout(&stubborn).await;
    assert!(matches!(refused, Err(StoreError::Refused(_))), "{refused:?}");
    assert_eq!(world.plugin("x").await.rollout, before.rollout);
}

pub async fn a_history_outlives_its_version(world: World) {
    let first = world.push("work", "1.2.3", 0xab).await;
    let second = world.push("work", "2.0.0", 2).await;
    world.run("work", first.id, None, 1).await;
    let task = world.running().await;
    world.end(&task, Next::Complete).await;
    world.run("work", second.id, None, 3).await;
    let before = world.history(task.id).await;
    assert_eq!(world.collect("work", rule(1, LATE)).await, ["1.2.3"]);
    world.plugins.collect_components(Some(world.term), 10).await.unwrap();
    let after = world.history(task.id).await;
    assert_eq!(after, before);
    let attempt = &after.attempts[0];
    assert_eq!(attempt.plugin_version, "1.2.3");
    assert_eq!(attempt.plugin_digest, digest(0xab));
    assert_eq!(world.get(task.id).await.state, TaskState::Completed);
}

pub async fn a_leader_that_was_deposed_collects_nothing(world: World) {
    world.push_many("x", 3).await;
    world.store.resign(world.term).await.unwrap();
    let event = event(PluginEventKind::Collected, "");
    let term = Some(world.term);
    let x = kind("x");
    let collected = world.plugins.collect(term, &x, rule(1, LATE), 10, &event);
    assert_eq!(collected.await, Err(StoreError::Deposed));
    let components = world.plugins.collect_components(term, 10);
    assert_eq!(components.await, Err(StoreError::Deposed));
    // An operator needs no lead.
    let collected = world.plugins.collect(None, &x, rule(1, LATE), 1, &event);
    assert_eq!(collected.await.unwrap().len(), 1);
    assert_eq!(world.numbers("x").await, ["3.0.0", "2.0.0"]);
}

/// Two who push versions of one component, one who collects both: a version that is stored has its
/// component, always.
pub async fn what_many_push_and_collect_at_once_has_its_component(world: World) {
    let world = Arc::new(world);
    let pushes = ["x", "y"].map(|plugin| {
        let world = Arc::clone(&world);
        tokio::spawn(async move {
            for n in 0..40 {
                let version = version(plugin, &format!("1.0.{n}"), n % 3);
                let bytes = [n % 3; 32];
                let pushed = versions::pushed();
                let quota = Quota::UNLIMITED;
                let added = world.plugins.add_version(None, &version, &bytes, quota, &pushed);
                assert_eq!(added.await.unwrap(), Added::Stored);
            }
        })
    });
    let collector = {
        let world = Arc::clone(&world);
        tokio::spawn(async move {
            for _ in 0..40 {
                for plugin in ["x", "y"] {
                    world.collect(plugin, rule(1, LATE)).await;
                }
                world.plugins.collect_components(None, 10).await.unwrap();
            }
        })
    };
    for push in pushes {
        push.await.unwrap();
    }
    collector.await.unwrap();
    for plugin in ["x", "y"] {
        let versions = world.plugins.plugin_versions(&kind(plugin)).await.unwrap();
        assert!(!versions.is_empty());
        for version in versions {
            let component = world.plugins.component(&version.info.digest).await.unwrap();
            assert!(component.is_some(), "{plugin} {}", version.info.version);
        }
    }
}
