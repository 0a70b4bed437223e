//! What attempts used, as rows that add up.

use std::{collections::BTreeMap, str::FromStr};

use taskforge_domain::{Histogram, VersionId, VersionUsage};

/// What a row of usage counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Metric {
    Attempts,
    Failed,
    Fuel,
    Memory,
    WallMicros,
    Output,
}

impl Metric {
    const ALL: [Self; 6] =
        [Self::Attempts, Self::Failed, Self::Fuel, Self::Memory, Self::WallMicros, Self::Output];

    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Attempts => "attempts",
            Self::Failed => "failed",
            Self::Fuel => "fuel",
            Self::Memory => "memory",
            Self::WallMicros => "wall_micros",
            Self::Output => "output",
        }
    }

    /// Puts a row back where it came from.
    pub(crate) fn add(self, usage: &mut VersionUsage, bucket: u16, count: u64, max: u64) {
        match self {
            Self::Attempts => usage.attempts += count,
            Self::Failed => usage.failed += count,
            Self::Fuel => usage.fuel.add(bucket, count, max),
            Self::Memory => usage.memory.add(bucket, count, max),
            Self::WallMicros => usage.wall_micros.add(bucket, count, max),
            Self::Output => usage.output.add(bucket, count, max),
        }
    }
}

impl FromStr for Metric {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|metric| metric.as_str() == text);
        found.ok_or_else(|| format!("{text:?} is not a metric"))
    }
}

/// How often values of a metric fell into a bucket, and the greatest of them if it is in this
/// bucket, else 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct UsageRow {
    pub(crate) version: VersionId,
    pub(crate) phase: i64,
    pub(crate) metric: Metric,
    pub(crate) bucket: u16,
    pub(crate) count: u64,
    pub(crate) max: u64,
}

/// The rows of what attempts used, each place once, in the order of their places: callers that add
/// at once wait for each other in that order and never in a circle.
pub(crate) fn usage_rows(used: &[(VersionId, i64, VersionUsage)]) -> Vec<UsageRow> {
    let mut sums: BTreeMap<(VersionId, i64, Metric, u16), (u64, u64)> = BTreeMap::new();
    for (version, phase, usage) in used {
        let mut add = |metric, bucket, count, max: u64| {
            let sum = sums.entry((*version, *phase, metric, bucket)).or_default();
            *sum = (sum.0 + count, sum.1.max(max));
        };
        add(Metric::Attempts, 0, usage.attempts, 0);
        add(Metric::Failed, 0, usage.failed, 0);
        let histograms: [(Metric, &Histogram); 4] = [
            (Metric::Fuel, &usage.fuel),
            (Metric::Memory, &usage.memory),
            (Metric::WallMicros, &usage.wall_micros),
            (Metric::Output, &usage.output),
        ];
        for (metric, histogram) in histograms {
            let last = histogram.buckets().last();
            for (bucket, count) in histogram.buckets() {
                let is_last = Some((bucket, count)) == last;
                add(metric, bucket, count, if is_last { histogram.max() } else { 0 });
            }
        }
    }
    let rows = sums.into_iter().filter(|(_, (count, _))| *count > 0);
    rows.map(|((version, phase, metric, bucket), (count, max))| UsageRow {
        version,
        phase,
        metric,
        bucket,
        count,
        max,
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_taken_apart_is_put_together_again() {
        let mut usage = VersionUsage { attempts: 5, failed: 2, ..VersionUsage::default() };
        for value in [0, 3, 3, 1_000_000, u64::MAX] {
            usage.fuel.record(value);
            usage.output.record(value / 7);
        }
        usage.memory.record(64 << 20);
        let version = VersionId::generate();
        let rows = usage_rows(&[(version, 7, usage.clone()), (version, 7, usage.clone())]);
        let mut read = VersionUsage::default();
        for row in &rows {
            assert_eq!((row.version, row.phase), (version, 7));
            assert_eq!(row.metric.as_str().parse(), Ok(row.metric));
            row.metric.add(&mut read, row.bucket, row.count, row.max);
        }
        usage.merge(&usage.clone());
        assert_eq!(read, usage);
        let places: Vec<_> = rows.iter().map(|row| (row.metric, row.bucket)).collect();
        assert!(places.is_sorted_by(|a, b| a < b));
        assert!(usage_rows(&[(version, 7, VersionUsage::default())]).is_empty());
    }
}
