//! Heartbeats of the workers in this process.
//!
//! The file has one process, so its workers and the sweeper that judges them are in the same one.
//! Their heartbeats are kept in memory, where they wait for no transaction of anybody, and are
//! written when the sweeper looks for silent workers. What a process that is gone had running, the
//! next one returns anyway.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use taskforge_domain::{Timestamp, WorkerId};

use super::{
    Shared,
    param::{millis, time},
    sweep,
    writer::on_writer,
};
use crate::{LeaseConnection, StoreResult};

/// The workers that were announced here and have neither left nor been found silent.
#[derive(Debug, Default)]
pub(super) struct Beats(Mutex<HashMap<WorkerId, Beat>>);

#[derive(Debug)]
struct Beat {
    lease_micros: i64,
    last: i64,
    /// The last that the database knows of.
    written: i64,
    /// One came too late, and all that follow.
    has_lapsed: bool,
}

/// What the database is to be told of a worker.
pub(super) struct News {
    pub(super) worker: WorkerId,
    pub(super) last: i64,
    pub(super) has_lapsed: bool,
}

impl Beats {
    /// A worker that the database did not know before.
    pub(super) fn enter(&self, worker: WorkerId, lease: Duration, now: Timestamp) {
        let beat = Beat {
            lease_micros: millis(lease).saturating_mul(1_000),
            last: time(now),
            written: time(now),
            has_lapsed: false,
        };
        self.lock().insert(worker, beat);
    }

    pub(super) fn remove(&self, worker: WorkerId) {
        self.lock().remove(&worker);
    }

    /// Renews a lease that holds; time never runs backwards in it. `None`: the database knows.
    fn renew(&self, worker: WorkerId, now: Timestamp) -> Option<bool> {
        let (mut beats, now) = (self.lock(), time(now));
        let beat = beats.get_mut(&worker)?;
        beat.has_lapsed |= beat.last.saturating_add(beat.lease_micros) < now;
        if !beat.has_lapsed {
            beat.last = beat.last.max(now);
        }
        Some(!beat.has_lapsed)
    }

    /// What the database does not know yet.
    pub(super) fn news(&self) -> Vec<News> {
        let beats = self.lock();
        let unknown = beats.iter().filter(|(_, beat)| beat.last > beat.written || beat.has_lapsed);
        let news = unknown.map(|(worker, beat)| News {
            worker: *worker,
            last: beat.last,
            has_lapsed: beat.has_lapsed,
        });
        news.collect()
    }

    /// The database knows it now, and has found these workers silent.
    pub(super) fn told(&self, news: &[News], silent: &[WorkerId]) {
        let mut beats = self.lock();
        for news in news {
            if news.has_lapsed {
                beats.remove(&news.worker);
            } else if let Some(beat) = beats.get_mut(&news.worker) {
                beat.written = news.last;
            }
        }
        for worker in silent {
            beats.remove(worker);
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<WorkerId, Beat>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where a worker's heartbeats go.
pub(super) struct Leases(pub(super) Arc<Shared>);

#[async_trait]
impl LeaseConnection for Leases {
    async fn heartbeat(&mut self, worker: WorkerId, now: Timestamp) -> StoreResult<bool> {
        match self.0.beats.renew(worker, now) {
            Some(holds) => Ok(holds),
            None => on_writer!(self.0.writer, |writer| sweep::heartbeat(writer, worker, now)),
        }
    }

    async fn close(self: Box<Self>) {}
}
