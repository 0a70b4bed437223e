//! Asking what addresses a name has.

use std::{io, net::SocketAddr, time::Duration};

use futures_util::future::BoxFuture;
use taskforge_domain::TenantId;
use tokio::{sync::oneshot, time::timeout};

use crate::fair::FairSemaphore;

/// Look-ups at once. Each holds a thread of the blocking pool for as long as the system takes, and
/// others need that pool too: it has 512.
const LOOKUPS: usize = 128;

/// Look-ups that nobody waits for any more and that the system goes on with. They hold threads too.
const ABANDONED: usize = 128;

/// Look-ups of one tenant that may wait for their turn.
const WAITING: usize = 1_000;

/// How long a look-up is waited for. The system's own limit is half a minute or more.
const LONGEST: Duration = Duration::from_secs(5);

type Lookup = dyn Fn(String, u16) -> BoxFuture<'static, io::Result<Vec<SocketAddr>>> + Send + Sync;

/// Looks names up, a bounded number at once, of which each tenant has its share: one whose name
/// servers never answer waits for its own.
pub(super) struct Resolver {
    lookup: Box<Lookup>,
    lookups: FairSemaphore,
    abandoned: FairSemaphore,
    longest: Duration,
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
            lookups: FairSemaphore::new(LOOKUPS, WAITING),
            abandoned: FairSemaphore::new(ABANDONED, 0),
            longest: LONGEST,
        }
    }

    /// The addresses of a name, each with the port.
    ///
    /// # Errors
    /// What the system says; that it takes longer than five seconds; or that too many look-ups of the
    /// tenant wait already.
    pub(super) async fn resolve(
        &self,
        tenant: &TenantId,
        name: String,
        port: u16,
    ) -> io::Result<Vec<SocketAddr>> {
        let permit = self.lookups.acquire(tenant).await.map_err(io::Error::other)?;
        let mut lookup = (self.lookup)(name, port);
        let (abandoned, tenant, longest) = (self.abandoned.clone(), tenant.clone(), self.longest);
        let (tell, told) = oneshot::channel();
        // In a task of its own, because the system's resolver cannot be called off: whoever asked
        // may give up after a millisecond, and the thread that asks for him goes on.
        tokio::spawn(async move {
            let found = timeout(longest, &mut lookup).await;
            let late = found.is_err();
            let found = found.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
            // Whoever asked may have gone away.
            drop(tell.send(found));
            if late {
                // The name's tenant may ask for others meanwhile, up to its share of threads that
                // are lost in this way. Beyond it the permit stays with the thread.
                let lost = abandoned.try_acquire(&tenant);
                let permit = lost.is_none().then_some(permit);
                drop(lookup.await);
                drop((permit, lost));
            }
        });
        told.await.unwrap_or_else(|error| Err(io::Error::other(error)))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    };

    use futures_util::future::join_all;

    use super::*;

    fn tenant(name: &str) -> TenantId {
        TenantId::new(name).unwrap()
    }

    /// `slow.test` is never found, every other name at once.
    fn resolver(slow: &Arc<AtomicUsize>) -> Arc<Resolver> {
        let slow = Arc::clone(slow);
        let resolver = Resolver::new(move |name, port| {
            let slow = Arc::clone(&slow);
            Box::pin(async move {
                if name == "slow.test" {
                    slow.fetch_add(1, Ordering::SeqCst);
                    std::future::pending::<()>().await;
                }
                Ok(vec![([8, 8, 8, 8], port).into()])
            })
        });
        Arc::new(resolver)
    }

    #[tokio::test(start_paused = true)]
    async fn a_tenant_with_slow_names_waits_for_its_own_and_nobody_else_does() {
        let asked = Arc::new(AtomicUsize::new(0));
        let resolver = resolver(&asked);
        let flood: Vec<_> = (0..500)
            .map(|_| {
                let resolver = Arc::clone(&resolver);
                tokio::spawn(async move {
                    let found = resolver.resolve(&tenant("mallory"), "slow.test".to_owned(), 80);
                    found.await.unwrap_err().kind()
                })
            })
            .collect();
        while asked.load(Ordering::SeqCst) < LOOKUPS / 2 {
            tokio::task::yield_now().await;
        }
        // A neighbour's look-ups wait for no timer, not even a paused one.
        let started = tokio::time::Instant::now();
        for _ in 0..1000 {
            let found = resolver
                .resolve(&tenant("alice"), "fast.test".to_owned(), 80)
                .await;
            assert_eq!(found.unwrap(), ["8.8.8.8:80".parse().unwrap()]);
        }
        assert_eq!(started.elapsed(), Duration::ZERO);
        assert_eq!(asked.load(Ordering::SeqCst), LOOKUPS / 2);
        // Those that are given up make room for as many more, and then their threads are the limit.
        tokio::time::sleep(LONGEST * 10).await;
        assert_eq!(asked.load(Ordering::SeqCst), LOOKUPS / 2 + ABANDONED / 2);
        let found = resolver
            .resolve(&tenant("alice"), "fast.test".to_owned(), 80)
            .await;
        assert!(found.is_ok());
        let ended: Vec<_> = flood.iter().filter(|call| call.is_finished()).collect();
        assert_eq!(ended.len(), LOOKUPS / 2 + ABANDONED / 2);
        flood.iter().for_each(tokio::task::JoinHandle::abort);
        for ended in join_all(flood).await.into_iter().flatten() {
            assert_eq!(ended, io::ErrorKind::TimedOut);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn more_look_ups_than_may_wait_are_refused() {
        let resolver = resolver(&Arc::default());
        let calls: Vec<_> = (0..LOOKUPS / 2 + WAITING + 1)
            .map(|_| {
                let resolver = Arc::clone(&resolver);
                tokio::spawn(async move {
                    resolver
                        .resolve(&tenant("mallory"), "slow.test".to_owned(), 80)
                        .await
                })
            })
            .collect();
        let refused = loop {
            tokio::task::yield_now().await;
            if let Some(ended) = calls.iter().position(tokio::task::JoinHandle::is_finished) {
                break ended;
            }
        };
        assert_eq!(refused, calls.len() - 1);
        let error = calls.into_iter().next_back().unwrap().await.unwrap().unwrap_err();
        assert!(
            error
                .to_string()
                .contains("1000 calls of this tenant wait already"),
            "{error}"
        );
    }
}
