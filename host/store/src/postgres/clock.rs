//! The database's time.

use std::time::{Duration, Instant};

use jiff::SignedDuration;
use taskforge_domain::Clock;

use super::{
    connect::{Connections, on},
    fault::Repeat,
    read,
};
use crate::StoreResult;

/// How often a process compares its clock with the database's.
const COMPARE_EVERY: Duration = Duration::from_secs(30);

/// More than clocks drift apart between two comparisons.
const STEP: SignedDuration = SignedDuration::from_secs(1);

/// A clock that tells the database's time.
pub(super) async fn of_database(connections: &Connections) -> StoreResult<Clock> {
    let clock = Clock::default();
    let (ahead, _) = ask(connections, &clock).await?;
    clock.shift(ahead);
    Ok(clock)
}

/// Compares the clocks again and again.
pub(super) async fn keep(connections: Connections, clock: Clock) {
    loop {
        tokio::time::sleep(COMPARE_EVERY).await;
        match ask(&connections, &clock).await {
            // Less than what the question took may be the question itself. More is known to half of that, so it is
            // nearer the truth than what was known, however far away the database is.
            Ok((ahead, took)) if ahead.unsigned_abs() > took => {
                if ahead.abs() >= STEP {
                    tracing::warn!(by = %ahead, "the database's clock was set");
                }
                clock.shift(ahead);
            }
            Ok(_) => {}
            Err(error) => tracing::debug!(%error, "the clocks were not compared"),
        }
    }
}

/// By how much the database's clock is ahead, and how long the question took. That is uncertain by half, so
/// the midpoint is compared.
async fn ask(connections: &Connections, clock: &Clock) -> StoreResult<(SignedDuration, Duration)> {
    let (asked, began) = (clock.now(), Instant::now());
    let there = on!(connections, Repeat::Safe, |connection| read::time(connection))?;
    let took = began.elapsed();
    let half = SignedDuration::try_from(took / 2).unwrap_or_default();
    Ok((there.duration_since(asked) - half, took))
}
