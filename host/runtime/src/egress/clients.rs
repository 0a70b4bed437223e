//! Clients and their pooled connections.
//!
//! A pooled connection was checked for the request that opened it, and is not checked again. So the
//! pool's key holds everything that the check used: tenant, plugin, scheme, host, port and the
//! allowed addresses. A request of another tenant or plugin, or with another answer from the
//! resolver, never gets the connection.
//!
//! The number of connections is bounded ([`Division`]):
//!
//! - Each request has a permit.
//! - Connections that are being made have permits of their own, because the pool goes on making one
//!   that its request no longer needs.
//! - Clients that no request uses are dropped with their idle connections before there are too
//!   many.

use std::{
    cmp::Reverse,
    collections::HashMap,
    convert::Infallible,
    error::Error as StdError,
    future::{Ready, poll_fn, ready},
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use futures_util::future::BoxFuture;
use http::Uri;
use hyper_rustls::{HttpsConnector, MaybeHttpsStream};
use hyper_util::{
    client::legacy::{
        self,
        connect::{HttpConnector, dns::Name},
    },
    rt::{TokioExecutor, TokioIo, TokioTimer},
};
use rustls::ClientConfig;
use taskforge_domain::{Digest, TenantId};
use tokio::{net::TcpStream, time::timeout};
use tower_service::Service;

use super::{CHUNK, CONNECT_TIMEOUT, MAX_HEADERS, body::Outgoing, destination::Destination};
use crate::{
    authorities::Authorities,
    descriptors::{Division, IDLE_CONNECTIONS},
    fair::FairSemaphore,
};

/// How long an idle connection is kept.
const IDLE: Duration = Duration::from_secs(30);

/// Connections of one tenant that may wait until they are made.
const WAITING: usize = 4_096;

/// Lines of a response's head. No standard has a figure; the HTTP library's is 100.
const MAX_HEADER_LINES: usize = 1000;

/// The read buffer of an HTTP/1.1 connection, in bytes. A head must fit, and the largest one has
/// [`MAX_HEADERS`] bytes and four more in each line. An idle connection keeps its buffer, so the
/// number of those is bounded for the whole process ([`Division`]).
const READ_BUFFER: usize = MAX_HEADERS + (32 << 10);

/// How many bytes of a response an HTTP/2 server may send before they are read. Part of the charge
/// for an exchange.
const STREAM_WINDOW: u32 = 256 << 10;

/// The same for all responses of an HTTP/2 connection: no limit, or one unread response would stop
/// the others.
const CONNECTION_WINDOW: u32 = (1 << 31) - 1;

/// How often an HTTP/2 connection with requests pings its server, and how long each answer may
/// take.
const PING: Duration = Duration::from_secs(15);

/// After this time an idle connection probes its server.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// How long a server may accept no bytes before its connection ends, whatever the guest's limits
/// and also after the attempt: a connection takes a descriptor.
#[cfg(target_os = "linux")]
const STUCK: Duration = Duration::from_secs(60);

/// What a connection was checked for; the key of the pool.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Key {
    tenant: TenantId,
    plugin: Digest,
    tls: bool,
    host: String,
    port: u16,
    addresses: Vec<SocketAddr>,
    connect_timeout: Option<Duration>,
}

impl Key {
    pub(super) fn new(
        tenant: &TenantId,
        plugin: &Digest,
        destination: &Destination,
        addresses: Vec<SocketAddr>,
        connect_timeout: Option<Duration>,
    ) -> Self {
        Self {
            tenant: tenant.clone(),
            plugin: *plugin,
            tls: destination.is_tls,
            host: destination.authority.host().to_owned(),
            port: destination.port,
            addresses,
            connect_timeout,
        }
    }
}

/// Speaks HTTP/1.1 and HTTP/2 to one server.
pub(super) type Client = legacy::Client<Connector, Outgoing>;

pub(super) struct Clients {
    tls: Arc<ClientConfig>,
    connecting: FairSemaphore,
    kept: Mutex<Kept>,
}

/// A client, for one request.
pub(super) struct Lease {
    pub(super) client: Client,
    /// The client is in use while there is a clone of this.
    _in_use: Arc<()>,
}

struct Kept {
    most: usize,
    clients: HashMap<Key, Entry>,
    // Grows by one at each use; the smallest is the oldest.
    clock: u64,
}

struct Entry {
    client: Client,
    in_use: Arc<()>,
    used: u64,
}

impl Entry {
    fn lease(&self) -> Lease {
        Lease { client: self.client.clone(), _in_use: Arc::clone(&self.in_use) }
    }
}

