//! Takes back a canary that is worse than the stable version.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use taskforge_broker::{Broker, Signal};
use taskforge_domain::{
    Canary, CanaryGuard, PluginEventKind, RegisteredPlugin, Rollout, TaskType, VersionState,
    VersionUsage,
};
use taskforge_store::{PluginStore, StoreResult};

use crate::{
    catalog::KnownTypes,
    error::RegistryError,
    registry::event,
    rollout::{Change, change},
};

/// Who takes a canary back, as the record has it.
const GUARD: &str = "canary guard";
/// By how much more than the factor allows a canary must be slower, in microseconds. Below that the
/// noise of a machine is larger than what attempts take.
const NOISE: f64 = 1_000.0;
/// The share of attempts whose time is compared.
const SLOW: f64 = 0.9;

/// By how many standard deviations the latest attempts must be over a margin that all attempts must
/// merely be over. A trial has thousands of such windows, each of them small, and in none of them
/// shall chance look like a fault.
const CERTAIN: f64 = 4.0;

/// Which attempts of a canary are judged.
#[derive(Clone, Copy, PartialEq)]
enum Judged {
    All,
    Latest,
}

impl Judged {
    /// By how much a share of `count` attempts must be over the expected one, 0.0 to 1.0.
    #[allow(clippy::cast_precision_loss, reason = "a share, to be compared with a margin")]
    fn slack(self, expected: f64, count: u64) -> f64 {
        let expected = expected.clamp(0.0, 1.0);
        match self {
            Self::All => 0.0,
            Self::Latest => CERTAIN * (expected * (1.0 - expected) / count.max(1) as f64).sqrt(),
        }
    }

    const fn as_str(self) -> &'static str {
        match self {
            Self::All => "",
            Self::Latest => "its latest ",
        }
    }
}

/// Watches trials, in the process that leads the sweep. Two that do so at once do no harm: the
/// first one's change is the one that counts.
#[derive(Clone)]
pub struct Trials {
    store: Arc<dyn PluginStore>,
    broker: Arc<dyn Broker>,
    windows: Arc<Mutex<HashMap<TaskType, Window>>>,
}

/// The latest attempts of a trial. A version may turn bad after a hundred thousand good attempts (a
/// certificate expires, a table fills up), which would hide the next thousand in any sum.
#[derive(Default)]
struct Window {
    phase: i64,
    /// What the canary and the stable version had used at moments of the past, oldest first.
    marks: VecDeque<(VersionUsage, VersionUsage)>,
}

impl Window {
    /// Of what both have used by now, what they have used lately: during the canary's last
    /// attempts, at least `least` of them. `None`: it has not made so many.
    fn latest(
        &mut self,
        tried: &VersionUsage,
        stable: &VersionUsage,
        least: u64,
    ) -> Option<(VersionUsage, VersionUsage)> {
        let is_past = |mark: &(VersionUsage, VersionUsage)| {
            tried.attempts.saturating_sub(mark.0.attempts) >= least
        };
        // Older marks than the newest that is far enough in the past are of no more use.
        while self.marks.get(1).is_some_and(is_past) {
            self.marks.pop_front();
        }
        let latest = self.marks.front().filter(|mark| is_past(mark));
        let latest = latest.map(|(canary, other)| (tried.since(canary), stable.since(other)));
        if self.marks.back().is_none_or(is_past) {
            self.marks.push_back((tried.clone(), stable.clone()));
        }
        latest
    }
}

impl Trials {
    /// Watches the trials of this registry.
    #[must_use]
    pub fn new(store: Arc<dyn PluginStore>, broker: Arc<dyn Broker>) -> Self {
        Self { store, broker, windows: Arc::default() }
    }

    /// Looks at every version on trial once, and takes back those whose guards say so.
    pub async fn judge(&self, known: &KnownTypes) {
        let is_on_trial = |name: &TaskType| {
            known.plugin(name).is_some_and(|plugin| plugin.registered.rollout.canary.is_some())
        };
        self.windows().retain(|name, _| is_on_trial(name));
        for plugin in known.plugins().map(|plugin| &plugin.registered) {
            let Some(canary) = plugin.rollout.canary else {
                continue;
            };
            if let Err(error) = self.judge_one(plugin, canary).await {
                tracing::warn!(
                    %error,
                    plugin = %plugin.name,
                    "the version on trial was not judged"
                );
            }
        }
    }

