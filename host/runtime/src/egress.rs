//! Outgoing HTTP: allow-list, address guard, pools, caps.
//!
//! Each request passes these steps:
//!
//! 1. The plugin's grant must name the host and port that will be dialled.
//! 2. The name is resolved, once.
//! 3. Addresses that the grant does not allow are dropped.
//! 4. The connection goes to one of the rest and to nothing else.
//!
//! The guest follows a redirect itself, by a request that passes the same steps. No proxy, no
//! cookies, no decompression: the guest sees what came over the wire, and the server sees path,
//! query and headers as the guest gave them.

mod body;
mod clients;
mod destination;
mod error;
mod hold;
mod resolver;
mod upload;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use http::{Method, Request, Response};
use hyper_util::client::legacy::connect::capture_connection;
use ipnet::IpNet;
use taskforge_domain::{FailureKind, HttpGrant, PluginInfo, TenantId};
use tokio::time::{Instant, timeout_at};
use wasmtime_wasi_http::{Error, RequestOptions, WasiBody, WasiHttpHooks};

use crate::{
    authorities::Authorities,
    budget::{Budget, Charge, OverBudget},
    descriptors::Division,
    fair::FairSemaphore,
    host::{Attempt, SharedLog, headers},
    threads::background::Background,
};
use clients::Clients;
use destination::{Destination, Refusal};
use resolver::Resolver;
use upload::{Turn, Upload};

pub(crate) use error::body_error_code;

/// The limit on making a connection, TLS handshake included, if the guest sets none.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// The longest time limit. Guests may ask for centuries, at which clocks overflow.
const LONGEST: Duration = Duration::from_secs(24 * 3600);

/// Requests of one tenant that may wait for a connection.
const WAITING: usize = 4_096;

/// The longest limit on making a connection, whatever the guest asks for, because that takes a
/// descriptor.
const LONGEST_CONNECT: Duration = Duration::from_secs(60);

/// Response headers, in bytes of names and values.
const MAX_HEADERS: usize = 128 << 10;

/// The most memory of an exchange besides its headers and the parts of bodies that wait to be read
/// or sent, in bytes: the HTTP library's buffers for reading (160 KiB, or the 256 KiB that an
/// HTTP/2 server may send ahead) and for sending (160 KiB), and the state of library and TLS.
const EXCHANGE: u64 = 512 << 10;

/// The most bytes of one write to a request's body. At most two writes wait to be sent.
const CHUNK: usize = 64 << 10;

/// Shared by all attempts: the clients with their pooled connections, the resolver, and the private
/// networks that this host allows to every plugin whose grant names a host there.
pub(crate) struct Egress {
    clients: Clients,
    resolver: Resolver,
    // A request keeps its permit until its response was read, so permits bound the connections in
    // use.
    requests: FairSemaphore,
    house: HttpGrant,
    background: Arc<Background>,
}

impl Egress {
    /// `descriptors`: the most that its connections may take.
    pub(crate) fn new(
        descriptors: usize,
        allow_private: Vec<IpNet>,
        authorities: &Authorities,
        background: Arc<Background>,
    ) -> Result<Self, rustls::Error> {
        let division = Division::of(descriptors);
        Self::resolving(Resolver::system(), division, allow_private, authorities, background)
    }

    fn resolving(
        resolver: Resolver,
        division: Division,
        allow_private: Vec<IpNet>,
        authorities: &Authorities,
        background: Arc<Background>,
    ) -> Result<Self, rustls::Error> {
        Ok(Self {
            clients: Clients::new(division, authorities)?,
            resolver,
            requests: FairSemaphore::new(division.requests, WAITING),
            house: HttpGrant { hosts: Vec::new(), private_networks: allow_private },
            background,
        })
    }
}

/// The outgoing requests of one attempt.
pub(crate) struct Outbound {
    egress: Arc<Egress>,
    plugin: Arc<PluginInfo>,
    tenant: TenantId,
    log: SharedLog,
    budget: Budget,
    requests: u32,
    received: Arc<AtomicU64>,
    sent: Arc<AtomicU64>,
}

impl Outbound {
    pub(crate) fn new(attempt: &Attempt, log: SharedLog, budget: Budget) -> Self {
        Self {
            egress: Arc::clone(&attempt.egress),
            plugin: Arc::clone(&attempt.plugin),
            tenant: attempt.tenant.clone(),
            log,
            budget,
            requests: 0,
            received: Arc::new(AtomicU64::new(0)),
            sent: Arc::new(AtomicU64::new(0)),
        }
    }

