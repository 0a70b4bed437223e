//! Which versions run.

use taskforge_domain::{
    CanaryGuard, Failure, FailureKind, Json, Outcome, PluginSettings, TaskType, Usage,
    VersionState, VersionUsage,
};
use taskforge_registry::{Catalog, Pushed, RegistryError, Trials};

use crate::bed::{BY, Bed, name};

#[tokio::test]
async fn versions_are_activated_rolled_back_and_brought_back() {
    let bed = Bed::new().await;
    let (one, two) = (bed.push("work", "1.0.0").await, bed.push("work", "2.0.0").await);
    let (one, two, work) = (one.version.id, two.version.id, name("work"));
    let nothing = bed.registry.rollback(&work, BY).await.unwrap_err();
    assert!(nothing.to_string().contains("nothing to go back to"), "{nothing}");

    bed.activate("work", "1.0.0").await;
    bed.activate("work", "2.0.0").await;
    let rollout = bed.registry.plugin(&work).await.unwrap().rollout;
    assert_eq!((rollout.stable, rollout.previous, rollout.phase), (Some(two), Some(one), 2));
    bed.activate("work", "2.0.0").await;
    assert_eq!(bed.registry.plugin(&work).await.unwrap().rollout, rollout, "nothing has changed");
    let back = bed.registry.rollback(&work, BY).await.unwrap().rollout;
    assert_eq!((back.stable, back.previous, back.phase), (Some(one), Some(two), 3));
    let forth = bed.registry.rollback(&work, BY).await.unwrap().rollout;
    assert_eq!(forth.stable, Some(two));

    bed.registry.rollback(&work, BY).await.unwrap();
    bed.registry.retire_version(&work, "2.0.0", BY).await.unwrap();
    for refused in [
        bed.registry.rollback(&work, BY).await,
        bed.registry.activate(&work, "2.0.0", true, BY).await,
    ] {
        assert!(refused.unwrap_err().to_string().contains("is retired"));
    }
    let running = bed.registry.retire_version(&work, "1.0.0", BY).await;
    assert!(matches!(running, Err(RegistryError::State(_))));
    assert_eq!(
        bed.record("work").await[..3],
        [
            "retired 2.0.0 may not run again",
            "rolled_back 1.0.0 from 2.0.0",
            "rolled_back 2.0.0 from 1.0.0"
        ]
    );
}

#[tokio::test]
async fn a_version_on_trial_is_promoted_or_taken_back() {
    let bed = Bed::new().await;
    let work = name("work");
    let guard = CanaryGuard::default();
    let (one, two) = (bed.push("work", "1.0.0").await, bed.push("work", "2.0.0").await);
    let (one, two) = (one.version.id, two.version.id);
    let early = bed.registry.canary(&work, "2.0.0", 10, guard, false, BY).await;
    assert!(early.unwrap_err().to_string().contains("activate 2.0.0 instead"));
    bed.activate("work", "1.0.0").await;
    for percent in [0, 100] {
        let refused = bed.registry.canary(&work, "2.0.0", percent, guard, false, BY).await;
        assert!(matches!(refused, Err(RegistryError::Invalid { .. })));
    }
    let tried = bed.registry.canary(&work, "2.0.0", 10, guard, false, BY).await.unwrap();
    assert_eq!((tried.rollout.phase, tried.rollout.stable), (2, Some(one)));
    let more = bed.registry.canary(&work, "2.0.0", 50, guard, false, BY).await.unwrap();
    assert_eq!(more.rollout.phase, 2, "the same versions run");
    let stopped = bed.registry.stop_canary(&work, BY).await.unwrap();
    assert_eq!((stopped.rollout.canary, stopped.rollout.phase), (None, 3));
    assert!(bed.registry.stop_canary(&work, BY).await.is_err());

    bed.registry.canary(&work, "2.0.0", 10, guard, false, BY).await.unwrap();
    bed.activate("work", "2.0.0").await;
    let promoted = bed.registry.plugin(&work).await.unwrap().rollout;
    assert_eq!((promoted.stable, promoted.previous, promoted.canary), (Some(two), Some(one), None));
}

fn used(attempts: u64, failed: u64) -> VersionUsage {
    let mut used = VersionUsage::default();
    for n in 0..attempts {
        let outcome = match n < failed {
            true => Outcome::Failed(Failure::new(FailureKind::Trap, "boom")),
            false => Outcome::Completed(Json::from(serde_json::json!(n))),
        };
        used.record(&outcome, &Usage::default());
    }
    used
}

/// A stable version, one on trial, and the phase of the trial.
async fn on_trial(bed: &Bed, work: &TaskType) -> (Pushed, Pushed, i64) {
    let (one, two) = (bed.push("work", "1.0.0").await, bed.push("work", "2.0.0").await);
    bed.activate("work", "1.0.0").await;
    let guard = CanaryGuard::default();
    let canary = bed.registry.canary(work, "2.0.0", 10, guard, false, BY).await;
    (one, two, canary.unwrap().rollout.phase)
}

