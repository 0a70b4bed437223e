//! How many components are received and compiled at once, in all and of one address.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, Weak},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::http::connection_permits::Client;

/// Components at once: each is held in memory, twice, until it is stored.
const AT_ONCE: usize = 4;
/// How many of them one address may be sending, so that slow senders leave
/// permits to others.
const OF_ONE_CLIENT: usize = 2;

/// Permits to have a component received and compiled.
#[derive(Debug)]
pub(crate) struct PushPermits {
    all: Arc<Semaphore>,
    of_client: Mutex<HashMap<Option<Client>, Weak<Semaphore>>>,
}

/// A permit to send a component, and to have it compiled.
pub(crate) struct SendPermit {
    permit: OwnedSemaphorePermit,
    _share: OwnedSemaphorePermit,
}

impl Default for PushPermits {
    fn default() -> Self {
        Self { all: Arc::new(Semaphore::new(AT_ONCE)), of_client: Mutex::default() }
    }
}

impl PushPermits {
    /// Waits for a permit. The share of the client comes first: while it waits for that, it holds
    /// nothing that others wait for.
    pub(crate) async fn take(&self, client: Option<Client>) -> Option<SendPermit> {
        // Neither is ever closed.
        let share = self.share(client).acquire_owned().await.ok()?;
        let permit = Arc::clone(&self.all).acquire_owned().await.ok()?;
        Some(SendPermit { permit, _share: share })
    }

    fn share(&self, client: Option<Client>) -> Arc<Semaphore> {
        let mut shares = self.of_client.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(share) = shares.get(&client).and_then(Weak::upgrade) {
            return share;
        }
        shares.retain(|_, share| share.strong_count() > 0);
        let share = Arc::new(Semaphore::new(OF_ONE_CLIENT));
        shares.insert(client, Arc::downgrade(&share));
        share
    }
}

impl SendPermit {
    /// The component is here: the client may send another.
    pub(crate) fn received(self) -> OwnedSemaphorePermit {
        self.permit
    }
}