    async fn judge_one(
        &self,
        plugin: &RegisteredPlugin,
        canary: Canary,
    ) -> Result<(), RegistryError> {
        let phase = plugin.rollout.phase;
        let tried = self.store.usage(canary.version, Some(phase)).await?;
        if tried.attempts < u64::from(canary.guard.min_attempts) {
            return Ok(());
        }
        let Some(reason) = self.fault(plugin, phase, &tried, &canary.guard).await? else {
            return Ok(());
        };
        let (_, has_changed) = change(&*self.store, &plugin.name, |seen| {
            let before = &seen.plugin.rollout;
            // Another trial by now, or none: this judgement is not about it.
            let is_same = before.phase == phase
                && before.canary.is_some_and(|running| running.version == canary.version);
            if !is_same {
                return Ok(None);
            }
            let number = seen.number(canary.version);
            Ok(Some(Change {
                rollout: Rollout { canary: None, ..before.clone() },
                states: vec![(canary.version, VersionState::RolledBack { reason: reason.clone() })],
                event: event(
                    self.store.clock(),
                    PluginEventKind::CanaryStopped,
                    Some(&number),
                    GUARD,
                    reason.clone(),
                ),
            }))
        })
        .await?;
        if has_changed {
            metrics::counter!("taskforge_canaries_taken_back_total").increment(1);
            tracing::warn!(
                task.type = %plugin.name,
                "the version on trial was taken back: it {reason}"
            );
            if let Err(error) = self.broker.publish(&[Signal::Plugins]).await {
                tracing::debug!(%error, "the end of a trial was not announced");
            }
        }
        Ok(())
    }

    /// Why a canary is to be taken back, if so: by all its attempts, or by its latest.
    async fn fault(
        &self,
        plugin: &RegisteredPlugin,
        phase: i64,
        tried: &VersionUsage,
        guard: &CanaryGuard,
    ) -> StoreResult<Option<String>> {
        let least = u64::from(guard.min_attempts);
        let beside = match plugin.rollout.stable {
            Some(stable) => self.store.usage(stable, Some(phase)).await?,
            None => VersionUsage::default(),
        };
        let latest = {
            let mut windows = self.windows();
            let window = windows.entry(plugin.name.clone()).or_default();
            if window.phase != phase {
                *window = Window { phase, ..Window::default() };
            }
            window.latest(tried, &beside, least)
        };
        // What the stable version did beside the canary, or ever, if that is too little to compare
        // with.
        let stable = match plugin.rollout.stable {
            Some(stable) if beside.attempts < least => self.store.usage(stable, None).await?,
            _ => beside,
        };
        let lately = |(tried, beside): (VersionUsage, VersionUsage)| {
            let comparable = if beside.attempts < least { &stable } else { &beside };
            fault(Judged::Latest, &tried, comparable, guard)
        };
        Ok(fault(Judged::All, tried, &stable, guard).or_else(|| latest.and_then(lately)))
    }

    fn windows(&self) -> MutexGuard<'_, HashMap<TaskType, Window>> {
        self.windows.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why a canary is to be taken back, if so.
fn fault(
    judged: Judged,
    canary: &VersionUsage,
    stable: &VersionUsage,
    guard: &CanaryGuard,
) -> Option<String> {
    let allowed = stable.failure_share() + guard.failure_margin;
    if canary.failure_share() > allowed + judged.slack(allowed, canary.attempts) {
        return Some(format!(
            "failed {}, the stable version {}",
            failures(canary, judged.as_str(), " attempts"),
            failures(stable, "", "")
        ));
    }
    // Without attempts of the stable version there is no time to compare with.
    if stable.attempts == 0 {
        return None;
    }
    let share = (1.0 - SLOW) + judged.slack(1.0 - SLOW, canary.attempts);
    let (slow, usual) =
        (canary.wall_micros.percentile(1.0 - share), stable.wall_micros.percentile(SLOW));
    // Times of attempts are far below what a float holds exactly.
    #[allow(clippy::cast_precision_loss)]
    let is_slower = slow as f64 > usual as f64 * guard.latency_factor + NOISE;
    is_slower.then(|| {
        format!(
            "took {} ms or more for {:.0} % of {}{} attempts, the stable version for 10 % {} ms",
            millis(slow),
            share * 100.0,
            judged.as_str(),
            canary.attempts,
            millis(usual)
        )
    })
}

/// `12 of 50 attempts (24 %)`.
fn failures(used: &VersionUsage, which: &str, what: &str) -> String {
    let share = format!("{:.1}", used.failure_share() * 100.0);
    let share = share.strip_suffix(".0").unwrap_or(&share);
    format!("{} of {which}{}{what} ({share} %)", used.failed, used.attempts)
}

fn millis(micros: u64) -> String {
    format!("{}.{}", micros / 1_000, micros % 1_000 / 100)
}

#[cfg(test)]
mod tests {
    use taskforge_domain::{Failure, FailureKind, Json, Outcome, Usage};

