//! Clients and their pooled connections.
//!
//! A connection that lies in a pool was checked for the request that opened it, and nobody checks it again. So the
//! pool's key holds everything that the check saw: tenant, plugin, scheme, host, port and the addresses that were
//! allowed. A request with another answer from the resolver, of another tenant or by another plugin never meets the
//! connection.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use reqwest::{Client, redirect};
use rustls::{ClientConfig, RootCertStore};
use taskforge_domain::{Digest, TenantId};
use wasmtime_wasi_http::Error;

use super::{CONNECT_TIMEOUT, destination::Destination};

/// Clients kept; the one that was not used for longest goes first.
const MAX_CLIENTS: usize = 256;

/// How long an idle connection is kept.
const IDLE: Duration = Duration::from_secs(30);

/// Idle connections that one client keeps.
const IDLE_CONNECTIONS: usize = 4;

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
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    clients: HashMap<Key, (Client, u64)>,
    // Grows by one at each use; the smallest is the oldest.
    clock: u64,
}

impl Clients {
    pub(super) fn new() -> Result<Self, rustls::Error> {
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
            kept: Mutex::default(),
        })
    }

    /// The client for a key, made if need be.
    pub(super) fn get(&self, key: Key) -> Result<Client, Error> {
        if let Some(client) = self.kept().touch(&key) {
            return Ok(client);
        }
        let client = self.build(&key).map_err(|error| {
            tracing::error!(error = %error, "an HTTP client could not be built");
            Error::InternalError(None)
        })?;
        self.kept().insert(key, client.clone());
        Ok(client)
    }

    fn kept(&self) -> std::sync::MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn build(&self, key: &Key) -> reqwest::Result<Client> {
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
            .pool_max_idle_per_host(IDLE_CONNECTIONS)
            .build()
    }
}

impl Kept {
    fn touch(&mut self, key: &Key) -> Option<Client> {
        self.clock += 1;
        let (client, used) = self.clients.get_mut(key)?;
        *used = self.clock;
        Some(client.clone())
    }

    fn insert(&mut self, key: Key, client: Client) {
        if self.clients.len() >= MAX_CLIENTS {
            let oldest = self
                .clients
                .iter()
                .min_by_key(|(_, (_, used))| *used)
                .map(|(key, _)| key.clone());
            if let Some(oldest) = oldest {
                self.clients.remove(&oldest);
            }
        }
        self.clients.insert(key, (client, self.clock));
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
