//! Requests of one attempt, without a guest.

use std::{
    net::IpAddr,
    sync::{Mutex, atomic::AtomicUsize},
};

use bytes::Bytes;
use http_body::Frame;
use http_body_util::{BodyExt as _, Empty, StreamBody};
use taskforge_domain::{Digest, Grants, Json, Limits, Shape, TaskType};
use taskforge_testing::{tls, web::Server};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    sync::mpsc,
};

use super::*;

mod upload;

/// One tenant's plugin, which may ask anybody, and these private networks.
struct Asker {
    egress: Arc<Egress>,
    tenant: TenantId,
    grant: HttpGrant,
}

impl Asker {
    fn new(egress: Egress, network: &str) -> Self {
        Self {
            egress: Arc::new(egress),
            tenant: TenantId::default(),
            grant: HttpGrant {
                hosts: vec!["*:*".parse().unwrap()],
                private_networks: vec![network.parse().unwrap()],
            },
        }
    }

    fn of_tenant(&self, tenant: &str) -> Self {
        Self {
            egress: Arc::clone(&self.egress),
            tenant: TenantId::new(tenant).unwrap(),
            grant: self.grant.clone(),
        }
    }

    fn plugin(&self) -> PluginInfo {
        PluginInfo {
            name: TaskType::new("test").unwrap(),
            version: "1.0.0".to_owned(),
            shape: Shape::Handler,
            digest: Digest::from_bytes([0; 32]),
            summary: String::new(),
            input_schema: Json::from(serde_json::Value::Null),
            output_schema: Json::from(serde_json::Value::Null),
            capabilities: Vec::new(),
            imports: Vec::new(),
            exports: Vec::new(),
            size: 0,
            limits: Limits::default(),
            grants: Grants { http: self.grant.clone(), ..Grants::default() },
            config: std::collections::BTreeMap::new(),
        }
    }

    async fn send(&self, url: &str, options: RequestOptions) -> Result<Response<WasiBody>, Error> {
        let body = Empty::new().map_err(|never| match never {}).boxed_unsync();
        self.exchange(Method::GET, url, options, body).await
    }

    async fn upload(
        &self,
        url: &str,
        options: RequestOptions,
        body: WasiBody,
    ) -> Result<Response<WasiBody>, Error> {
        self.exchange(Method::POST, url, options, body).await
    }

    async fn exchange(
        &self,
        method: Method,
        url: &str,
        options: RequestOptions,
        body: WasiBody,
    ) -> Result<Response<WasiBody>, Error> {
        let uri = url.parse().unwrap();
        let destination = Destination::granted(&method, &uri, &self.grant).unwrap();
        let budget = Budget::new(16 << 20);
        let exchange = Exchange {
            egress: Arc::clone(&self.egress),
            plugin: Arc::new(self.plugin()),
            tenant: self.tenant.clone(),
            log: SharedLog::new(1000, &budget),
            received: Arc::default(),
            sent: Arc::default(),
            budget: budget.clone(),
            options,
        };
        let request = Request::builder().method(method).uri(uri).body(body).unwrap();
        exchange.run(destination, Charge::empty(&budget), request).await
    }

    /// The page at an address, read to its end, so that the connection goes back to the pool.
    async fn page(&self, url: &str) -> Result<String, Error> {
        let response = self.send(url, RequestOptions::default()).await?;
        let bytes = response.collect().await?.to_bytes();
        Ok(String::from_utf8(bytes.to_vec()).unwrap())
    }
}

async fn ask(server: &Server, options: RequestOptions) -> Result<Response<WasiBody>, Error> {
    let asker = Asker::new(
        Egress::new(256, Vec::new(), &Authorities::public(), Arc::default()).unwrap(),
        "127.0.0.0/8",
    );
    asker.send(&server.url("/"), options).await
}

/// A name server in the hands of an attacker: it answers with whatever stands here at the moment.
#[derive(Clone, Default)]
struct Rebinding {
    address: Arc<Mutex<Option<IpAddr>>>,
    lookups: Arc<AtomicUsize>,
}

impl Rebinding {
    fn bind(&self, address: &str) {
        *self.address.lock().unwrap() = Some(address.parse().unwrap());
    }

