//! Asking what addresses a name has.

use std::{io, net::SocketAddr};

use futures_util::future::BoxFuture;
use tokio::sync::Semaphore;

/// Lookups at once. Each holds a thread of the blocking pool for as long as the system takes, and others need that pool too.
const LOOKUPS: usize = 64;

type Lookup = dyn Fn(String, u16) -> BoxFuture<'static, io::Result<Vec<SocketAddr>>> + Send + Sync;

/// Looks names up, a bounded number at once.
pub(super) struct Resolver {
    lookup: Box<Lookup>,
    lookups: Semaphore,
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
            lookups: Semaphore::new(LOOKUPS),
        }
    }

    /// The addresses of a name, each with the port.
    pub(super) async fn resolve(&self, name: String, port: u16) -> io::Result<Vec<SocketAddr>> {
        // Closed never; a lookup without a permit would be the lesser evil.
        let _permit = self.lookups.acquire().await.ok();
        (self.lookup)(name, port).await
    }
}
