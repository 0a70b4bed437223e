//! Outgoing HTTP: allow-list, address guard, pools, caps.
//!
//! A request passes in this order: the plugin's grant must name the host and port that will really be dialled; the
//! name is resolved once; addresses that the grant does not allow are dropped; the connection goes to one of the rest
//! and to nothing else. A redirect is the guest's to follow, as a request that passes the same way. No proxy, no
//! cookies, no decompression: the guest sees what came over the wire.

mod body;
mod clients;
mod destination;
mod error;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use http::{Method, Request, Response};
use taskforge_domain::{FailureKind, PluginInfo, TenantId};
use tokio::time::{Instant, timeout_at};
use wasmtime_wasi_http::{Error, RequestOptions, WasiBody, WasiHttpHooks};

use crate::host::{Attempt, SharedLog};
use clients::Clients;
use destination::{Destination, Refusal};

pub(crate) use error::body_error_code;

/// How long a connection, TLS handshake included, may take to be made when the guest sets no limit of its own.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// The longest time limit that is worth setting; guests may ask for centuries, and clocks overflow.
const LONGEST: Duration = Duration::from_secs(24 * 3600);

/// Response headers, in bytes of names and values.
const MAX_HEADERS: usize = 128 << 10;

/// What all attempts share: the clients with their pooled connections, and the bound on name lookups.
pub(crate) struct Egress {
    clients: Clients,
    lookups: tokio::sync::Semaphore,
}

/// Lookups at once. Each holds a thread of the blocking pool for as long as the resolver takes, and others need that
/// pool too.
const LOOKUPS: usize = 64;

impl Egress {
    pub(crate) fn new() -> Result<Self, rustls::Error> {
        Ok(Self {
            clients: Clients::new()?,
            lookups: tokio::sync::Semaphore::new(LOOKUPS),
        })
    }
}

/// The way out of one attempt.
pub(crate) struct Outbound {
    egress: Arc<Egress>,
    plugin: Arc<PluginInfo>,
    tenant: TenantId,
    log: SharedLog,
    requests: u32,
    received: Arc<AtomicU64>,
}