    /// Requests that the guest made, refused ones included.
    pub(crate) const fn requests(&self) -> u32 {
        self.requests
    }

    /// Bytes of response bodies so far.
    pub(crate) fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    /// Makes all checks that need no I/O, and charges for the exchange.
    fn admit(&mut self, request: &Request<WasiBody>) -> Result<(Destination, Charge), Error> {
        self.requests = self.requests.saturating_add(1);
        let limit = self.plugin.limits.http_requests;
        if self.requests > limit {
            let text =
                format!("an HTTP request was refused: the limit is {limit} requests an attempt");
            self.log.lock().refuse(FailureKind::HostCallLimit, text);
            return Err(Error::ConnectionLimitReached);
        }
        if request.method() == Method::CONNECT {
            return Err(Error::HttpRequestMethodInvalid);
        }
        let destination =
            Destination::granted(request.method(), request.uri(), &self.plugin.grants.http)
                .map_err(|refusal| refuse(&self.log, refusal))?;
        let uri = request.uri();
        let path = uri.path_and_query().map_or(0, |path| path.as_str().len());
        let authority = uri.authority().map_or(0, |authority| authority.as_str().len());
        let bytes = EXCHANGE + headers(request.headers()) + (path + authority) as u64;
        let charge = self.budget.charge("the HTTP exchange", bytes);
        Ok((destination, charge.map_err(|over| no_room(&self.log, &over))?))
    }
}

fn refuse(log: &SharedLog, refusal: Refusal) -> Error {
    match refusal {
        Refusal::Uri(text) => {
            log.lock().note(taskforge_domain::LogLevel::Error, &text);
            Error::HttpRequestUriInvalid
        }
        Refusal::NotGranted(text) => {
            log.lock().refuse(FailureKind::CapabilityDenied, text);
            Error::HttpRequestDenied
        }
        Refusal::PrivateAddress(text) => {
            log.lock().refuse(FailureKind::CapabilityDenied, text);
            Error::DestinationIpProhibited
        }
        Refusal::Lookup(rcode) => Error::DnsError { rcode: Some(rcode), info_code: None },
        Refusal::LookupTimeout => Error::DnsTimeout,
    }
}

/// Refuses a request for which the budget has no room. The guest may wait for another to end, or
/// give up because of this.
fn no_room(log: &SharedLog, over: &OverBudget) -> Error {
    log.lock().refuse(FailureKind::OutOfMemory, over.to_string());
    Error::ConnectionLimitReached
}

type Answer = (Response<WasiBody>, Box<dyn Future<Output = Result<(), Error>> + Send>);

impl WasiHttpHooks for Outbound {
    /// The client writes the `Host` header of the address that it dials; guests cannot set one.
    fn set_host_header(&mut self) -> bool {
        false
    }

    fn p2_outgoing_body_chunk_size(&mut self) -> usize {
        CHUNK
    }

    fn send_request(
        &mut self,
        request: Request<WasiBody>,
        options: Option<RequestOptions>,
        _: Box<dyn Future<Output = Result<(), Error>> + Send>,
    ) -> Box<dyn Future<Output = Result<Answer, Error>> + Send> {
        let admitted = self.admit(&request);
        let exchange = Exchange {
            egress: Arc::clone(&self.egress),
            plugin: Arc::clone(&self.plugin),
            tenant: self.tenant.clone(),
            log: self.log.clone(),
            received: Arc::clone(&self.received),
            sent: Arc::clone(&self.sent),
            budget: self.budget.clone(),
            options: options.unwrap_or_default(),
        };
        Box::new(async move {
            let background = Arc::clone(&exchange.egress.background);
            let (destination, charge) = admitted?;
            // The connection is then driven there too: what comes over it takes nothing from the
            // threads that commit and claim.
            let response =
                background.continued(Box::pin(exchange.run(destination, charge, request))).await;
            let response = response.unwrap_or(Err(Error::InternalError(None)))?;
            // Connections belong to the client's pool, so there is nothing left to drive.
            let nothing: Box<dyn Future<Output = Result<(), Error>> + Send> =
                Box::new(async { Ok(()) });
            Ok((response, nothing))
        })
    }
}

/// One request and its response.
struct Exchange {
    egress: Arc<Egress>,
    plugin: Arc<PluginInfo>,
    tenant: TenantId,
    log: SharedLog,
    received: Arc<AtomicU64>,
    sent: Arc<AtomicU64>,
    budget: Budget,
    options: RequestOptions,
}

