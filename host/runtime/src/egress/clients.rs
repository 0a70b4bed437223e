//! Clients and their pooled connections.
//!
//! A connection that lies in a pool was checked for the request that opened it, and nobody checks it again. So the
//! pool's key holds everything that the check saw: tenant, plugin, scheme, host, port and the addresses that were
//! allowed. A request with another answer from the resolver, of another tenant or by another plugin never meets the
//! connection.
//!
//! The number of connections is bounded ([`Division`]): whoever is asked for one has a permit for its
//! request; connections that are being made have permits of their own, since the pool goes on making
//! one that its request no longer needs; and clients that no request uses are dropped, with their idle
//! connections, before there are too many.

use std::{
    cmp::Reverse,
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use futures_util::future::BoxFuture;
use reqwest::{Client, redirect};
use rustls::{ClientConfig, RootCertStore};
use taskforge_domain::{Digest, TenantId};
use tower::{Layer, Service, ServiceExt as _};
use wasmtime_wasi_http::Error;

use super::{CONNECT_TIMEOUT, destination::Destination};
use crate::{
    descriptors::{Division, IDLE_CONNECTIONS},
    fair::{FairSemaphore, TooManyWaiting},
};

/// How long an idle connection is kept.
const IDLE: Duration = Duration::from_secs(30);

/// Connections of one tenant that may wait until they are made.
const WAITING: usize = 4_096;

/// Lines of a response's head. No standard has a figure, and the client's own is 100.
const MAX_HEADER_LINES: usize = 1000;

/// What a connection was checked for.
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
            tls: destination.url.scheme() == "https",
            host: destination.url.host_str().unwrap_or_default().to_owned(),
            port: destination.port,
            addresses,
            connect_timeout,
        }
    }
}

pub(super) struct Clients {
    tls: ClientConfig,
    connecting: FairSemaphore,
    kept: Mutex<Kept>,
}

/// A client, for one request.
pub(super) struct Lease {
    pub(super) client: Client,
    /// While there is a copy, the client is in use.
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
        Lease {
            client: self.client.clone(),
            _in_use: Arc::clone(&self.in_use),
        }
    }
}

impl Clients {
    pub(super) fn new(division: Division) -> Result<Self, rustls::Error> {
        let roots = RootCertStore {
            roots: webpki_roots::TLS_SERVER_ROOTS.to_vec(),
        };
        let provider = rustls::crypto::ring::default_provider();
        let tls = ClientConfig::builder_with_provider(provider.into())
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Self {
            tls,
            connecting: FairSemaphore::new(division.connecting, WAITING),
            kept: Mutex::new(Kept {
                most: division.clients,
                clients: HashMap::new(),
                clock: 0,
            }),
        })
    }

    /// The client for a key, made if need be. Where every client that is kept is in use, it is one
    /// that keeps no connection.
    pub(super) fn get(&self, key: Key) -> Result<Lease, Error> {
        let has_room = {
            let mut kept = self.kept();
            if let Some(lease) = kept.touch(&key) {
                return Ok(lease);
            }
            kept.make_room()
        };
        let idle = if has_room { IDLE_CONNECTIONS } else { 0 };
        let client = self.build(&key, idle).map_err(|error| {
            tracing::error!(error = %error, "an HTTP client could not be built");
            Error::InternalError(None)
        })?;
        if has_room {
            Ok(self.kept().insert(key, client))
        } else {
            Ok(Lease {
                client,
                _in_use: Arc::default(),
            })
        }
    }

    fn kept(&self) -> std::sync::MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn build(&self, key: &Key, idle: usize) -> reqwest::Result<Client> {
        Client::builder()
            .no_proxy()
            .redirect(redirect::Policy::none())
            .retry(reqwest::retry::never())
            .referer(false)
            .http1_only()
            // What every browser reads: folded lines (RFC 9112, 5.2: a user agent replaces them),
            // blanks before a colon, lines that are none. `MAX_HEADERS` bounds their size.
            .http1_allow_obsolete_multiline_headers_in_responses(true)
            .http1_allow_spaces_after_header_name_in_responses(true)
            .http1_ignore_invalid_headers_in_responses(true)
            .http1_max_headers(MAX_HEADER_LINES)
            .tls_backend_preconfigured(self.tls.clone())
            // The only names that this client can resolve are the one it is for. A literal address is dialled as it
            // is.
            .dns_resolver(Checked(key.addresses.clone()))
            .connect_timeout(key.connect_timeout.unwrap_or(CONNECT_TIMEOUT))
            .pool_idle_timeout(IDLE)
            .pool_max_idle_per_host(idle)
            .connector_layer(Turns {
                connecting: self.connecting.clone(),
                tenant: key.tenant.clone(),
            })
            .build()
    }
}

impl Kept {
    fn touch(&mut self, key: &Key) -> Option<Lease> {
        self.clock += 1;
        let entry = self.clients.get_mut(key)?;
        entry.used = self.clock;
        Some(entry.lease())
    }

    /// Drops a client that no request uses: of the tenant that has most of them, the one that was not
    /// used for longest. `false`: there is no room.
    fn make_room(&mut self) -> bool {
        if self.clients.len() < self.most {
            return true;
        }
        let mut counts = HashMap::<&TenantId, usize>::new();
        for key in self.clients.keys() {
            *counts.entry(&key.tenant).or_default() += 1;
        }
        let idle = self
            .clients
            .iter()
            .filter(|(_, entry)| Arc::strong_count(&entry.in_use) == 1);
        let first = idle.max_by_key(|(key, entry)| (counts.get(&key.tenant), Reverse(entry.used)));
        let Some(key) = first.map(|(key, _)| key.clone()) else {
            return false;
        };
        self.clients.remove(&key).is_some()
    }

    /// Keeps a client, unless somebody else has kept one for the same meanwhile, or has taken the room.
    fn insert(&mut self, key: Key, client: Client) -> Lease {
        let entry = Entry {
            client,
            in_use: Arc::default(),
            used: self.clock,
        };
        if self.clients.len() >= self.most && !self.make_room() {
            return entry.lease();
        }
        self.clients.entry(key).or_insert(entry).lease()
    }
}

/// Lets a client make a connection when it is its tenant's turn.
#[derive(Clone)]
struct Turns {
    connecting: FairSemaphore,
    tenant: TenantId,
}

impl<S> Layer<S> for Turns {
    type Service = InTurn<S>;

    fn layer(&self, connector: S) -> InTurn<S> {
        InTurn {
            turns: self.clone(),
            connector,
        }
    }
}

#[derive(Clone)]
struct InTurn<S> {
    turns: Turns,
    connector: S,
}

impl<S, R> Service<R> for InTurn<S>
where
    S: Service<R, Error: From<TooManyWaiting>, Future: Send> + Clone + Send + 'static,
    R: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<S::Response, S::Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        // The copy that is called below is asked.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: R) -> Self::Future {
        let Self { turns, connector } = self.clone();
        Box::pin(async move {
            let _turn = turns.connecting.acquire(&turns.tenant).await?;
            connector.oneshot(request).await
        })
    }
}

/// Answers every lookup with the addresses that were checked.
struct Checked(Vec<SocketAddr>);

impl reqwest::dns::Resolve for Checked {
    fn resolve(&self, _: reqwest::dns::Name) -> reqwest::dns::Resolving {
        let addresses: reqwest::dns::Addrs = Box::new(self.0.clone().into_iter());
        Box::pin(std::future::ready(Ok(addresses)))
    }
}
