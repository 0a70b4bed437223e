//! Tasks of workers that fell silent.

use std::collections::HashSet;

use taskforge_broker::{Broker, Signal};
use taskforge_domain::{Next, Timestamp, retry};
use taskforge_store::{LapsedTask, Resolution, Store, StoreError, Term};

/// What became of lapsed tasks.
pub(super) struct Resolved {
    /// How many moved.
    pub(super) moved: usize,
    /// Those whose workers have stopped too often.
    dead: Vec<Signal>,
}

impl Resolved {
    /// Tells the broker. One that is away costs latency only.
    pub(super) async fn tell(&self, broker: &dyn Broker) {
        if let Err(error) = broker.publish(&self.dead).await {
            tracing::debug!(%error, "the broker was not told");
        }
    }
}

/// Returns lapsed tasks, or makes dead letters of those that have lapsed too often.
pub(super) async fn resolve(
    store: &dyn Store,
    term: Term,
    lapsed: &[LapsedTask],
    now: Timestamp,
) -> Result<Resolved, StoreError> {
    let resolutions: Vec<_> = lapsed.iter().map(|task| resolution(task, now)).collect();
    let moved = store.resolve_lapsed(Some(term), &resolutions, now).await?;
    tracing::warn!(tasks = moved.len(), "tasks of lapsed workers were returned");
    metrics::counter!("taskforge_lapsed_attempts_total").increment(moved.len() as u64);
    let moved: HashSet<_> = moved.into_iter().collect();
    let dead = resolutions
        .iter()
        .filter(|resolution| resolution.next == Next::DeadLetter && moved.contains(&resolution.id))
        .map(|resolution| Signal::Finished(resolution.id));
    Ok(Resolved { moved: moved.len(), dead: dead.collect() })
}

fn resolution(task: &LapsedTask, now: Timestamp) -> Resolution {
    let lapses = task.lapses.saturating_add(1);
    Resolution {
        id: task.id,
        run_lease: task.run_lease,
        next: retry::after_lapse(lapses, &task.retry, now, fastrand::f64()),
        detail: format!(
            "worker {} stopped answering during attempt {} (lapse {lapses})",
            task.worker, task.attempt
        ),
    }
}
