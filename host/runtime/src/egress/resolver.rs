//! Looks up the addresses of names.

use std::{io, net::SocketAddr, time::Duration};

use futures_util::future::BoxFuture;
use taskforge_domain::TenantId;
use tokio::{sync::oneshot, time::timeout};

use crate::fair::FairSemaphore;

/// Look-ups at once. Each takes a thread of the blocking pool, which has 512 and serves other work
/// too, for as long as the system takes.
const LOOKUPS: usize = 128;

/// Look-ups that nobody waits for any more and the system goes on with. They take threads too.
const ABANDONED: usize = 128;

/// Look-ups of one tenant that may wait for their turn.
const WAITING: usize = 1_000;

/// The limit on a look-up. The system's own is half a minute or more.
const LONGEST: Duration = Duration::from_secs(5);

type Lookup = dyn Fn(String, u16) -> BoxFuture<'static, io::Result<Vec<SocketAddr>>> + Send + Sync;

/// Looks names up, a bounded number at once. Tenants share that fairly, so a tenant whose name
/// servers never answer delays only itself.
pub(super) struct Resolver {
    lookup: Box<Lookup>,
    lookups: FairSemaphore,
    abandoned: FairSemaphore,
    longest: Duration,
}

impl Resolver {
    /// A resolver that asks the system.
    pub(super) fn system() -> Self {
        Self::new(|name, port| {
            Box::pin(async move { Ok(tokio::net::lookup_host((name, port)).await?.collect()) })
        })
    }

    /// A resolver that asks `lookup`, for tests.
    pub(super) fn new<F>(lookup: F) -> Self
    where
        F: Fn(String, u16) -> BoxFuture<'static, io::Result<Vec<SocketAddr>>>
            + Send
            + Sync
            + 'static,
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
    /// When the system fails, takes longer than five seconds, or too many look-ups of the tenant
    /// wait already.
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
        // In a task of its own, because the system's resolver cannot be cancelled: its thread goes
        // on after the caller has given up.
        tokio::spawn(async move {
            let found = timeout(longest, &mut lookup).await;
            let late = found.is_err();
            let found = found.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
            // Fails if the caller has gone.
            drop(tell.send(found));
            if late {
                // The tenant gets its permit back meanwhile, up to a share of threads that are lost
                // in this way. Beyond that the permit stays with the thread.
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

    use super::*;

    fn tenant(name: &str) -> TenantId {
        TenantId::new(name).unwrap()
    }

    /// `slow.test` is never found, every other name at once.
    fn resolver(slow: &Arc<AtomicUsize>, longest: Duration) -> Arc<Resolver> {
        let slow = Arc::clone(slow);
        let mut resolver = Resolver::new(move |name, port| {
            let slow = Arc::clone(&slow);
            Box::pin(async move {
                if name == "slow.test" {
                    slow.fetch_add(1, Ordering::SeqCst);
                    std::future::pending::<()>().await;
                }
                Ok(vec![([8, 8, 8, 8], port).into()])
            })
        });
        resolver.longest = longest;
        Arc::new(resolver)
    }

    type Call = tokio::task::JoinHandle<io::Result<Vec<SocketAddr>>>;

    fn flood(resolver: &Arc<Resolver>, count: usize) -> Vec<Call> {
        let call = |_| {
            let resolver = Arc::clone(resolver);
            let mallory = tenant("mallory");
            tokio::spawn(
                async move { resolver.resolve(&mallory, "slow.test".to_owned(), 80).await },
            )
        };
        (0..count).map(call).collect()
    }

    async fn until(count: &AtomicUsize, expected: usize) {
        let reached = async {
            while count.load(Ordering::SeqCst) < expected {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        timeout(Duration::from_secs(60), reached).await.unwrap();
    }

    async fn neighbours_find_theirs(resolver: &Resolver) {
        let alice = tenant("alice");
        let look_ups = async {
            for _ in 0..1000 {
                let found = resolver.resolve(&alice, "fast.test".to_owned(), 80).await;
                assert_eq!(found.unwrap(), ["8.8.8.8:80".parse().unwrap()]);
            }
        };
        timeout(Duration::from_secs(60), look_ups).await.unwrap();
    }

    #[tokio::test]
    async fn a_tenant_with_slow_names_waits_for_its_own_and_nobody_else_does() {
        // For ever, as far as this test goes.
        let asked = Arc::new(AtomicUsize::new(0));
        let resolver = resolver(&asked, Duration::from_secs(3600));
        let flood = flood(&resolver, 500);
        until(&asked, LOOKUPS / 2).await;
        neighbours_find_theirs(&resolver).await;
        assert_eq!(asked.load(Ordering::SeqCst), LOOKUPS / 2);
        flood.iter().for_each(Call::abort);
    }

    #[tokio::test]
    async fn a_look_up_that_is_given_up_makes_room_until_too_many_threads_are_lost() {
        let asked = Arc::new(AtomicUsize::new(0));
        let resolver = resolver(&asked, Duration::from_millis(20));
        let most = LOOKUPS / 2 + ABANDONED / 2;
        let flood = flood(&resolver, 500);
        until(&asked, most).await;
        let given_up = async {
            while flood.iter().filter(|call| call.is_finished()).count() < most {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        timeout(Duration::from_secs(60), given_up).await.unwrap();
        neighbours_find_theirs(&resolver).await;
        assert_eq!(asked.load(Ordering::SeqCst), most);
        let (ended, waiting): (Vec<_>, Vec<_>) = flood.into_iter().partition(Call::is_finished);
        assert_eq!(ended.len(), most);
        for call in ended {
            assert_eq!(call.await.unwrap().unwrap_err().kind(), io::ErrorKind::TimedOut);
        }
        waiting.iter().for_each(Call::abort);
    }

    #[tokio::test]
    async fn more_look_ups_than_may_wait_are_refused() {
        let asked = Arc::new(AtomicUsize::new(0));
        let resolver = resolver(&asked, Duration::from_secs(3600));
        let flood = flood(&resolver, LOOKUPS / 2 + WAITING);
        until(&asked, LOOKUPS / 2).await;
        while resolver.lookups.waiting(&tenant("mallory")) < WAITING {
            tokio::task::yield_now().await;
        }
        let refused = resolver.resolve(&tenant("mallory"), "slow.test".to_owned(), 80).await;
        let error = refused.unwrap_err();
        assert!(error.to_string().contains("1000 calls of this tenant wait already"), "{error}");
        flood.iter().for_each(Call::abort);
    }
}