impl Clients {
    pub(super) fn new(
        division: Division,
        authorities: &Authorities,
    ) -> Result<Self, rustls::Error> {
        let provider = rustls::crypto::ring::default_provider();
        let mut tls = ClientConfig::builder_with_provider(provider.into())
            .with_safe_default_protocol_versions()?
            .with_root_certificates(authorities.roots())
            .with_no_client_auth();
        // The server chooses. Plain connections use HTTP/1.1.
        tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Self {
            tls: Arc::new(tls),
            connecting: FairSemaphore::new(division.connecting, WAITING),
            kept: Mutex::new(Kept { most: division.clients, clients: HashMap::new(), clock: 0 }),
        })
    }

    /// The client for a key, made if need be. If all kept clients are in use, it is one that keeps
    /// no connections.
    pub(super) fn get(&self, key: Key) -> Lease {
        let has_room = {
            let mut kept = self.kept();
            if let Some(lease) = kept.touch(&key) {
                return lease;
            }
            kept.make_room()
        };
        let idle = if has_room { IDLE_CONNECTIONS } else { 0 };
        let client = self.build(&key, idle);
        if has_room {
            return self.kept().insert(key, client);
        }
        Lease { client, _in_use: Arc::default() }
    }

    fn kept(&self) -> std::sync::MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn build(&self, key: &Key, idle: usize) -> Client {
        // This client resolves only the name that it is for. A literal address is dialled as it is.
        let mut tcp = HttpConnector::new_with_resolver(Checked(key.addresses.clone()));
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_keepalive(Some(KEEP_ALIVE));
        #[cfg(target_os = "linux")]
        tcp.set_tcp_user_timeout(Some(STUCK));
        let connector = Connector {
            https: HttpsConnector::from((tcp, Arc::clone(&self.tls))),
            connecting: self.connecting.clone(),
            tenant: key.tenant.clone(),
            limit: key.connect_timeout.unwrap_or(CONNECT_TIMEOUT),
        };
        legacy::Client::builder(TokioExecutor::new())
            .timer(TokioTimer::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE)
            .pool_max_idle_per_host(idle)
            // Accepts what browsers accept: folded lines (RFC 9112, 5.2: a user agent replaces
            // them), blanks before a colon, invalid lines. `MAX_HEADERS` bounds their size.
            .http1_allow_obsolete_multiline_headers_in_responses(true)
            .http1_allow_spaces_after_header_name_in_responses(true)
            .http1_ignore_invalid_headers_in_responses(true)
            .http1_max_headers(MAX_HEADER_LINES)
            .http1_max_buf_size(READ_BUFFER)
            .http2_initial_stream_window_size(STREAM_WINDOW)
            .http2_initial_connection_window_size(CONNECTION_WINDOW)
            .http2_max_header_list_size(u32::try_from(MAX_HEADERS).unwrap_or(u32::MAX))
            .http2_max_send_buf_size(CHUNK)
            .http2_keep_alive_interval(PING)
            .http2_keep_alive_timeout(PING)
            .build(connector)
    }
}

impl Kept {
    fn touch(&mut self, key: &Key) -> Option<Lease> {
        self.clock += 1;
        let entry = self.clients.get_mut(key)?;
        entry.used = self.clock;
        Some(entry.lease())
    }

    /// Drops a client that no request uses: the least recently used one of the tenant that has most
    /// of them. `false`: there is none.
    fn make_room(&mut self) -> bool {
        if self.clients.len() < self.most {
            return true;
        }
        let mut counts = HashMap::<&TenantId, usize>::new();
        for key in self.clients.keys() {
            *counts.entry(&key.tenant).or_default() += 1;
        }
        let idle = self.clients.iter().filter(|(_, entry)| Arc::strong_count(&entry.in_use) == 1);
        let first = idle.max_by_key(|(key, entry)| (counts.get(&key.tenant), Reverse(entry.used)));
        let Some(key) = first.map(|(key, _)| key.clone()) else {
            return false;
        };
        self.clients.remove(&key).is_some()
    }

    /// Keeps a client, unless one for the same key was kept meanwhile, or the room is taken.
    fn insert(&mut self, key: Key, client: Client) -> Lease {
        let entry = Entry { client, in_use: Arc::default(), used: self.clock };
        if self.clients.len() >= self.most && !self.make_room() {
            return entry.lease();
        }
        self.clients.entry(key).or_insert(entry).lease()
    }
}

/// Makes a connection when it is its tenant's turn, within its time limit.
#[derive(Clone)]
pub(super) struct Connector {
    https: HttpsConnector<HttpConnector<Checked>>,
    connecting: FairSemaphore,
    tenant: TenantId,
    limit: Duration,
}

type BoxError = Box<dyn StdError + Send + Sync>;

impl Service<Uri> for Connector {
    type Response = MaybeHttpsStream<TokioIo<TcpStream>>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Self::Response, BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        // `call` waits for the clone to be ready.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, server: Uri) -> Self::Future {
        let mut this = self.clone();
        Box::pin(async move {
            let connect = async {
                let _turn = this.connecting.acquire(&this.tenant).await?;
                poll_fn(|context| this.https.poll_ready(context)).await?;
                this.https.call(server).await
            };
            let connected = timeout(this.limit, connect).await;
            connected.unwrap_or_else(|_| Err(io::Error::from(io::ErrorKind::TimedOut).into()))
        })
    }
}

/// Answers every lookup with the addresses that were checked.
#[derive(Clone)]
pub(super) struct Checked(Vec<SocketAddr>);

impl Service<Name> for Checked {
    type Response = std::vec::IntoIter<SocketAddr>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Name) -> Self::Future {
        ready(Ok(self.0.clone().into_iter()))
    }
}
