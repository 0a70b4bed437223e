//! Limits suggested from what attempts used, because nobody knows what a good fuel number is.

use serde::Serialize;
use taskforge_domain::{Histogram, Limits, VersionUsage};
use utoipa::ToSchema;

/// Attempts before anything is suggested. Below that the 99th percentile is the maximum, and the
/// maximum is chance.
const ENOUGH: u64 = 20;

/// What the attempts of a version used, and which limits would fit them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Advice {
    /// The version.
    pub version: String,
    /// Attempts that were counted.
    pub attempts: u64,
    /// Those of them that failed.
    pub failed: u64,
    /// Fuel.
    pub fuel: Figure,
    /// Peak memory, in bytes.
    pub memory: Figure,
    /// Time, in microseconds.
    pub wall_micros: Figure,
    /// Output, in bytes.
    pub output: Figure,
    /// Why nothing is suggested, in a sentence, if so.
    #[schema(required)]
    pub reason: Option<String>,
}

/// One kind of usage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
pub struct Figure {
    /// Half of the attempts used at most this.
    pub p50: u64,
    /// 99 of 100 attempts used at most this.
    pub p99: u64,
    /// The most that any used.
    pub max: u64,
    /// The limit now.
    pub limit: u64,
    /// The limit that would do, with a generous margin.
    #[schema(required)]
    pub suggested: Option<u64>,
}

impl Advice {
    /// Reads limits out of what was used.
    ///
    /// Suggested is the greater of twice the 99th percentile and one and a half times the maximum,
    /// rounded up to two digits (memory and output to whole units), and never below what any plugin
    /// needs to start with. A limit that attempts ran into is so raised by half.
    #[must_use]
    pub fn from_usage(version: &str, used: &VersionUsage, limits: &Limits) -> Self {
        let is_enough = used.attempts >= ENOUGH;
        let deadline = u64::try_from(limits.deadline.as_micros()).unwrap_or(u64::MAX);
        let figure = |histogram: &Histogram, limit, floor, round: fn(u64) -> u64| {
            let (p99, max) = (histogram.percentile(0.99), histogram.max());
            let wanted = p99.saturating_mul(2).max(max.saturating_add(max / 2));
            Figure {
                p50: histogram.percentile(0.5),
                p99,
                max,
                limit,
                suggested: is_enough.then(|| round(wanted.max(floor))),
            }
        };
        Self {
            version: version.to_owned(),
            attempts: used.attempts,
            failed: used.failed,
            fuel: figure(&used.fuel, limits.fuel, 10_000_000, two_digits),
            memory: figure(&used.memory, limits.memory, 8 << 20, mebibytes),
            wall_micros: figure(&used.wall_micros, deadline, 1_000_000, two_digits),
            output: figure(&used.output, limits.output, 16 << 10, kibibytes),
            reason: (!is_enough).then(|| {
                format!(
                    "{} attempts are too few to suggest limits from; {ENOUGH} would do",
                    used.attempts
                )
            }),
        }
    }
}

/// Rounds up to two significant digits.
fn two_digits(value: u64) -> u64 {
    let Some(digits) = value.checked_ilog10() else {
        return value;
    };
    let unit = 10_u64.pow(digits.saturating_sub(1));
    value.div_ceil(unit).saturating_mul(unit)
}

fn mebibytes(value: u64) -> u64 {
    value.div_ceil(1 << 20).saturating_mul(1 << 20)
}

fn kibibytes(value: u64) -> u64 {
    value.div_ceil(1 << 10).saturating_mul(1 << 10)
}

#[cfg(test)]
mod tests {
    use taskforge_domain::{Json, Outcome, Usage};

    use super::*;

    fn used(attempts: u64) -> VersionUsage {
        let mut used = VersionUsage::default();
        for n in 1..=attempts {
            let usage = Usage {
                fuel: n * 1_234_567,
                peak_memory: 40 << 20,
                wall_micros: 100,
                ..Usage::default()
            };
            used.record(&Outcome::Completed(Json::from(serde_json::json!(n))), &usage);
        }
        used
    }

    #[test]
    fn limits_fit_what_was_used_with_a_margin() {
        let advice = Advice::from_usage("1.0.0", &used(100), &Limits::default());
        assert_eq!((advice.attempts, advice.failed, &advice.reason), (100, 0, &None));
        let fuel = advice.fuel.suggested.unwrap();
        assert!(fuel >= 2 * advice.fuel.p99 && fuel < 3 * advice.fuel.max, "{fuel}");
        assert_eq!(fuel % 10_000_000, 0, "{fuel}");
        assert_eq!(advice.memory.suggested, Some(80 << 20));
        assert_eq!(advice.wall_micros.suggested, Some(1_000_000), "the floor");
        assert_eq!(advice.wall_micros.limit, 30_000_000);
    }

    #[test]
    fn too_few_attempts_suggest_nothing_and_say_so() {
        let advice = Advice::from_usage("1.0.0", &used(3), &Limits::default());
        assert_eq!(advice.fuel.suggested, None);
        assert!(advice.reason.unwrap().contains("3 attempts are too few"));
    }

    #[test]
    fn numbers_are_rounded_up_for_people() {
        for (value, rounded) in
            [(0, 0), (7, 7), (99, 99), (101, 110), (1_234_567, 1_300_000), (u64::MAX, u64::MAX)]
        {
            assert_eq!(two_digits(value), rounded);
        }
    }
}
