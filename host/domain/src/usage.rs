//! What the attempts of a version used, added up.

use crate::{FailureKind, Histogram, Outcome, Usage};

/// What the attempts of one version used. Two add up to what both used.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct VersionUsage {
    /// Attempts that came to an outcome of their own.
    pub attempts: u64,
    /// Those of them that failed.
    pub failed: u64,
    /// Fuel.
    pub fuel: Histogram,
    /// Peak memory, in bytes.
    pub memory: Histogram,
    /// Wall time, in microseconds.
    pub wall_micros: Histogram,
    /// Bytes of output.
    pub output: Histogram,
}

impl VersionUsage {
    /// Counts an attempt. One that was called off or that the host itself failed says nothing of
    /// the version, and is not counted.
    pub fn record(&mut self, outcome: &Outcome, usage: &Usage) {
        let output = match outcome {
            Outcome::Completed(output) => output.as_str().len() as u64,
            Outcome::Failed(failure)
                if matches!(
                    failure.kind,
                    FailureKind::Cancelled | FailureKind::LeaseLapsed | FailureKind::Internal
                ) =>
            {
                return;
            }
            Outcome::Failed(_) => {
                self.failed += 1;
                0
            }
        };
        self.attempts += 1;
        self.fuel.record(usage.fuel);
        self.memory.record(usage.peak_memory);
        self.wall_micros.record(usage.wall_micros);
        self.output.record(output);
    }

    /// Adds another.
    pub fn merge(&mut self, other: &Self) {
        self.attempts += other.attempts;
        self.failed += other.failed;
        self.fuel.merge(&other.fuel);
        self.memory.merge(&other.memory);
        self.wall_micros.merge(&other.wall_micros);
        self.output.merge(&other.output);
    }

    /// What was added since an earlier state of this usage.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        Self {
            attempts: self.attempts.saturating_sub(earlier.attempts),
            failed: self.failed.saturating_sub(earlier.failed),
            fuel: self.fuel.since(&earlier.fuel),
            memory: self.memory.since(&earlier.memory),
            wall_micros: self.wall_micros.since(&earlier.wall_micros),
            output: self.output.since(&earlier.output),
        }
    }

    /// The share of attempts that failed, 0.0 to 1.0. 0.0 of none.
    #[must_use]
    pub fn failure_share(&self) -> f64 {
        if self.attempts == 0 {
            return 0.0;
        }
        #[allow(clippy::cast_precision_loss, reason = "a share, to be compared with a margin")]
        let share = self.failed as f64 / self.attempts as f64;
        share
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Failure, Json};

    #[test]
    fn failures_of_the_version_count_and_those_of_the_host_do_not() {
        let mut usage = VersionUsage::default();
        let failed = |kind| Outcome::Failed(Failure::new(kind, "x"));
        let used = Usage { fuel: 10, ..Usage::default() };
        usage.record(&Outcome::Completed(Json::from(serde_json::json!(1))), &used);
        usage.record(&failed(FailureKind::Trap), &used);
        usage.record(&failed(FailureKind::Cancelled), &used);
        usage.record(&failed(FailureKind::Internal), &used);
        assert_eq!((usage.attempts, usage.failed), (2, 1));
        assert!((usage.failure_share() - 0.5).abs() < f64::EPSILON);
        assert_eq!(usage.fuel.count(), 2);
        let twice = {
            let mut sum = usage.clone();
            sum.merge(&usage);
            sum
        };
        assert_eq!((twice.attempts, twice.failed, twice.output.max()), (4, 2, 1));
        assert_eq!(twice.since(&usage), usage);
    }
}
