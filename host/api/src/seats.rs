//! Admission control of connections: how many at once, how many of one address, and room for probes.
//!
//! Nobody is kept waiting in the system's backlog, where a probe could not be told from a flood.
//! Every connection is accepted; when there is no room, the one that has waited longest for its
//! client's next request is closed. If none has waited long enough, the new one may ask for
//! `/healthz` and `/readyz` only, on seats of their own, and everything else is told to come back.

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
pub(crate) const PROBE_SEATS: usize = 32;

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
pub(crate) struct Seats {
    total: usize,
    of_one_client: usize,
    taken: Mutex<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    seats: HashMap<u64, Arc<Seat>>,
    of_client: HashMap<Client, usize>,
    for_probes: usize,
    next: u64,
}

/// What is known of one connection.
#[derive(Debug)]
pub(crate) struct Seat {
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

/// A seat that is given back when this is dropped.
pub(crate) struct Taking {
    seats: Arc<Seats>,
    number: u64,
    pub(crate) seat: Arc<Seat>,
}

/// A request that is being answered, until this is dropped.
pub(crate) struct Busy(Arc<Seat>);

impl Seats {
    pub(crate) fn new(total: usize, of_one_client: usize) -> Arc<Self> {
        Arc::new(Self {
            total: total.max(1),
            of_one_client: of_one_client.max(1),
            taken: Mutex::default(),
        })
    }

    /// Takes a seat for a new connection. `None` if there is none, not even one for probes.
    pub(crate) fn take(self: &Arc<Self>, client: Client, now: Instant) -> Option<Taking> {
        let mut taken = self.lock();
        let of_client = taken.of_client.get(&client).copied().unwrap_or_default();
        let has_share = of_client < self.of_one_client;
        let is_room = has_share && taken.seats.len() - taken.for_probes < self.total;
        let is_room = is_room
            || taken.make_room(now, GIVES_WAY_AFTER, |seat| {
                !seat.for_probes && (has_share || seat.client == client)
            });
        let for_probes = !is_room;
        if for_probes
            && taken.for_probes >= PROBE_SEATS
            && !taken.make_room(now, Duration::ZERO, |seat| seat.for_probes)
        {
            return None;
        }
        let seat = Arc::new(Seat::new(client, for_probes, now));
        let number = taken.next;
        taken.next += 1;
        taken.add(number, Arc::clone(&seat));
        drop(taken);
        Some(Taking {
            seats: Arc::clone(self),
            number,
            seat,
        })
    }

    /// Closes the connection that has waited longest for its client, if one has waited for long.
    pub(crate) fn make_room(&self) -> bool {
        self.lock().make_room(Instant::now(), GIVES_WAY_AFTER, |_| true)
    }

    fn lock(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Taken {
    /// Removes one of these seats, which is counted no longer although its connection may take a
    /// moment to end. Those whose client never said anything go first.
    fn make_room(&mut self, now: Instant, after: Duration, which: impl Fn(&Seat) -> bool) -> bool {
        let waiting = self.seats.iter().filter(|(_, seat)| which(seat));
        let waiting = waiting.filter_map(|(number, seat)| {
            let waited = seat.waited(now).filter(|waited| *waited >= after)?;
            Some((!seat.has_spoken.load(Relaxed), waited, *number))
        });
        let Some((_, _, longest)) = waiting.max() else {
            return false;
        };
        if let Some(seat) = self.remove(longest) {
            metrics::counter!("taskforge_http_connections_closed_for_room_total").increment(1);
            seat.gives_way.cancel();
        }
        true
    }

    fn add(&mut self, number: u64, seat: Arc<Seat>) {
        if seat.for_probes {
            self.for_probes += 1;
        } else {
            *self.of_client.entry(seat.client).or_default() += 1;
        }
        self.seats.insert(number, seat);
    }

    fn remove(&mut self, number: u64) -> Option<Arc<Seat>> {
        let seat = self.seats.remove(&number)?;
        if seat.for_probes {
            self.for_probes -= 1;
        } else if let Some(count) = self.of_client.get_mut(&seat.client) {
            *count -= 1;
            if *count == 0 {
                self.of_client.remove(&seat.client);
            }
        }
        Some(seat)
    }
}

impl Seat {
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

    pub(crate) fn begin(self: &Arc<Self>) -> Busy {
        self.busy.fetch_add(1, Relaxed);
        Busy(Arc::clone(self))
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

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.waits();
        self.0.busy.fetch_sub(1, Relaxed);
    }
}

impl Drop for Taking {
    fn drop(&mut self) {
        self.seats.lock().remove(self.number);
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
        let (seats, now) = (Seats::new(2, 2), Instant::now());
        let busy = seats.take(client(1), now).unwrap();
        let silent = seats.take(client(2), now).unwrap();
        let _answering = busy.seat.begin();
        let early = seats.take(client(3), now).unwrap();
        assert!(early.seat.for_probes, "both have only just come");
        let late = seats.take(client(3), now + GIVES_WAY_AFTER).unwrap();
        assert!(!late.seat.for_probes);
        assert!(silent.seat.gives_way.is_cancelled() && !busy.seat.gives_way.is_cancelled());
    }

    #[test]
    fn one_address_has_its_share_and_no_more() {
        let (seats, now) = (Seats::new(10, 3), Instant::now());
        let first: Vec<_> = (0..3).map(|_| seats.take(client(1), now).unwrap()).collect();
        let _busy: Vec<_> = first.iter().map(|taking| taking.seat.begin()).collect();
        let later = now + GIVES_WAY_AFTER;
        assert!(seats.take(client(1), later).unwrap().seat.for_probes);
        assert!(!seats.take(client(2), later).unwrap().seat.for_probes);
    }

    #[test]
    fn a_flood_of_silent_connections_never_keeps_a_probe_out() {
        let (seats, now) = (Seats::new(4, 4), Instant::now());
        let take = || seats.take(client(1), now).unwrap();
        let flood: Vec<_> = (0..200).map(|_| take()).collect();
        let probe = take();
        assert!(probe.seat.for_probes && !probe.seat.gives_way.is_cancelled());
        let open = |taking: &&Taking| !taking.seat.gives_way.is_cancelled();
        assert_eq!(flood.iter().filter(open).count(), 4 + PROBE_SEATS - 1);
        drop((flood, probe));
        let taken = seats.lock();
        assert!(taken.seats.is_empty() && taken.of_client.is_empty() && taken.for_probes == 0);
    }

    #[test]
    fn an_ipv6_network_is_one_client_and_a_mapped_address_is_what_it_maps() {
        let of = |text: &str| Client::of(text.parse().unwrap());
        assert_eq!(of("2001:db8::1"), of("2001:db8::ffff:0:1"));
        assert_ne!(of("2001:db8::1"), of("2001:db8:0:1::1"));
        assert_eq!(of("::ffff:192.0.2.1"), client(1));
    }
}