    /// `then` is what the name stands for after each answer.
    fn egress(&self, then: Option<&'static str>) -> Egress {
        let this = self.clone();
        let resolver = Resolver::new(move |_, port| {
            this.lookups.fetch_add(1, Ordering::SeqCst);
            let found = this.address.lock().unwrap().unwrap();
            if let Some(then) = then {
                this.bind(then);
            }
            Box::pin(async move { Ok(vec![(found, port).into()]) })
        });
        Egress::resolving(
            resolver,
            Division::of(256),
            Vec::new(),
            &Authorities::public(),
            Arc::default(),
        )
        .unwrap()
    }
}

#[tokio::test]
async fn a_name_that_changes_after_the_check_moves_no_connection() {
    let public = Server::with_page("public").await;
    let private = Server::with_page_at(("127.0.0.2", public.port()), "private").await;
    let names = Rebinding::default();
    names.bind("127.0.0.1");
    // 127.0.0.1 stands for the public server: it alone is excepted from the guard.
    let asker = Asker::new(names.egress(Some("127.0.0.2")), "127.0.0.1/32");
    let url = format!("http://rebinding.test:{}/", public.port());

    assert_eq!(asker.page(&url).await.unwrap(), "public");
    assert_eq!(names.lookups.load(Ordering::SeqCst), 1, "nothing asks a second time");
    // The next request is checked anew, and neither follows the name nor goes out by the connection
    // that is there.
    let error = asker.page(&url).await;
    assert!(matches!(error, Err(Error::DestinationIpProhibited)), "{error:?}");
    assert_eq!((public.connections(), private.connections()), (1, 0));
}

#[tokio::test]
async fn a_pooled_connection_serves_only_whom_and_what_it_was_checked_for() {
    let one = Server::with_page("one").await;
    let two = Server::with_page_at(("127.0.0.2", one.port()), "two").await;
    let names = Rebinding::default();
    names.bind("127.0.0.1");
    let asker = Asker::new(names.egress(None), "127.0.0.0/8");
    let url = format!("http://rebinding.test:{}/", one.port());

    assert_eq!(asker.page(&url).await.unwrap(), "one");
    assert_eq!(asker.page(&url).await.unwrap(), "one");
    assert_eq!(one.connections(), 1, "the same address, the same connection");
    names.bind("127.0.0.2");
    assert_eq!(asker.page(&url).await.unwrap(), "two");
    names.bind("127.0.0.1");
    assert_eq!(asker.page(&url).await.unwrap(), "one");
    assert_eq!((one.connections(), two.connections()), (1, 1));

    assert_eq!(asker.of_tenant("another").page(&url).await.unwrap(), "one");
    assert_eq!(one.connections(), 2, "another tenant makes its own");
}

#[tokio::test]
async fn a_time_limit_of_zero_is_a_timeout_and_no_panic() {
    let zero = Some(Duration::ZERO);
    let server = Server::with_page("x").await;
    // Loopback may be connected to in no time at all.
    let answer =
        ask(&server, RequestOptions { connect_timeout: zero, ..RequestOptions::default() }).await;
    assert!(
        matches!(answer, Ok(_) | Err(Error::ConnectionTimeout | Error::DnsTimeout)),
        "{answer:?}"
    );

    let server = Server::silent().await;
    let error =
        ask(&server, RequestOptions { first_byte_timeout: zero, ..RequestOptions::default() })
            .await;
    assert!(matches!(error, Err(Error::HttpResponseTimeout)), "{error:?}");

    let server = Server::dripping(Duration::from_secs(60)).await;
    let options = RequestOptions { between_bytes_timeout: zero, ..RequestOptions::default() };
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
    let options = RequestOptions { first_byte_timeout: limit, ..RequestOptions::default() };
    let error = ask(&Server::silent().await, options).await;
    assert!(matches!(error, Err(Error::HttpResponseTimeout)), "{error:?}");
    let options = RequestOptions { between_bytes_timeout: limit, ..RequestOptions::default() };
    let server = Server::dripping(Duration::from_secs(60)).await;
    let error = ask(&server, options).await.unwrap().collect().await.map(|_| ());
    assert!(matches!(error, Err(Error::ConnectionReadTimeout)), "{error:?}");
}