    use super::*;

    fn used(attempts: u64, failed: u64, wall_micros: u64) -> VersionUsage {
        let mut used = VersionUsage::default();
        for n in 0..attempts {
            let outcome = match n < failed {
                true => Outcome::Failed(Failure::new(FailureKind::Trap, "boom")),
                false => Outcome::Completed(Json::from(serde_json::json!(n))),
            };
            let usage = Usage { wall_micros, ..Usage::default() };
            used.record(&outcome, &usage);
        }
        used
    }

    #[test]
    fn a_canary_that_fails_more_than_its_margin_is_taken_back_with_the_figures() {
        let guard = CanaryGuard::default();
        let reason = fault(Judged::All, &used(50, 12, 100), &used(430, 1, 100), &guard).unwrap();
        assert_eq!(reason, "failed 12 of 50 attempts (24 %), the stable version 1 of 430 (0.2 %)");
        assert_eq!(fault(Judged::All, &used(50, 2, 100), &used(430, 1, 100), &guard), None);
        assert!(fault(Judged::All, &used(50, 3, 100), &used(0, 0, 0), &guard).is_some());
    }

    #[test]
    fn chance_does_not_take_a_canary_back_by_its_latest_attempts() {
        let (guard, stable) = (CanaryGuard::default(), used(450, 4, 100));
        let judge = |canary: &VersionUsage| fault(Judged::Latest, canary, &stable, &guard);
        // Of fifty attempts that fail one time in a hundred, four fail once in some hundred
        // windows.
        assert_eq!(judge(&used(50, 5, 100)), None);
        let reason = judge(&used(50, 15, 100)).unwrap();
        assert!(reason.starts_with("failed 15 of its latest 50 attempts (30 %)"), "{reason}");
        // Nor do slow ones that are a little more than a tenth.
        let slower = |slow| {
            let mut mixed = used(50 - slow, 0, 100);
            mixed.merge(&used(slow, 0, 100_000));
            mixed
        };
        assert_eq!(judge(&slower(8)), None);
        let reason = judge(&slower(25)).unwrap();
        assert!(reason.contains("27 % of its latest 50 attempts"), "{reason}");
    }

    #[test]
    fn a_window_is_of_the_latest_attempts() {
        let (mut window, stable) = (Window::default(), used(10, 0, 100));
        assert_eq!(window.latest(&used(60, 0, 100), &stable, 50), None);
        assert_eq!(window.latest(&used(80, 0, 100), &stable, 50), None, "twenty are too few");
        let mut tried = used(60, 0, 100);
        tried.merge(&used(100_000, 0, 100));
        window.latest(&tried, &stable, 50).unwrap();
        for bad in [30, 30, 30] {
            tried.merge(&used(bad, bad, 100));
            let latest = window.latest(&tried, &stable, 50);
            let latest = latest.filter(|(latest, _)| latest.attempts < 1_000);
            if let Some((latest, _)) = latest {
                assert!((50..150).contains(&latest.attempts), "{}", latest.attempts);
                assert_eq!(latest.failed, latest.attempts);
                return;
            }
        }
        panic!("ninety bad attempts stayed hidden");
    }

    #[test]
    fn a_canary_that_is_slower_by_its_factor_is_taken_back_unless_it_is_noise() {
        let guard = CanaryGuard::default();
        let reason =
            fault(Judged::All, &used(50, 0, 50_000), &used(430, 0, 10_000), &guard).unwrap();
        assert!(reason.contains("ms or more for 10 % of 50 attempts"), "{reason}");
        assert_eq!(fault(Judged::All, &used(50, 0, 15_000), &used(430, 0, 10_000), &guard), None);
        assert_eq!(fault(Judged::All, &used(50, 0, 900), &used(430, 0, 100), &guard), None);
    }
}
