//! A semaphore that tenants share fairly.
//!
//! A plain semaphore serves in order of arrival, so one tenant's thousand slow calls come before
//! the next call of all others. This one has two rules instead:
//!
//! 1. **A tenant gets a permit only while it holds fewer than are free.** Alone it gets half of the
//!    permits, two greedy tenants get a third each, `n` of them `1/(n + 1)`. So a tenant without a
//!    permit gets one at once, until there are about as many greedy tenants as permits. (The rule
//!    is that of shared-memory switches: Choudhury and Hahne, *Dynamic queue length thresholds*,
//!    1998.)
//! 2. **Tenants that wait take turns**, however many calls each of them has waiting.
//!
//! The calls of a tenant that wait are bounded; one more is refused.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use taskforge_domain::TenantId;
use tokio::sync::oneshot;

/// Why there is no permit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0} calls of this tenant wait already")]
pub struct TooManyWaiting(pub usize);

/// Permits that tenants share fairly. Clones share the permits.
#[derive(Debug, Clone)]
pub struct FairSemaphore(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    /// The most calls of one tenant that may wait.
    waiting: usize,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    free: usize,
    /// Tenants that hold a permit or wait for one.
    tenants: HashMap<TenantId, Tenant>,
    /// Tenants with calls that wait, each once; the first is next.
    turns: VecDeque<TenantId>,
    /// The number of the next call that waits.
    next: u64,
}

#[derive(Debug, Default)]
struct Tenant {
    held: usize,
    /// In order of arrival.
    waiting: BTreeMap<u64, oneshot::Sender<Permit>>,
}

impl FairSemaphore {
    /// A semaphore of so many permits, for which so many calls of a tenant may wait. A tenant that
    /// is alone holds at most half of the permits, rounded up.
    #[must_use]
    pub fn new(permits: usize, waiting: usize) -> Self {
        Self(Arc::new(Shared {
            waiting,
            state: Mutex::new(State {
                free: permits,
                tenants: HashMap::new(),
                turns: VecDeque::new(),
                next: 0,
            }),
        }))
    }

    /// Waits for a permit. Cancel safe: a dropped call gives up its turn.
    ///
    /// # Errors
    /// When too many calls of this tenant wait already.
    pub async fn acquire(&self, tenant: &TenantId) -> Result<Permit, TooManyWaiting> {
        let turn = {
            let mut state = self.0.lock();
            if state.take(tenant) {
                return Ok(self.permit(tenant));
            }
            Turn {
                shared: Arc::clone(&self.0),
                tenant: tenant.clone(),
                granted: None,
                number: state.next,
            }
            .enter(&mut state)?
        };
        Ok(turn.granted().await)
    }

    /// A permit, if one can be had without waiting.
    #[must_use]
    pub fn try_acquire(&self, tenant: &TenantId) -> Option<Permit> {
        self.0.lock().take(tenant).then(|| self.permit(tenant))
    }

    /// Permits that nobody holds.
    #[must_use]
    pub fn available(&self) -> usize {
        self.0.lock().free
    }

    /// Calls of a tenant that wait.
    #[must_use]
    pub fn waiting(&self, tenant: &TenantId) -> usize {
        let state = self.0.lock();
        state.tenants.get(tenant).map_or(0, |tenant| tenant.waiting.len())
    }

    /// Makes a permit that is already counted.
    fn permit(&self, tenant: &TenantId) -> Permit {
        Permit { shared: Arc::clone(&self.0), tenant: tenant.clone() }
    }
}

impl Shared {
    /// Never held across an await, and nothing under it panics.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn may_take(&self, tenant: &TenantId) -> bool {
        let held = self.tenants.get(tenant).map_or(0, |tenant| tenant.held);
        held < self.free
    }

    /// Counts a permit as taken, if the tenant may have one. This overtakes no tenant that waits:
    /// those hold at least as many as are free.
    fn take(&mut self, tenant: &TenantId) -> bool {
        let may = self.may_take(tenant);
        if may {
            self.free -= 1;
            self.tenants.entry(tenant.clone()).or_default().held += 1;
        }
        may
    }

    fn give_back(&mut self, tenant: &TenantId) {
        self.free += 1;
        if let Some(held) = self.tenants.get_mut(tenant) {
            held.held -= 1;
        }
        self.forget_if_idle(tenant);
    }

    fn forget_if_idle(&mut self, tenant: &TenantId) {
        let idle = |tenant: &Tenant| tenant.held == 0 && tenant.waiting.is_empty();
        if self.tenants.get(tenant).is_some_and(idle) {
            self.tenants.remove(tenant);
        }
    }

    /// The call whose turn it is, with its permit counted.
    fn serve(&mut self) -> Option<(TenantId, oneshot::Sender<Permit>)> {
        let index = self.turns.iter().position(|tenant| self.may_take(tenant))?;
        let tenant = self.turns.remove(index)?;
        self.take(&tenant);
        let waiting = &mut self.tenants.get_mut(&tenant)?.waiting;
        let (_, call) = waiting.pop_first()?;
        if !waiting.is_empty() {
            self.turns.push_back(tenant.clone());
        }
        Some((tenant, call))
    }

    /// A call that waits no longer.
    fn leave(&mut self, tenant: &TenantId, number: u64) {
        let Some(waits) = self.tenants.get_mut(tenant) else {
            return;
        };
        let left = waits.waiting.remove(&number).is_some();
        if left && waits.waiting.is_empty() {
            self.turns.retain(|turn| turn != tenant);
        }
        self.forget_if_idle(tenant);
    }
}

/// A permit. Its drop passes it on to the tenant whose turn it is.
#[derive(Debug)]
pub struct Permit {
    shared: Arc<Shared>,
    tenant: TenantId,
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.shared.lock().give_back(&self.tenant);
        loop {
            // A statement of its own, so that the lock is not held while a permit without a taker
            // is dropped.
            let served = self.shared.lock().serve();
            let Some((tenant, call)) = served else { return };
            let permit = Self { shared: Arc::clone(&self.shared), tenant };
            // A caller that has just gone away drops the permit, which hands it back.
            drop(call.send(permit));
        }
    }
}

/// A call that waits.
struct Turn {
    shared: Arc<Shared>,
    tenant: TenantId,
    number: u64,
    granted: Option<oneshot::Receiver<Permit>>,
}

impl Turn {
    fn enter(mut self, state: &mut State) -> Result<Self, TooManyWaiting> {
        let waits = state.tenants.entry(self.tenant.clone()).or_default();
        let count = waits.waiting.len();
        if count >= self.shared.waiting {
            state.forget_if_idle(&self.tenant);
            return Err(TooManyWaiting(count));
        }
        let (grant, granted) = oneshot::channel();
        waits.waiting.insert(self.number, grant);
        state.next += 1;
        if count == 0 {
            state.turns.push_back(self.tenant.clone());
        }
        self.granted = Some(granted);
        Ok(self)
    }

    async fn granted(mut self) -> Permit {
        if let Some(granted) = &mut self.granted
            && let Ok(permit) = granted.await
        {
            self.granted = None;
            return permit;
        }
        // The sender is kept until it has sent, so this is never reached.
        std::future::pending().await
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if self.granted.is_some() {
            self.shared.lock().leave(&self.tenant, self.number);
        }
    }
}

#[cfg(test)]
mod tests;