#[tokio::test]
async fn a_canary_that_fails_is_taken_back_by_itself_and_says_why() {
    let bed = Bed::new().await;
    let work = name("work");
    let (one, two, phase) = on_trial(&bed, &work).await;
    let trials = Trials::new(bed.store.clone(), bed.parts.broker.clone());
    let catalog = Catalog::default();
    let judge = async || {
        bed.registry.refresh(&catalog).await.unwrap();
        trials.judge(&catalog.known()).await;
    };

    let count = async |used: &[_]| bed.store.add_usage(used).await.unwrap();
    count(&[
        (one.version.id, phase, used(430, 1)),
        (two.version.id, phase, used(40, 10)),
        // Of another trial.
        (two.version.id, phase - 1, used(1_000, 1_000)),
    ])
    .await;
    judge().await;
    let rollout = bed.registry.plugin(&work).await.unwrap().rollout;
    assert!(rollout.canary.is_some(), "40 attempts are too few");
    count(&[(two.version.id, phase, used(10, 2))]).await;
    judge().await;
    let rollout = bed.registry.plugin(&work).await.unwrap().rollout;
    assert_eq!((rollout.canary, rollout.stable), (None, Some(one.version.id)));
    let reason = "failed 12 of 50 attempts (24 %), the stable version 1 of 430 (0.2 %)";
    assert_eq!(bed.record("work").await[0], format!("canary_stopped 2.0.0 {reason}"));
    let state = bed.registry.version(&work, "2.0.0").await.unwrap().state;
    assert_eq!(state, VersionState::RolledBack { reason: reason.to_owned() });
    // By hand it may be activated again.
    bed.activate("work", "2.0.0").await;
    let state = bed.registry.version(&work, "2.0.0").await.unwrap().state;
    assert_eq!(state, VersionState::Available);
}

#[tokio::test]
async fn a_canary_that_turns_bad_late_is_judged_by_its_latest_attempts() {
    let bed = Bed::new().await;
    let work = name("work");
    let (one, two, phase) = on_trial(&bed, &work).await;
    let trials = Trials::new(bed.store.clone(), bed.parts.broker.clone());
    let catalog = Catalog::default();
    let judge = async || {
        bed.registry.refresh(&catalog).await.unwrap();
        trials.judge(&catalog.known()).await;
        bed.registry.plugin(&work).await.unwrap().rollout.canary.is_some()
    };
    let count = async |used: &[_]| bed.store.add_usage(used).await.unwrap();

    let good = [(one.version.id, phase, used(90_000, 0)), (two.version.id, phase, used(10_000, 0))];
    count(&good).await;
    assert!(judge().await);
    // Both fail: what they call is away, which is no fault of the canary's.
    count(&[(one.version.id, phase, used(450, 450)), (two.version.id, phase, used(50, 50))]).await;
    assert!(judge().await);
    count(&[(one.version.id, phase, used(450, 0)), (two.version.id, phase, used(50, 0))]).await;
    assert!(judge().await);
    // A hundred failures of ten thousand attempts, but all of the latest fifty.
    count(&[(one.version.id, phase, used(450, 0)), (two.version.id, phase, used(50, 50))]).await;
    assert!(!judge().await);
    let record = &bed.record("work").await[0];
    assert_eq!(
        record,
        "canary_stopped 2.0.0 failed 50 of its latest 50 attempts (100 %), the stable version 0 \
         of 450 (0 %)"
    );
}

#[tokio::test]
async fn of_many_changes_at_once_none_is_lost() {
    let bed = Bed::new().await;
    for version in ["1.0.0", "2.0.0"] {
        bed.push("work", version).await;
    }
    bed.activate("work", "1.0.0").await;
    let work = name("work");
    let all = tokio::join!(
        bed.registry.pause(&work, BY),
        bed.registry.activate(&work, "2.0.0", false, BY),
        bed.registry.retire(&work, BY),
    );
    assert!(all.0.is_ok() && all.1.is_ok() && all.2.is_ok());
    let plugin = bed.registry.plugin(&work).await.unwrap();
    assert!(plugin.rollout.paused, "{plugin:?}");
    let resumed = bed.registry.resume(&work, BY).await.unwrap();
    assert!(!resumed.rollout.paused);
}

#[tokio::test]
async fn settings_are_changed_and_advised_from_what_was_used() {
    let bed = Bed::new().await;
    let work = name("work");
    let one = bed.push("work", "1.0.0").await;
    let mut settings = PluginSettings::default();
    settings.config.insert("color".into(), "blue".into());
    let set = bed.registry.set_settings(&work, "1.0.0", settings.clone(), BY).await;
    assert_eq!(set.unwrap().info.config["color"], "blue");
    assert_eq!(bed.record("work").await[0], "settings_changed 1.0.0 config changed");
    settings.limits.memory = u64::MAX;
    let refused = bed.registry.set_settings(&work, "1.0.0", settings, BY).await;
    assert!(matches!(refused, Err(RegistryError::Load(_))));

    let none = bed.registry.advise(&work, None).await.unwrap_err();
    assert!(none.to_string().contains("no version of work runs yet"), "{none}");
    bed.store.add_usage(&[(one.version.id, 1, used(100, 3))]).await.unwrap();
    let advice = bed.registry.advise(&work, Some("1.0.0")).await.unwrap();
    assert_eq!((advice.attempts, advice.failed), (100, 3));
    assert!(advice.fuel.suggested.is_some());
}
