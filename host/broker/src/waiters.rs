//! The pops of this process that wait for hints, and their types.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use taskforge_domain::TaskType;
use tokio::sync::Notify;

/// The waiting pops of a process. A wake-up from outside wakes every pop that it concerns, because
/// it does not say how many hints there are.
#[derive(Debug, Default)]
pub(crate) struct Waiters(Mutex<List>);

#[derive(Debug, Default)]
struct List {
    next: u64,
    waiting: HashMap<u64, Waiter>,
}

#[derive(Debug)]
struct Waiter {
    types: Arc<[TaskType]>,
    wake: Arc<Notify>,
}

/// An entry in the list of waiters, which its drop removes. A wake-up that comes between
/// [`Waiters::wait_for`] and [`Waiting::woken`] is not lost.
#[derive(Debug)]
pub(crate) struct Waiting<'a> {
    waiters: &'a Waiters,
    key: u64,
    wake: Arc<Notify>,
}

impl Waiters {
    /// Adds an entry.
    pub(crate) fn wait_for(&self, types: &[TaskType]) -> Waiting<'_> {
        let wake = Arc::new(Notify::new());
        let mut list = self.list();
        list.next += 1;
        let key = list.next;
        let waiter = Waiter { types: types.into(), wake: Arc::clone(&wake) };
        list.waiting.insert(key, waiter);
        Waiting { waiters: self, key, wake }
    }

    /// Wakes the pops that wait for one of these types.
    pub(crate) fn wake(&self, names: &[&str]) {
        for waiter in self.list().waiting.values() {
            if waiter.types.iter().any(|name| names.contains(&name.as_str())) {
                waiter.wake.notify_one();
            }
        }
    }

    /// Wakes all.
    pub(crate) fn wake_all(&self) {
        for waiter in self.list().waiting.values() {
            waiter.wake.notify_one();
        }
    }

    /// Never held across a wait; every change is a single insert or remove.
    fn list(&self) -> MutexGuard<'_, List> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting<'_> {
    /// Waits for a wake-up. Cancel safe: the next call sees a wake-up that came in between.
    pub(crate) async fn woken(&self) {
        self.wake.notified().await;
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.waiters.list().waiting.remove(&self.key);
    }
}
