//! Metrics of the broker.
//!
//! | metric | meaning |
//! |---|---|
//! | `taskforge_redis_errors_total` | commands that Redis did not answer, or answered with an error |

/// Counts a command that failed.
pub(crate) fn count_error() {
    metrics::counter!("taskforge_redis_errors_total").increment(1);
}
