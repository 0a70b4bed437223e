//! Asking what addresses a name has.

use std::{io, net::SocketAddr, sync::Arc};

use futures_util::future::BoxFuture;
use tokio::sync::Semaphore;

/// Lookups at once. Each holds a thread of the blocking pool for as long as the system takes, and others need that pool too.
const LOOKUPS: usize = 64;

type Lookup = dyn Fn(String, u16) -> BoxFuture<'static, io::Result<Vec<SocketAddr>>> + Send + Sync;

/// Looks names up, a bounded number at once.
pub(super) struct Resolver {
    lookup: Box<Lookup>,
    lookups: Arc<Semaphore>,
}

impl Resolver {
    /// Asks the system.
    pub(super) fn system() -> Self {
        Self::new(|name, port| {
            Box::pin(async move { Ok(tokio::net::lookup_host((name, port)).await?.collect()) })
        })
    }

    /// Asks `lookup`: a test says with it what a name stands for, and for how long.
    pub(super) fn new<F>(lookup: F) -> Self
    where
        F: Fn(String, u16) -> BoxFuture<'static, io::Result<Vec<SocketAddr>>> + Send + Sync + 'static,
    {
        Self {
            lookup: Box::new(lookup),
            lookups: Arc::new(Semaphore::new(LOOKUPS)),
        }
    }

    /// The addresses of a name, each with the port.
    pub(super) async fn resolve(&self, name: String, port: u16) -> io::Result<Vec<SocketAddr>> {
        // Closed never; a lookup without a permit would be the lesser evil.
        let permit = Arc::clone(&self.lookups).acquire_owned().await.ok();
        let lookup = (self.lookup)(name, port);
        // In a task of its own, because the system's resolver cannot be called off: whoever asked may give up after a millisecond, and the
        // thread that asks for him goes on for half a minute. The permit stays with the thread.
        let looking = tokio::spawn(async move {
            let found = lookup.await;
            drop(permit);
            found
        });
        looking.await.unwrap_or_else(|error| Err(io::Error::other(error)))
    }
}
