//! Waiting until something is true, with a deadline.

use std::time::{Duration, Instant};

/// How long a condition is given. Generous: it is only spent by a test that fails.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Polls until `condition` holds.
///
/// # Panics
/// When it does not within [`PATIENCE`].
pub async fn wait_until(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition().await {
        assert!(Instant::now() < deadline, "waited {PATIENCE:?} in vain until {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
