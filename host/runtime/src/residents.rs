//! The plugins whose code is in memory: one entry for each component, and a budget for all.
//!
//! A plugin is small until it is used. Its code is loaded at the first use, once for all callers,
//! and serves every plugin of the same component. When there is more code than the budget allows,
//! the least recently used code is dropped, unless an attempt runs on it. It is loaded again at its
//! next use.

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

/// The shortest pause before a component that could not be loaded is tried again.
const PAUSE: Duration = Duration::from_secs(5);

/// The pause in multiples of the time that the failure took, so that a component that cannot be
/// loaded takes at most that share of a processor.
const PAUSE_FACTOR: u32 = 10;

/// The amount of code in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Residents {
    /// Components whose code is loaded.
    pub plugins: usize,
    /// The size of their code, in bytes. It is mapped from files, so the part that was not used
    /// lately takes no memory.
    pub bytes: u64,
}

/// What code belongs to: a component, and how it is called.
pub(crate) type Key = (Digest, Shape);

/// The entry of one component.
pub(crate) struct Entry {
    key: Key,
    code: Mutex<Option<Loaded>>,
    // The time of the last use, by the table's clock.
    used: AtomicU64,
    // Locked by the caller that loads the code; remembers a failure.
    loading: tokio::sync::Mutex<Option<Failed>>,
}

struct Failed {
    error: LoadError,
    until: Instant,
}

impl Entry {
    fn lock(&self) -> MutexGuard<'_, Option<Loaded>> {
        self.code.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The code; loads it if it is not in memory, from `bytes` if they are given.
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
                // A fault of the host may have passed by then.
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

/// The budget.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Budget {
    pub(crate) plugins: usize,
    pub(crate) bytes: u64,
    /// Without a source dropped code could not come back, so none is dropped.
    pub(crate) may_evict: bool,
}

/// The entries that plugins use, by component.
pub(crate) struct Table {
    budget: Budget,
    clock: AtomicU64,
    entries: Mutex<HashMap<Key, Weak<Entry>>>,
}

impl Table {
    pub(crate) fn new(budget: Budget) -> Self {
        Self { budget, clock: AtomicU64::new(0), entries: Mutex::default() }
    }

    /// The entry of a component, which is kept while a plugin uses it.
    pub(crate) fn entry(&self, key: Key) -> Arc<Entry> {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(entry) = entries.get(&key).and_then(Weak::upgrade) {
            return entry;
        }
        let entry = Arc::new(Entry {
            key,
            code: Mutex::default(),
            used: AtomicU64::new(0),
            loading: tokio::sync::Mutex::default(),
        });
        entries.insert(key, Arc::downgrade(&entry));
        entry
    }

    fn find(&self, entry: &Entry) -> Option<Arc<Code>> {
        let code = entry.lock().as_ref().map(|loaded| Arc::clone(&loaded.code))?;
        self.touch(entry);
        Some(code)
    }

    fn touch(&self, entry: &Entry) {
        let now = self.clock.fetch_add(1, Ordering::Relaxed);
        entry.used.store(now, Ordering::Relaxed);
    }

    /// Puts code into its entry, and drops that of others if there is too much.
    fn admit(&self, entry: &Entry, loaded: Loaded) -> Arc<Code> {
        let code = Arc::clone(&loaded.code);
        *entry.lock() = Some(loaded);
        self.touch(entry);
        let evicted = self.evict();
        if !evicted.is_empty() {
            tracing::debug!(plugins = evicted.len(), "code that was not used for long was dropped");
            // Unmaps the code, and clears the pool's slots that were last used by it.
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
        resident.sort_unstable_by_key(|(entry, _)| entry.used.load(Ordering::Relaxed));
        let mut evicted = Vec::new();
        for (entry, size) in resident {
            if !excessive(&total) {
                break;
            }
            // An attempt on the code has a clone of it, and none can begin while the lock is held.
            let gone = entry.lock().take_if(|loaded| Arc::strong_count(&loaded.code) == 1);
            if let Some(gone) = gone {
                evicted.push(gone.code);
                total.plugins -= 1;
                total.bytes -= size;
            }
        }
        evicted
    }

    fn resident(&self) -> Vec<(Arc<Entry>, u64)> {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        entries.retain(|_, entry| entry.strong_count() > 0);
        let entries = entries.values().filter_map(Weak::upgrade);
        entries
            .filter_map(|entry| {
                let size = entry.lock().as_ref().map(|loaded| loaded.size)?;
                Some((entry, size))
            })
            .collect()
    }

    pub(crate) fn count(&self) -> Residents {
        sum(&self.resident())
    }
}

fn sum(resident: &[(Arc<Entry>, u64)]) -> Residents {
    Residents { plugins: resident.len(), bytes: resident.iter().map(|(_, size)| size).sum() }
}