#[tokio::test]
async fn connections_are_shared_by_tenants_and_come_back() {
    let server = Server::silent().await;
    let page = Server::with_page("x").await;
    let division = Division::of(64);
    let egress = Egress::new(64, Vec::new(), &Authorities::public(), Arc::default()).unwrap();
    let mallory = Arc::new(Asker::new(egress, "127.0.0.0/8").of_tenant("mallory"));
    let requests = &mallory.egress.requests;
    let flood: Vec<_> = (0..200)
        .map(|_| {
            let (mallory, url) = (Arc::clone(&mallory), server.url("/"));
            tokio::spawn(
                async move { mallory.send(&url, RequestOptions::default()).await.map(drop) },
            )
        })
        .collect();
    let busy = async {
        while server.connections() < division.requests / 2 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), busy).await.unwrap();
    // The neighbour has its own, one after the other and some at once.
    let alice = mallory.of_tenant("alice");
    for _ in 0..20 {
        assert_eq!(alice.page(&page.url("/")).await.unwrap(), "x");
    }
    assert_eq!(server.connections(), division.requests / 2);
    // A caller without time to wait learns why.
    let hurried = RequestOptions {
        connect_timeout: Some(Duration::from_millis(10)),
        ..RequestOptions::default()
    };
    let refused = mallory.send(&page.url("/"), hurried).await;
    assert!(matches!(refused, Err(Error::ConnectionLimitReached)), "{refused:?}");
    for request in flood {
        request.abort();
        assert!(request.await.is_err());
    }
    let free = async {
        while requests.available() < division.requests {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), free).await.unwrap();
    assert_eq!(mallory.page(&page.url("/")).await.unwrap(), "x");
}

#[tokio::test]
async fn a_response_holds_its_connection_until_it_was_read_or_dropped() {
    let server = Server::with_page("x").await;
    let egress = Egress::new(64, Vec::new(), &Authorities::public(), Arc::default()).unwrap();
    let asker = Asker::new(egress, "127.0.0.0/8");
    let all = asker.egress.requests.available();
    let response = asker.send(&server.url("/"), RequestOptions::default()).await.unwrap();
    assert_eq!(asker.egress.requests.available(), all - 1);
    let body = response.into_body().collect().await.unwrap();
    assert_eq!((body.to_bytes().as_ref(), asker.egress.requests.available()), (&b"x"[..], all));
    let response = asker.send(&server.url("/"), RequestOptions::default()).await.unwrap();
    assert_eq!(asker.egress.requests.available(), all - 1);
    drop(response);
    assert_eq!(asker.egress.requests.available(), all);
}

#[tokio::test]
async fn clients_that_are_in_use_are_kept_and_others_make_room() {
    let names = Rebinding::default();
    names.bind("127.0.0.1");
    let server = Server::with_page("x").await;
    let asker = Asker::new(names.egress(None), "127.0.0.0/8");
    let clients = Division::of(256).clients;
    let url = |name: usize| format!("http://host{name}.test:{}/", server.port());
    let mut responses = Vec::new();
    for name in 0..clients {
        responses.push(asker.send(&url(name), RequestOptions::default()).await.unwrap());
    }
    // No room: what is made now keeps no connection.
    let before = server.connections();
    for _ in 0..2 {
        assert_eq!(asker.page(&url(clients)).await.unwrap(), "x");
    }
    assert_eq!(server.connections(), before + 2);
    for response in responses {
        assert_eq!(response.collect().await.unwrap().to_bytes(), "x");
    }
    for _ in 0..2 {
        assert_eq!(asker.page(&url(clients)).await.unwrap(), "x");
    }
    assert_eq!(server.connections(), before + 3);
}

/// Answers with what it was asked: the target of the request, its `host`, and the names of its
/// headers.
fn echo(request: &Request<Bytes>) -> Response<Bytes> {
    let mut names: Vec<_> = request.headers().keys().map(|name| name.as_str()).collect();
    names.sort_unstable();
    let host = request.headers().get("host").map_or("", |host| host.to_str().unwrap());
    let target = request.uri().path_and_query().unwrap();
    Response::new(format!("{target} {host} {}", names.join(",")).into())
}

