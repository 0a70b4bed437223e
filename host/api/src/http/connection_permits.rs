//! Admission control of connections: how many at once, how many of one address, and room for
//! probes.
//!
//! Nobody is kept waiting in the system's backlog, where a probe could not be told from a flood.
//! Every connection is accepted; when there is no permit left, the one that has waited longest for
//! its client's next request is closed. If none has waited long enough, the new one may ask for
//! `/healthz` and `/readyz` only, on permits of their own, and everything else is told to come
//! back.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// A connection without a request gives way to a new one after this time, not before: whoever has
/// just connected is about to send something.
const GIVES_WAY_AFTER: Duration = Duration::from_secs(1);

/// Connections for probes, beyond all others.
pub(crate) const PROBE_PERMITS: usize = 32;

/// Whom connections are counted for: an IPv4 address, or the 64 bits of an IPv6 address that name a
/// network, because whoever has one address of it has all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Client(IpAddr);

impl Client {
    pub(crate) fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V6(address) => {
                let network = address.to_bits() >> 64 << 64;
                Self(Ipv6Addr::from_bits(network).into())
            }
            address @ IpAddr::V4(_) => Self(address),
        }
    }
}

/// The connections of one listener.
#[derive(Debug)]
pub(crate) struct ConnectionPermits {
    total: usize,
    of_one_client: usize,
    granted: Mutex<Granted>,
}

#[derive(Debug, Default)]
struct Granted {
    connections: HashMap<u64, Arc<ConnectionState>>,
    of_client: HashMap<Client, usize>,
    for_probes: usize,
    next: u64,
}

/// What is known of one connection.
#[derive(Debug)]
pub(crate) struct ConnectionState {
    pub(crate) client: Client,
    /// Whether nothing but probes is answered on it.
    pub(crate) for_probes: bool,
    opened: Instant,
    /// Whether its client ever sent a byte.
    has_spoken: AtomicBool,
    /// Requests that are being answered: one, and those whose client has stopped waiting.
    busy: AtomicUsize,
    /// Whether an answer has not been taken by the client yet.
    is_writing: AtomicBool,
    /// Whether everything that was read belongs to requests that were read to their end.
    is_read_out: AtomicBool,
    /// When it began to wait for its client, in milliseconds after `opened`.
    waits_since: AtomicU64,
    /// Cancelled when it has to give way.
    pub(crate) gives_way: CancellationToken,
}

/// A permit, which is given back when this is dropped.
pub(crate) struct ConnectionPermit {
    permits: Arc<ConnectionPermits>,
    number: u64,
    pub(crate) connection: Arc<ConnectionState>,
}

/// A request that is being answered, until this is dropped.
pub(crate) struct RequestInProgress(Arc<ConnectionState>);

impl ConnectionPermits {
    pub(crate) fn new(total: usize, of_one_client: usize) -> Arc<Self> {
        Arc::new(Self {
            total: total.max(1),
            of_one_client: of_one_client.max(1),
            granted: Mutex::default(),
        })
    }

    /// Takes a permit for a new connection. `None` if there is none, not even one for probes.
    pub(crate) fn take(self: &Arc<Self>, client: Client, now: Instant) -> Option<ConnectionPermit> {
        let mut granted = self.lock();
        let of_client = granted.of_client.get(&client).copied().unwrap_or_default();
        let has_share = of_client < self.of_one_client;
        let is_room = has_share && granted.connections.len() - granted.for_probes < self.total;
        let is_room = is_room
            || granted.make_room(now, GIVES_WAY_AFTER, |connection| {
                !connection.for_probes && (has_share || connection.client == client)
            });
        let for_probes = !is_room;
        if for_probes
            && granted.for_probes >= PROBE_PERMITS
            && !granted.make_room(now, Duration::ZERO, |connection| connection.for_probes)
        {
            return None;
        }
        let connection = Arc::new(ConnectionState::new(client, for_probes, now));
        let number = granted.next;
        granted.next += 1;
        granted.add(number, Arc::clone(&connection));
        drop(granted);
        Some(ConnectionPermit { permits: Arc::clone(self), number, connection })
    }

    /// Closes the connection that has waited longest for its client, if one has waited for long.
    pub(crate) fn make_room(&self) -> bool {
        self.lock().make_room(Instant::now(), GIVES_WAY_AFTER, |_| true)
    }

    fn lock(&self) -> MutexGuard<'_, Granted> {
        self.granted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Granted {
    /// Removes the permit of one of these, which is counted no longer although its connection may
    /// take a moment to end. Those whose client never said anything go first.
    fn make_room(
        &mut self,
        now: Instant,
        after: Duration,
        which: impl Fn(&ConnectionState) -> bool,
    ) -> bool {
        let waiting = self.connections.iter().filter(|(_, connection)| which(connection));
        let waiting = waiting.filter_map(|(number, connection)| {
            let waited = connection.waited(now).filter(|waited| *waited >= after)?;
            Some((!connection.has_spoken.load(Relaxed), waited, *number))
        });
        let Some((_, _, longest)) = waiting.max() else {
            return false;
        };
        if let Some(connection) = self.remove(longest) {
            metrics::counter!("taskforge_http_connections_closed_for_room_total").increment(1);
            connection.gives_way.cancel();
        }
        true
    }

    fn add(&mut self, number: u64, connection: Arc<ConnectionState>) {
        if connection.for_probes {
            self.for_probes += 1;
        } else {
            *self.of_client.entry(connection.client).or_default() += 1;
        }
        self.connections.insert(number, connection);
    }

    fn remove(&mut self, number: u64) -> Option<Arc<ConnectionState>> {
        let connection = self.connections.remove(&number)?;
        if connection.for_probes {
            self.for_probes -= 1;
        } else if let Some(count) = self.of_client.get_mut(&connection.client) {
            *count -= 1;
            if *count == 0 {
                self.of_client.remove(&connection.client);
            }
        }
        Some(connection)
    }
}

impl ConnectionState {
    fn new(client: Client, for_probes: bool, now: Instant) -> Self {
        Self {
            client,
            for_probes,
            opened: now,
            has_spoken: AtomicBool::new(false),
            busy: AtomicUsize::new(0),
            is_writing: AtomicBool::new(false),
            is_read_out: AtomicBool::new(true),
            waits_since: AtomicU64::new(0),
            gives_way: CancellationToken::new(),
        }
    }

