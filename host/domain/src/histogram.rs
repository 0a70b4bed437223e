//! Counts of values in buckets that grow with the values, for percentiles that are a few percent
//! off at most.

use std::collections::BTreeMap;

/// Buckets between one power of two and the next. The value that stands for a bucket is at most
/// 1/16 off.
const FINENESS: u32 = 16;

/// How often values occurred. Two histograms add up to the histogram of both.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Histogram {
    counts: BTreeMap<u16, u64>,
    max: u64,
}

impl Histogram {
    /// Counts a value.
    pub fn record(&mut self, value: u64) {
        self.add(bucket(value), 1, value);
    }

    /// Adds `count` values of a bucket, the greatest of which was `max`.
    pub fn add(&mut self, bucket: u16, count: u64, max: u64) {
        *self.counts.entry(bucket).or_default() += count;
        self.max = self.max.max(max);
    }

    /// Adds another histogram.
    pub fn merge(&mut self, other: &Self) {
        for (bucket, count) in &other.counts {
            self.add(*bucket, *count, 0);
        }
        self.max = self.max.max(other.max);
    }

    /// The values since an earlier state of this histogram. The greatest is that of all, because
    /// the greatest since then is not known.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let counts = self.counts.iter().filter_map(|(bucket, count)| {
            let before = earlier.counts.get(bucket).copied().unwrap_or(0);
            let since = count.saturating_sub(before);
            (since > 0).then_some((*bucket, since))
        });
        Self { counts: counts.collect(), max: self.max }
    }

    /// The buckets that hold something, with their counts.
    pub fn buckets(&self) -> impl Iterator<Item = (u16, u64)> {
        self.counts.iter().map(|(bucket, count)| (*bucket, *count))
    }

    /// How many values were recorded.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.counts.values().sum()
    }

    /// The greatest value, exactly. 0 of none.
    #[must_use]
    pub const fn max(&self) -> u64 {
        self.max
    }

    /// The least value that at least this share of the values does not exceed, at most 1/16 too
    /// great, and never above the greatest. 0 of none.
    #[must_use]
    pub fn percentile(&self, share: f64) -> u64 {
        let total = self.count();
        if total == 0 {
            return 0;
        }
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "a rank among counts, rounded up; its error is far below a bucket's"
        )]
        let rank = ((total as f64 * share.clamp(0.0, 1.0)).ceil() as u64).max(1);
        let mut seen = 0;
        for (bucket, count) in &self.counts {
            seen += count;
            if seen >= rank {
                return upper(*bucket).min(self.max);
            }
        }
        self.max
    }
}

/// The bucket of a value: itself below 16, then 16 buckets for each doubling.
fn bucket(value: u64) -> u16 {
    let small = u64::from(FINENESS);
    if value < small {
        return u16::try_from(value).unwrap_or(0);
    }
    let exponent = 63 - value.leading_zeros();
    let shift = exponent - FINENESS.trailing_zeros();
    let within = (value >> shift) & (small - 1);
    let base = (shift + 1) * FINENESS;
    u16::try_from(u64::from(base) + within).unwrap_or(u16::MAX)
}

/// The greatest value of a bucket.
fn upper(bucket: u16) -> u64 {
    let bucket = u32::from(bucket);
    if bucket < FINENESS {
        return u64::from(bucket);
    }
    let shift = (bucket / FINENESS - 1).min(59);
    let within = u64::from(bucket % FINENESS + FINENESS);
    (within << shift) + ((1_u64 << shift) - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_is_in_the_bucket_that_ends_at_or_above_it_and_close_by() {
        let values = (0..2_000).chain((0..64).flat_map(|n| {
            let power = 1_u64 << n;
            [power - 1, power, power + power / 3]
        }));
        for value in values.chain([u64::MAX]) {
            let top = upper(bucket(value));
            assert!(top >= value && top - value <= value / 16, "{value}: {top}");
        }
    }

    #[test]
    fn percentiles_of_a_thousand_values() {
        let mut histogram = Histogram::default();
        (1..=1_000).for_each(|value| histogram.record(value));
        assert_eq!((histogram.count(), histogram.max()), (1_000, 1_000));
        let half = histogram.percentile(0.5);
        assert!((500..=532).contains(&half), "{half}");
        let most = histogram.percentile(0.99);
        assert!((990..=1_000).contains(&most), "{most}");
        assert_eq!(histogram.percentile(1.0), 1_000);
        assert_eq!(Histogram::default().percentile(0.5), 0);
    }

    #[test]
    fn merging_is_counting_both() {
        let (mut left, mut right, mut both) =
            (Histogram::default(), Histogram::default(), Histogram::default());
        for value in [1, 50, 50, 7_000] {
            left.record(value);
            both.record(value);
        }
        for value in [50, 1_000_000] {
            right.record(value);
            both.record(value);
        }
        let before = left.clone();
        left.merge(&right);
        assert_eq!(left, both);
        assert_eq!(left.since(&before), right);
        assert_eq!(left.since(&left).count(), 0);
    }
}