impl Outbound {
    pub(crate) fn new(attempt: &Attempt, log: SharedLog) -> Self {
        Self {
            egress: Arc::clone(&attempt.egress),
            plugin: Arc::clone(&attempt.plugin),
            tenant: attempt.tenant.clone(),
            log,
            requests: 0,
            received: Arc::new(AtomicU64::new(0)),
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

    /// Everything that can be said before any I/O.
    fn admit(&mut self, request: &Request<WasiBody>) -> Result<Destination, Error> {
        self.requests = self.requests.saturating_add(1);
        let limit = self.plugin.limits.http_requests;
        if self.requests > limit {
            let text = format!("an HTTP request was refused: the limit is {limit} requests an attempt");
            self.log.lock().refuse(FailureKind::HostCallLimit, text);
            return Err(Error::ConnectionLimitReached);
        }
        if request.method() == Method::CONNECT {
            return Err(Error::HttpRequestMethodInvalid);
        }
        Destination::granted(request.uri(), &self.plugin.grants.http)
            .map_err(|refusal| refuse(&self.log, refusal))
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
        Refusal::Lookup(rcode) => Error::DnsError {
            rcode: Some(rcode),
            info_code: None,
        },
    }
}

type Answer = (
    Response<WasiBody>,
    Box<dyn Future<Output = Result<(), Error>> + Send>,
);

impl WasiHttpHooks for Outbound {
    /// The client writes the `Host` header of the address that it dials; guests cannot set one.
    fn set_host_header(&mut self) -> bool {
        false
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
            options: options.unwrap_or_default(),
        };
        Box::new(async move {
            let response = exchange.run(admitted?, request).await?;
            // Connections belong to the client's pool, so there is nothing left to drive.
            let nothing: Box<dyn Future<Output = Result<(), Error>> + Send> = Box::new(async { Ok(()) });
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
    options: RequestOptions,
}

impl Exchange {
    async fn run(
        self,
        destination: Destination,
        request: Request<WasiBody>,
    ) -> Result<Response<WasiBody>, Error> {
        let connect_timeout = self.options.connect_timeout.map(|limit| limit.min(LONGEST));
        let started = Instant::now();
        let lookup_limit = started + connect_timeout.unwrap_or(CONNECT_TIMEOUT);
        let addresses = timeout_at(lookup_limit, self.resolve(&destination))
            .await
            .map_err(|_| Error::DnsTimeout)??;
        let key = clients::Key::new(
            &self.tenant,
            &self.plugin.digest,
            &destination,
            addresses,
            connect_timeout,
        );
        let client = self.egress.clients.get(key)?;

        let (parts, outgoing) = request.into_parts();
        let outgoing = body::outgoing(&parts, outgoing).await?;
        let request = client
            .request(parts.method, destination.url)
            .headers(parts.headers)
            .body(outgoing);

        let answer = async { request.send().await.map_err(|failed| error::of_exchange(&failed)) };
        let response = match self.options.first_byte_timeout {
            // The client does not say when it has connected, so the time for that is added rather than started anew.
            Some(limit) => {
                let limit = limit.min(LONGEST) + connect_timeout.unwrap_or_default();
                timeout_at(started + limit, answer)
                    .await
                    .map_err(|_| Error::HttpResponseTimeout)??
            }
            None => answer.await?,
        };
        self.accept(response.into())
    }

    async fn resolve(&self, destination: &Destination) -> Result<Vec<std::net::SocketAddr>, Error> {
        let found = match destination.literal_address() {
            Some(address) => Ok(vec![address]),
            None => {
                // Closed never; a lookup without a permit would be the lesser evil.
                let _permit = self.egress.lookups.acquire().await.ok();
                destination.look_up().await
            }
        };
        let allowed = found.and_then(|found| destination.allowed(&found, &self.plugin.grants.http));
        allowed.map_err(|refusal| refuse(&self.log, refusal))
    }

    fn accept(self, response: Response<reqwest::Body>) -> Result<Response<WasiBody>, Error> {
        let headers: usize = response
            .headers()
            .iter()
            .map(|(name, value)| name.as_str().len() + value.len())
            .sum();
        if headers > MAX_HEADERS {
            return Err(Error::HttpResponseHeaderSectionSize(u32::try_from(headers).ok()));
        }
        let quiet = self.options.between_bytes_timeout.map(|limit| limit.min(LONGEST));
        let limit = self.plugin.limits.http_bytes;
        Ok(response.map(|incoming| body::incoming(incoming, self.received, limit, quiet, self.log)))
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::{BodyExt as _, Empty};
    use taskforge_domain::{Digest, Grants, HttpGrant, Json, Limits, TaskType};
    use taskforge_testing::web::Server;

    use super::*;

    async fn ask(server: &Server, options: RequestOptions) -> Result<Response<WasiBody>, Error> {
        let grant = HttpGrant {
            hosts: vec!["*:*".parse().unwrap()],
            private_networks: vec!["127.0.0.0/8".parse().unwrap()],
        };
        let uri = server.url("/").parse().unwrap();
        let destination = Destination::granted(&uri, &grant).unwrap();
        let plugin = PluginInfo {
            name: TaskType::new("test").unwrap(),
            version: "1.0.0".to_owned(),
            shape: taskforge_domain::Shape::Handler,
            digest: Digest::from_bytes([0; 32]),
            summary: String::new(),
            input_schema: Json::from(serde_json::Value::Null),
            output_schema: Json::from(serde_json::Value::Null),
            capabilities: Vec::new(),
            imports: Vec::new(),
            exports: Vec::new(),
            size: 0,
            limits: Limits::default(),
            grants: Grants {
                http: grant,
                ..Grants::default()
            },
            config: std::collections::BTreeMap::new(),
        };
        let exchange = Exchange {
            egress: Arc::new(Egress::new().unwrap()),
            plugin: Arc::new(plugin),
            tenant: TenantId::default(),
            log: SharedLog::new(1000),
            received: Arc::default(),
            options,
        };
        let body = Empty::new().map_err(|never| match never {}).boxed_unsync();
        exchange
            .run(destination, Request::builder().uri(uri).body(body).unwrap())
            .await
    }

    #[tokio::test]
    async fn a_time_limit_of_zero_is_a_timeout_and_no_panic() {
        let zero = Some(Duration::ZERO);
        let server = Server::with_page("x").await;
        // Loopback may be connected to in no time at all.
        let answer = ask(
            &server,
            RequestOptions {
                connect_timeout: zero,
                ..RequestOptions::default()
            },
        )
        .await;
        assert!(
            matches!(answer, Ok(_) | Err(Error::ConnectionTimeout | Error::DnsTimeout)),
            "{answer:?}"
        );

        let server = Server::silent().await;
        let error = ask(
            &server,
            RequestOptions {
                first_byte_timeout: zero,
                ..RequestOptions::default()
            },
        )
        .await;
        assert!(matches!(error, Err(Error::HttpResponseTimeout)), "{error:?}");

        let server = Server::dripping(Duration::from_secs(60)).await;
        let options = RequestOptions {
            between_bytes_timeout: zero,
            ..RequestOptions::default()
        };
        let error = ask(&server, options).await.unwrap().collect().await.map(|_| ());
        assert!(matches!(error, Err(Error::ConnectionReadTimeout)), "{error:?}");
    }

    #[tokio::test]
    async fn a_time_limit_of_centuries_is_no_panic_either() {
        let server = Server::with_page("x").await;
        let centuries = Some(Duration::from_nanos(u64::MAX));
        let options = RequestOptions {
            connect_timeout: centuries,
            first_byte_timeout: centuries,
            between_bytes_timeout: centuries,
        };
        let response = ask(&server, options).await.unwrap();
        assert_eq!(response.collect().await.unwrap().to_bytes(), "x");
    }

    #[tokio::test]
    async fn a_server_that_falls_silent_is_told_from_one_that_never_spoke() {
        let limit = Some(Duration::from_millis(50));
        let options = RequestOptions {
            first_byte_timeout: limit,
            ..RequestOptions::default()
        };
        let error = ask(&Server::silent().await, options).await;
        assert!(matches!(error, Err(Error::HttpResponseTimeout)), "{error:?}");
        let options = RequestOptions {
            between_bytes_timeout: limit,
            ..RequestOptions::default()
        };
        let server = Server::dripping(Duration::from_secs(60)).await;
        let error = ask(&server, options).await.unwrap().collect().await.map(|_| ());
        assert!(matches!(error, Err(Error::ConnectionReadTimeout)), "{error:?}");
    }
}
