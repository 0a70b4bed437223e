//! Whose component is received next.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, Weak},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::seats::Client;

/// Components at once: each is held in memory, twice, until it is stored.
const AT_ONCE: usize = 4;
/// How many of them one address may be sending, so that slow senders leave turns to others.
const OF_ONE_CLIENT: usize = 2;

/// Turns to have a component received and compiled.
#[derive(Debug)]
pub(crate) struct PushTurns {
    all: Arc<Semaphore>,
    of_client: Mutex<HashMap<Option<Client>, Weak<Semaphore>>>,
}

/// A turn to send a component.
pub(crate) struct SendTurn {
    turn: OwnedSemaphorePermit,
    _share: OwnedSemaphorePermit,
}

impl Default for PushTurns {
    fn default() -> Self {
        Self {
            all: Arc::new(Semaphore::new(AT_ONCE)),
            of_client: Mutex::default(),
        }
    }
}

impl PushTurns {
    /// Waits for a turn. The share of the client comes first: while it waits for that, it holds
    /// nothing that others wait for.
    pub(crate) async fn take(&self, client: Option<Client>) -> Option<SendTurn> {
        // Neither is ever closed.
        let share = self.share(client).acquire_owned().await.ok()?;
        let turn = Arc::clone(&self.all).acquire_owned().await.ok()?;
        Some(SendTurn { turn, _share: share })
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

impl SendTurn {
    /// The component is here: the client may send another.
    pub(crate) fn received(self) -> OwnedSemaphorePermit {
        self.turn
    }
}
