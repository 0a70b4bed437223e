//! Takes back a canary that is worse than the stable version.

use std::sync::Arc;

use taskforge_broker::{Broker, Signal};
use taskforge_domain::{
    Canary, CanaryGuard, PluginEventKind, RegisteredPlugin, Rollout, VersionId, VersionState, VersionUsage,
};
use taskforge_store::{PluginStore, RegistrySnapshot, StoreResult};

use crate::{
    error::RegistryError,
    registry::event,
    rollout::{Change, change},
};

/// Who takes a canary back, as the record has it.
const GUARD: &str = "canary guard";
/// By how much more than the factor allows a canary must be slower, in microseconds. Below that the noise of a machine is larger than what attempts
/// take.
const NOISE: f64 = 1_000.0;
/// The share of attempts whose time is compared.
const SLOW: f64 = 0.9;

/// Watches trials, in the process that leads the sweep. Two that do so at once do no harm: the first one's change is the one that counts.
#[derive(Clone)]
pub struct Trials {
    store: Arc<dyn PluginStore>,
    broker: Arc<dyn Broker>,
}

impl Trials {
    /// Watches the trials of this registry.
    #[must_use]
    pub fn new(store: Arc<dyn PluginStore>, broker: Arc<dyn Broker>) -> Self {
        Self { store, broker }
    }

    /// Looks at every version on trial once, and takes back those whose guards say so.
    pub async fn judge(&self, snapshot: &RegistrySnapshot) {
        for plugin in &snapshot.plugins {
            let Some(canary) = plugin.rollout.canary else {
                continue;
            };
            if let Err(error) = self.judge_one(plugin, canary).await {
                tracing::warn!(%error, plugin = %plugin.name, "the version on trial was not judged");
            }
        }
    }

    async fn judge_one(&self, plugin: &RegisteredPlugin, canary: Canary) -> Result<(), RegistryError> {
        let phase = plugin.rollout.phase;
        let tried = self.store.usage(canary.version, Some(phase)).await?;
        if tried.attempts < u64::from(canary.guard.min_attempts) {
            return Ok(());
        }
        let stable = match plugin.rollout.stable {
            Some(stable) => self.stable(stable, phase, &canary.guard).await?,
            None => VersionUsage::default(),
        };
        let Some(reason) = fault(&tried, &stable, &canary.guard) else {
            return Ok(());
        };
        let (_, has_changed) = change(&*self.store, &plugin.name, |seen| {
            let before = &seen.plugin.rollout;
            // Another trial by now, or none: this judgement is not about it.
            let is_same = before.phase == phase
                && before
                    .canary
                    .is_some_and(|running| running.version == canary.version);
            if !is_same {
                return Ok(None);
            }
            let number = seen.number(canary.version);
            Ok(Some(Change {
                rollout: Rollout {
                    canary: None,
                    ..before.clone()
                },
                states: vec![(
                    canary.version,
                    VersionState::RolledBack {
                        reason: reason.clone(),
                    },
                )],
                event: event(
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
            tracing::warn!(task.type = %plugin.name, "the version on trial was taken back: it {reason}");
            if let Err(error) = self.broker.publish(&[Signal::Plugins]).await {
                tracing::debug!(%error, "the end of a trial was not announced");
            }
        }
        Ok(())
    }

    /// What the stable version did beside the canary, or ever, if that is too little to compare with.
    async fn stable(&self, stable: VersionId, phase: i64, guard: &CanaryGuard) -> StoreResult<VersionUsage> {
        let beside = self.store.usage(stable, Some(phase)).await?;
        if beside.attempts >= u64::from(guard.min_attempts) {
            return Ok(beside);
        }
        self.store.usage(stable, None).await
    }
}

/// Why a canary is to be taken back, if so.
fn fault(canary: &VersionUsage, stable: &VersionUsage, guard: &CanaryGuard) -> Option<String> {
    if canary.failure_share() > stable.failure_share() + guard.failure_margin {
        return Some(format!(
            "failed {}, the stable version {}",
            failures(canary, " attempts"),
            failures(stable, "")
        ));
    }
    // Without attempts of the stable version there is no time to compare with.
    if stable.attempts == 0 {
        return None;
    }
    let (slow, usual) = (
        canary.wall_micros.percentile(SLOW),
        stable.wall_micros.percentile(SLOW),
    );
    // Times of attempts are far below what a float holds exactly.
    #[allow(clippy::cast_precision_loss)]
    let is_slower = slow as f64 > usual as f64 * guard.latency_factor + NOISE;
    is_slower.then(|| {
        format!(
            "took {} ms for the slowest tenth of {} attempts, the stable version {} ms",
            millis(slow),
            canary.attempts,
            millis(usual)
        )
    })
}

/// `12 of 50 attempts (24 %)`.
fn failures(used: &VersionUsage, what: &str) -> String {
    let share = format!("{:.1}", used.failure_share() * 100.0);
    let share = share.strip_suffix(".0").unwrap_or(&share);
    format!("{} of {}{what} ({share} %)", used.failed, used.attempts)
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
            let usage = Usage {
                wall_micros,
                ..Usage::default()
            };
            used.record(&outcome, &usage);
        }
        used
    }

    #[test]
    fn a_canary_that_fails_more_than_its_margin_is_taken_back_with_the_figures() {
        let guard = CanaryGuard::default();
        let reason = fault(&used(50, 12, 100), &used(430, 1, 100), &guard).unwrap();
        assert_eq!(
            reason,
            "failed 12 of 50 attempts (24 %), the stable version 1 of 430 (0.2 %)"
        );
        assert_eq!(fault(&used(50, 2, 100), &used(430, 1, 100), &guard), None);
        assert!(fault(&used(50, 3, 100), &used(0, 0, 0), &guard).is_some());
    }

    #[test]
    fn a_canary_that_is_slower_by_its_factor_is_taken_back_unless_it_is_noise() {
        let guard = CanaryGuard::default();
        let reason = fault(&used(50, 0, 50_000), &used(430, 0, 10_000), &guard).unwrap();
        assert!(
            reason.contains("ms for the slowest tenth of 50 attempts"),
            "{reason}"
        );
        assert_eq!(fault(&used(50, 0, 15_000), &used(430, 0, 10_000), &guard), None);
        assert_eq!(fault(&used(50, 0, 900), &used(430, 0, 100), &guard), None);
    }
}
