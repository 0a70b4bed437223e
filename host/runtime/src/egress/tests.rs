//! Requests of one attempt, without a guest.

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
    let destination = Destination::granted(&Method::GET, &uri, &grant).unwrap();
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
        egress: Arc::new(Egress::new(Vec::new()).unwrap()),
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