    /// How long its client has been waited for; `None` while a request is answered.
    fn waited(&self, now: Instant) -> Option<Duration> {
        let since = self.opened + Duration::from_millis(self.waits_since.load(Relaxed));
        (!self.is_in_use()).then(|| now.saturating_duration_since(since))
    }

    /// Whether a request is being answered, or its answer is being sent.
    pub(crate) fn is_in_use(&self) -> bool {
        self.busy.load(Relaxed) > 0 || self.is_writing.load(Relaxed)
    }

    pub(crate) fn begin(self: &Arc<Self>) -> RequestInProgress {
        self.busy.fetch_add(1, Relaxed);
        RequestInProgress(Arc::clone(self))
    }

    /// Something was read.
    pub(crate) fn heard(&self) {
        self.has_spoken.store(true, Relaxed);
        self.is_read_out.store(false, Relaxed);
    }

    /// A request is answered, whether or not it was read to its end.
    pub(crate) fn answered(&self, is_read_out: bool) {
        self.is_read_out.store(is_read_out, Relaxed);
    }

    pub(crate) fn is_read_out(&self) -> bool {
        self.is_read_out.load(Relaxed)
    }

    /// Something is to be written.
    pub(crate) fn writes(&self) {
        self.is_writing.store(true, Relaxed);
    }

    /// The client has taken everything that was written.
    pub(crate) fn wrote(&self) {
        if self.is_writing.swap(false, Relaxed) {
            self.waits();
        }
    }

    fn waits(&self) {
        let since = u64::try_from(self.opened.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.waits_since.store(since, Relaxed);
    }
}

impl Drop for RequestInProgress {
    fn drop(&mut self) {
        self.0.waits();
        self.0.busy.fetch_sub(1, Relaxed);
    }
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        self.permits.lock().remove(self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(last: u8) -> Client {
        Client::of([192, 0, 2, last].into())
    }

    #[test]
    fn the_longest_silent_connection_gives_way_and_a_busy_one_does_not() {
        let (permits, now) = (ConnectionPermits::new(2, 2), Instant::now());
        let busy = permits.take(client(1), now).unwrap();
        let silent = permits.take(client(2), now).unwrap();
        let _answering = busy.connection.begin();
        let early = permits.take(client(3), now).unwrap();
        assert!(early.connection.for_probes, "both have only just come");
        let late = permits.take(client(3), now + GIVES_WAY_AFTER).unwrap();
        assert!(!late.connection.for_probes);
        assert!(
            silent.connection.gives_way.is_cancelled() && !busy.connection.gives_way.is_cancelled()
        );
    }

    #[test]
    fn one_address_has_its_share_and_no_more() {
        let (permits, now) = (ConnectionPermits::new(10, 3), Instant::now());
        let first: Vec<_> = (0..3).map(|_| permits.take(client(1), now).unwrap()).collect();
        let _busy: Vec<_> = first.iter().map(|permit| permit.connection.begin()).collect();
        let later = now + GIVES_WAY_AFTER;
        assert!(permits.take(client(1), later).unwrap().connection.for_probes);
        assert!(!permits.take(client(2), later).unwrap().connection.for_probes);
    }

    #[test]
    fn a_flood_of_silent_connections_never_keeps_a_probe_out() {
        let (permits, now) = (ConnectionPermits::new(4, 4), Instant::now());
        let take = || permits.take(client(1), now).unwrap();
        let flood: Vec<_> = (0..200).map(|_| take()).collect();
        let probe = take();
        assert!(probe.connection.for_probes && !probe.connection.gives_way.is_cancelled());
        let open = |permit: &&ConnectionPermit| !permit.connection.gives_way.is_cancelled();
        assert_eq!(flood.iter().filter(open).count(), 4 + PROBE_PERMITS - 1);
        drop((flood, probe));
        let granted = permits.lock();
        assert!(
            granted.connections.is_empty()
                && granted.of_client.is_empty()
                && granted.for_probes == 0
        );
    }

    #[test]
    fn an_ipv6_network_is_one_client_and_a_mapped_address_is_what_it_maps() {
        let of = |text: &str| Client::of(text.parse().unwrap());
        assert_eq!(of("2001:db8::1"), of("2001:db8::ffff:0:1"));
        assert_ne!(of("2001:db8::1"), of("2001:db8:0:1::1"));
        assert_eq!(of("::ffff:192.0.2.1"), client(1));
    }
}
