//! Waits for a condition, with a deadline.

use std::time::{Duration, Instant};

/// How long a condition may take. Generous, because only a test that fails waits for it.
pub const DEADLINE: Duration = Duration::from_secs(30);

/// Polls until `condition` holds.
///
/// # Panics
/// When it does not within [`DEADLINE`].
pub async fn wait_until(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !condition().await {
        assert!(Instant::now() < deadline, "waited {DEADLINE:?} in vain until {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
