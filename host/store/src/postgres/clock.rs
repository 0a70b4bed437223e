//! The database's time.

use std::time::{Duration, Instant};

use jiff::SignedDuration;
use sqlx::PgConnection;
use taskforge_domain::{Clock, Timestamp, clock::Reading};

use super::{
    beats,
    connect::{Connections, on},
    fault::{Attempted, Repeat},
    row,
};
use crate::StoreResult;

/// How often a process compares its clock with the database's.
const COMPARE_EVERY: Duration = Duration::from_secs(30);

/// More than clocks drift apart between two comparisons.
const STEP: Duration = Duration::from_secs(1);

/// A clock that tells the database's time.
pub(super) async fn of_database(connections: &Connections) -> StoreResult<Clock> {
    let clock = Clock::default();
    let asked = Asked::now(&clock);
    let there = ask(connections).await?;
    asked.shift(&clock, asked.ahead(there));
    Ok(clock)
}

/// Compares the clocks again and again.
pub(super) async fn keep(connections: Connections, clock: Clock) {
    loop {
        tokio::time::sleep(COMPARE_EVERY).await;
        let asked = Asked::now(&clock);
        let compared = match ask(&connections).await {
            Ok(there) => match asked.set_by(there) {
                Some(ahead) => follow(&connections, &clock, &asked, ahead).await,
                None => {
                    // Less than what the question took may be the question itself. More is known to
                    // half of that, so it is nearer the truth than what was known, however far away
                    // the database is.
                    let ahead = asked.ahead(there);
                    if ahead.unsigned_abs() > asked.began.elapsed() {
                        asked.shift(&clock, ahead);
                    }
                    Ok(())
                }
            },
            Err(error) => Err(error),
        };
        if let Err(error) = compared {
            tracing::debug!(%error, "the clocks were not compared");
        }
    }
}

/// Follows a clock that was set. If it was set forward, every lease begins anew before this process
/// judges any by the new time: an old heartbeat proves nobody's silence then.
pub(super) async fn follow(
    connections: &Connections,
    clock: &Clock,
    asked: &Asked,
    ahead: SignedDuration,
) -> StoreResult<()> {
    tracing::warn!(by = %ahead, "the database's clock was set; leases go on");
    let now = clock.now().saturating_add(ahead).unwrap_or_else(|_| clock.now());
    on!(connections, Repeat::Safe, |connection| beats::renew_all(connection, now))?;
    asked.shift(clock, ahead);
    Ok(())
}

/// Not the time at which a transaction began: that would stand still in a long one.
const TIME: &str = "select (extract(epoch from clock_timestamp()) * 1000000)::bigint";

async fn time(connection: &mut PgConnection) -> Attempted<Timestamp> {
    row::time(&sqlx::query(TIME).fetch_one(connection).await?, 0)
}

async fn ask(connections: &Connections) -> StoreResult<Timestamp> {
    on!(connections, Repeat::Safe, |connection| time(connection))
}

/// When the database was asked for its time.
pub(super) struct Asked {
    here: Reading,
    began: Instant,
}

impl Asked {
    pub(super) fn now(clock: &Clock) -> Self {
        Self { here: clock.read(), began: Instant::now() }
    }

    /// By how much the database's clock is ahead. That is uncertain by half of what the question
    /// took, so the midpoint is compared.
    fn ahead(&self, there: Timestamp) -> SignedDuration {
        let half = SignedDuration::try_from(self.began.elapsed() / 2).unwrap_or_default();
        there.duration_since(self.here.time) - half
    }

    /// Puts the clock right by what was found, unless somebody else has meanwhile: heartbeats of
    /// many leases may find the same.
    fn shift(&self, clock: &Clock, ahead: SignedDuration) {
        clock.shift_since(self.here, ahead);
    }

    /// By how much the database's clock is ahead, if it must have been set.
    pub(super) fn set_by(&self, there: Timestamp) -> Option<SignedDuration> {
        let ahead = self.ahead(there);
        (ahead.unsigned_abs() >= STEP + self.began.elapsed()).then_some(ahead)
    }
}