#[tokio::test]
async fn path_and_query_arrive_as_the_guest_gave_them_and_nothing_is_added() {
    let server = Server::answering(|request| echo(&request)).await;
    let egress = Egress::new(256, Vec::new(), &Authorities::public(), Arc::default()).unwrap();
    let asker = Asker::new(egress, "127.0.0.0/8");
    for path in
        ["/a/../b/./c", "/%2E%2e/%2f?x=%27&y='", "/a\\b//c;d=e", "/{a}|\"?[b]^`", "/?", "/a?b?c"]
    {
        // A spelling of the host is not what it is called.
        let page = asker.page(&format!("http://127.1:{}{path}", server.port())).await;
        let expected = format!("{path} 127.0.0.1:{} host", server.port());
        assert_eq!(page.unwrap(), expected);
    }
}

fn trusting_the_private_one() -> Egress {
    let authorities = Authorities::read(Some(&tls::authority())).unwrap();
    Egress::new(256, Vec::new(), &authorities, Arc::default()).unwrap()
}

#[tokio::test]
async fn servers_of_a_private_authority_are_reached_by_whoever_trusts_it() {
    let server = Server::secure(&["http/1.1"], |request| echo(&request)).await;
    let url = format!("https://127.0.0.1:{}/a", server.port());
    let stranger = Egress::new(256, Vec::new(), &Authorities::public(), Arc::default()).unwrap();
    let refused = Asker::new(stranger, "127.0.0.0/8").page(&url).await;
    assert!(matches!(refused, Err(Error::TlsCertificateError)), "{refused:?}");
    let asker = Asker::new(trusting_the_private_one(), "127.0.0.0/8");
    let page = asker.page(&url).await.unwrap();
    assert_eq!(page, format!("/a 127.0.0.1:{} host", server.port()));
    // Of the certificate's names this is none.
    let other = asker.page(&format!("https://127.0.0.2:{}/", server.port())).await;
    assert!(other.is_err(), "{other:?}");
}

#[tokio::test]
async fn servers_that_speak_http_2_only_are_understood() {
    let server = Server::secure(&["h2"], |request| echo(&request)).await;
    let asker = Asker::new(trusting_the_private_one(), "127.0.0.0/8");
    let url = format!("https://127.0.0.1:{}/a/../b?c'd", server.port());
    for _ in 0..3 {
        assert_eq!(asker.page(&url).await.unwrap(), "/a/../b?c'd  ");
    }
    assert_eq!(server.connections(), 1);
    // Many at once share it too, and one that nobody reads holds up no other.
    let unread = asker.send(&url, RequestOptions::default()).await.unwrap();
    let many = futures_util::future::join_all((0..50).map(|_| asker.page(&url))).await;
    assert!(many.iter().all(|page| page.as_ref().unwrap() == "/a/../b?c'd  "));
    assert_eq!(server.connections(), 1);
    drop(unread);
}

#[tokio::test]
async fn a_large_body_comes_and_goes_over_http_2() {
    let server =
        Server::secure(&["h2", "http/1.1"], |request| Response::new(request.into_body())).await;
    let asker = Asker::new(trusting_the_private_one(), "127.0.0.0/8");
    let (mut guest, body) = Guest::new();
    let url = format!("https://127.0.0.1:{}/", server.port());
    let answer = asker.upload(&url, RequestOptions::default(), body);
    let write = async {
        for _ in 0..64 {
            guest.write().await.unwrap();
        }
        drop(guest);
    };
    let (answer, ()) = tokio::join!(answer, write);
    let echoed = answer.unwrap().collect().await.unwrap().to_bytes();
    assert_eq!(echoed.len(), 64 * CHUNK);
}

/// A guest that writes a body, part by part.
struct Guest(mpsc::Sender<Bytes>);

impl Guest {
    fn new() -> (Self, WasiBody) {
        let (sender, receiver) = mpsc::channel(1);
        let parts = futures_util::stream::unfold(receiver, |mut receiver| async move {
            let part = receiver.recv().await?;
            Some((Ok(Frame::data(part)), receiver))
        });
        (Self(sender), StreamBody::new(parts).boxed_unsync())
    }

    /// Writes a part once there is room. An error: nobody takes it any more.
    async fn write(&mut self) -> Result<(), mpsc::error::SendError<Bytes>> {
        self.0.send(Bytes::from(vec![0; CHUNK])).await
    }

    /// Writes until nobody takes it any more.
    async fn flood(mut self) {
        while self.write().await.is_ok() {}
    }
}
