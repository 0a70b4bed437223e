//! Who waits for hints of which types, in this process.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use taskforge_domain::TaskType;
use tokio::sync::Notify;

/// The waiting pops of a process. A call from outside wakes all that it concerns, because nobody
/// here knows how much there is to get.
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

/// A place among the waiters; given up when it is dropped. What is called between its making and a
/// wait is heard by that wait.
#[derive(Debug)]
pub(crate) struct Waiting<'a> {
    waiters: &'a Waiters,
    key: u64,
    wake: Arc<Notify>,
}

impl Waiters {
    /// Takes a place.
    pub(crate) fn wait_for(&self, types: &[TaskType]) -> Waiting<'_> {
        let wake = Arc::new(Notify::new());
        let mut list = self.list();
        list.next += 1;
        let key = list.next;
        let waiter = Waiter { types: types.into(), wake: Arc::clone(&wake) };
        list.waiting.insert(key, waiter);
        Waiting { waiters: self, key, wake }
    }

    /// Wakes who waits for one of these types.
    pub(crate) fn wake(&self, names: &[&str]) {
        for waiter in self.list().waiting.values() {
            if waiter.types.iter().any(|name| names.contains(&name.as_str())) {
                waiter.wake.notify_one();
            }
        }
    }

    /// Wakes everybody.
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
    /// Waits for a call. Cancel safe: a call that was not heard is heard by the next wait.
    pub(crate) async fn called(&self) {
        self.wake.notified().await;
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.waiters.list().waiting.remove(&self.key);
    }
}
