//! Whose code is in memory: one place for each component, and a budget for them all.
//!
//! A plugin is small until it is used. Its code is loaded at the first use, once however many ask
//! for it, and serves every plugin that is the same component. When there is more code than the
//! budget allows, what was not used for longest goes, unless an attempt runs on it; it comes back
//! at its next use.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use taskforge_domain::{Digest, Shape};

use crate::{
    code::Code,
    load::{self, Loaded},
    refusal::LoadError,
    runtime::Shared,
};

/// How long a component that could not be loaded is not tried again, at least.
const PAUSE: Duration = Duration::from_secs(5);

/// Times as long as the failed attempt took that it is not tried again: one that cannot be loaded
/// takes at most this share of a processor.
const PAUSE_FACTOR: u32 = 10;

/// The code that is in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Residents {
    /// Components whose code is loaded.
    pub plugins: usize,
    /// The size of their code, in bytes. It is mapped from files: the part that was not used lately
    /// takes no memory.
    pub bytes: u64,
}

/// What code is for: the bytes, and how they are called.
pub(crate) type Key = (Digest, Shape);

/// The place of one component's code.
pub(crate) struct Place {
    key: Key,
    code: Mutex<Option<Loaded>>,
    // The time of the table's clock at which the code was last asked for.
    used: AtomicU64,
    // Held by who loads the code; remembers that it failed.
    loading: tokio::sync::Mutex<Option<Failed>>,
}

struct Failed {
    error: LoadError,
    until: Instant,
}

impl Place {
    fn lock(&self) -> MutexGuard<'_, Option<Loaded>> {
        self.code.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The code; loads it if it is not there, from `bytes` if they are at hand.
    pub(crate) async fn code(
        &self,
        shared: &Arc<Shared>,
        bytes: Option<Arc<Vec<u8>>>,
    ) -> Result<Arc<Code>, LoadError> {
        let residents = &shared.residents;
        if let Some(code) = residents.find(self) {
            return Ok(code);
        }
        let mut failed = self.loading.lock().await;
        if let Some(code) = residents.find(self) {
            return Ok(code);
        }
        let begun = Instant::now();
        if let Some(failed) = failed.as_ref().filter(|failed| begun < failed.until) {
            return Err(failed.error.clone());
        }
        match Box::pin(load::code(shared, self.key, bytes)).await {
            Ok(loaded) => {
                *failed = None;
                Ok(residents.admit(self, loaded))
            }
            Err(error) => {
                // What the host itself is at fault for may have passed by then.
                let pause = match error {
                    LoadError::Internal(_) => PAUSE,
                    _ => PAUSE.max(begun.elapsed() * PAUSE_FACTOR),
                };
                *failed = Some(Failed { error: error.clone(), until: Instant::now() + pause });
                Err(error)
            }
        }
    }
}

/// What may be in memory.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Budget {
    pub(crate) plugins: usize,
    pub(crate) bytes: u64,
    /// Without a source nothing could come back, so nothing goes.
    pub(crate) may_evict: bool,
}

/// Every place that a plugin has, by what is in it.
pub(crate) struct Table {
    budget: Budget,
    clock: AtomicU64,
    places: Mutex<HashMap<Key, Weak<Place>>>,
}

impl Table {
    pub(crate) fn new(budget: Budget) -> Self {
        Self { budget, clock: AtomicU64::new(0), places: Mutex::default() }
    }

    /// The place of a component, which is kept as long as somebody holds it.
    pub(crate) fn place(&self, key: Key) -> Arc<Place> {
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(place) = places.get(&key).and_then(Weak::upgrade) {
            return place;
        }
        let place = Arc::new(Place {
            key,
            code: Mutex::default(),
            used: AtomicU64::new(0),
            loading: tokio::sync::Mutex::default(),
        });
        places.insert(key, Arc::downgrade(&place));
        place
    }

    fn find(&self, place: &Place) -> Option<Arc<Code>> {
        let code = place.lock().as_ref().map(|loaded| Arc::clone(&loaded.code))?;
        self.touch(place);
        Some(code)
    }

    fn touch(&self, place: &Place) {
        let now = self.clock.fetch_add(1, Ordering::Relaxed);
        place.used.store(now, Ordering::Relaxed);
    }

    /// Puts code into its place, and others' out of theirs if there is too much.
    fn admit(&self, place: &Place, loaded: Loaded) -> Arc<Code> {
        let code = Arc::clone(&loaded.code);
        *place.lock() = Some(loaded);
        self.touch(place);
        let evicted = self.evict();
        if !evicted.is_empty() {
            tracing::debug!(plugins = evicted.len(), "code that was not used for long was dropped");
            // Unmapping, and the pool's slots that remember it.
            tokio::task::spawn_blocking(move || drop(evicted));
        }
        code
    }

    fn evict(&self) -> Vec<Arc<Code>> {
        let mut resident = self.resident();
        let mut total = sum(&resident);
        let excessive = |total: &Residents| {
            total.plugins > self.budget.plugins || total.bytes > self.budget.bytes
        };
        if !self.budget.may_evict || !excessive(&total) {
            return Vec::new();
        }
        resident.sort_unstable_by_key(|(place, _)| place.used.load(Ordering::Relaxed));
        let mut evicted = Vec::new();
        for (place, size) in resident {
            if !excessive(&total) {
                break;
            }
            // Whoever runs on the code holds it, and nobody can begin to while the lock is held.
            let gone = place.lock().take_if(|loaded| Arc::strong_count(&loaded.code) == 1);
            if let Some(gone) = gone {
                evicted.push(gone.code);
                total.plugins -= 1;
                total.bytes -= size;
            }
        }
        evicted
    }

    fn resident(&self) -> Vec<(Arc<Place>, u64)> {
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        places.retain(|_, place| place.strong_count() > 0);
        let places = places.values().filter_map(Weak::upgrade);
        places
            .filter_map(|place| {
                let size = place.lock().as_ref().map(|loaded| loaded.size)?;
                Some((place, size))
            })
            .collect()
    }

    pub(crate) fn count(&self) -> Residents {
        sum(&self.resident())
    }
}

fn sum(resident: &[(Arc<Place>, u64)]) -> Residents {
    Residents { plugins: resident.len(), bytes: resident.iter().map(|(_, size)| size).sum() }
}