impl Exchange {
    async fn run(
        self,
        destination: Destination,
        charge: Charge,
        request: Request<WasiBody>,
    ) -> Result<Response<WasiBody>, Error> {
        let connect_timeout = self.options.connect_timeout.map(|limit| limit.min(LONGEST_CONNECT));
        let started = Instant::now();
        let lookup_limit = started + connect_timeout.unwrap_or(CONNECT_TIMEOUT);
        let addresses = timeout_at(lookup_limit, self.resolve(&destination))
            .await
            .map_err(|_| Error::DnsTimeout)??;
        let permit = timeout_at(lookup_limit, self.egress.requests.acquire(&self.tenant))
            .await
            .map_err(|_| self.no_room("none was free in time"))?
            .map_err(|refused| self.no_room(&refused.to_string()))?;
        let key = clients::Key::new(
            &self.tenant,
            &self.plugin.digest,
            &destination,
            addresses,
            connect_timeout,
        );
        let lease = self.egress.clients.get(key);

        let (parts, outgoing) = request.into_parts();
        let sent = body::Sent {
            bytes: Arc::clone(&self.sent),
            limit: self.plugin.limits.http_bytes,
            log: self.log.clone(),
        };
        let (outgoing, upload) = body::outgoing(&parts, outgoing, sent).await?;
        let mut request = Request::new(outgoing);
        *request.uri_mut() =
            destination.uri(&parts.uri).map_err(|_| Error::HttpRequestUriInvalid)?;
        *request.method_mut() = parts.method;
        *request.headers_mut() = parts.headers;

        let mut connection = capture_connection(&mut request);
        let answer = async {
            let answer = lease.client.request(request).await;
            answer.map_err(|failed| error::of_exchange(&failed))
        };
        let response = tokio::select! {
            // An answer that is there is in time, however late this is polled.
            biased;
            answer = answer => answer?,
            error = async {
                connection.wait_for_connection_metadata().await;
                upload.connected();
                self.late(&upload).await
            } => {
                upload.cut();
                return Err(error);
            }
        };
        if let Some(limit) = self.options.between_bytes_timeout.filter(|_| !upload.is_over()) {
            tokio::spawn(upload.keep_moving(limit.min(LONGEST)));
        }
        let response = self.accept(response, charge)?;
        Ok(response.map(|body| hold::holding(body, (permit, lease))))
    }

    /// Waits until the server is late by the guest's limits: it does not read the body, or does not
    /// answer.
    async fn late(&self, upload: &Upload) -> Error {
        let limited =
            async |limit: Option<Duration>, since: fn(Turn) -> Option<Instant>| match limit {
                Some(limit) => upload.late(limit.min(LONGEST), since).await,
                None => std::future::pending().await,
            };
        tokio::select! {
            () = limited(self.options.first_byte_timeout, Turn::answers) => {}
            () = limited(self.options.between_bytes_timeout, Turn::takes) => {}
        }
        match upload.turn() {
            Turn::Server(_) => Error::ConnectionWriteTimeout,
            _ => Error::HttpResponseTimeout,
        }
    }

    /// The error when there is no connection for a request.
    fn no_room(&self, why: &str) -> Error {
        let text = format!(
            "an HTTP request was given up: the tenant's share of connections is in use; {why}"
        );
        self.log.lock().note(taskforge_domain::LogLevel::Error, &text);
        Error::ConnectionLimitReached
    }

    async fn resolve(&self, destination: &Destination) -> Result<Vec<std::net::SocketAddr>, Error> {
        let found = match destination.literal_address() {
            Some(address) => Ok(vec![address]),
            None => destination.look_up(&self.egress.resolver, &self.tenant).await,
        };
        let grants = [&self.plugin.grants.http, &self.egress.house];
        let allowed = found.and_then(|found| destination.allowed(&found, &grants));
        allowed.map_err(|refusal| refuse(&self.log, refusal))
    }

    fn accept(
        self,
        response: Response<hyper::body::Incoming>,
        mut charge: Charge,
    ) -> Result<Response<WasiBody>, Error> {
        let texts: usize =
            response.headers().iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
        if texts > MAX_HEADERS {
            return Err(Error::HttpResponseHeaderSectionSize(u32::try_from(texts).ok()));
        }
        let paid = charge.add("the response's headers", headers(response.headers()));
        paid.map_err(|over| no_room(&self.log, &over))?;
        let quiet = self.options.between_bytes_timeout.map(|limit| limit.min(LONGEST));
        let received = body::Received {
            bytes: self.received,
            limit: self.plugin.limits.http_bytes,
            log: self.log,
            budget: self.budget,
            _exchange: charge,
        };
        Ok(response.map(|incoming| body::incoming(incoming, received, quiet)))
    }
}

#[cfg(test)]
mod tests;
