//! The handler for text messages: configuration, secret and egress grant together, against a stub
//! gateway.

use std::{
    sync::{Arc, Mutex},
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use http::{Request, Response};
use serde_json::{Value, json};
use taskforge_domain::FailureKind;
use taskforge_runtime::Plugin;
use taskforge_testing::web::{Server, closed_port};

use crate::bed::{Bed, invocation, log, output};

const KEY: &str = "k3y-0f-the-gateway";

struct Gateway {
    server: Server,
    heard: Arc<Mutex<Vec<Request<Bytes>>>>,
}

impl Gateway {
    async fn answering(status: u16, body: &'static str) -> Self {
        let heard = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&heard);
        let server = Server::answering(move |request| {
            sink.lock().unwrap().push(request);
            let answer = Response::builder().status(status).header("retry-after", "9");
            answer.body(Bytes::from_static(body.as_bytes())).unwrap()
        })
        .await;
        Self { server, heard }
    }

    /// What the operator sets so that messages go here.
    fn settings(&self) -> Value {
        let host = json!({"host": self.server.address().to_string(), "methods": ["POST"]});
        json!({
            "config": {"gateway_url": self.server.url("/messages"), "sender": "TaskForge"},
            "grants": {
                "secrets": ["gateway_key"],
                "http": {"hosts": [host], "private_networks": ["127.0.0.0/8"]},
            },
        })
    }
}

fn message() -> Value {
    json!({"to": "+491701234567", "text": "Grüße"})
}

async fn sms(bed: &Bed, with: Value) -> Arc<Plugin> {
    bed.registered("sms", with, &[("gateway_key", KEY)]).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_reaches_the_gateway_with_key_and_reference() {
    let bed = Bed::new().await;
    let gateway = Gateway::answering(202, r#"{"message_id": "m-1", "status": "queued"}"#).await;
    let plugin = sms(&bed, gateway.settings()).await;
    let invocation = invocation(message());
    let task = invocation.task.to_string();
    let invoked = bed.runtime.invoke(&plugin, invocation).await;
    assert_eq!(output(&invoked), json!({"message_id": "m-1", "status": "queued"}));
    assert!(!log(&invoked).contains(KEY), "{}", log(&invoked));

    let heard = gateway.heard.lock().unwrap();
    let [request] = heard.as_slice() else { panic!("{heard:?}") };
    assert_eq!((request.method().as_str(), request.uri().path()), ("POST", "/messages"));
    assert_eq!(request.headers()["authorization"], format!("Bearer {KEY}"));
    assert_eq!(request.headers()["content-type"], "application/json");
    let sent: Value = serde_json::from_slice(request.body()).unwrap();
    assert_eq!(
        sent,
        json!({"to": "+491701234567", "from": "TaskForge", "text": "Grüße", "reference": task})
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_gateways_answer_decides_what_follows() {
    let bed = Bed::new().await;
    for (status, kind) in [
        (400, FailureKind::Permanent),
        (401, FailureKind::Permanent),
        (408, FailureKind::Retryable),
        (429, FailureKind::Retryable),
        (503, FailureKind::Retryable),
    ] {
        // An unkind gateway may even repeat the key.
        let gateway = Gateway::answering(status, "not with k3y-0f-the-gateway").await;
        let plugin = sms(&bed, gateway.settings()).await;
        let (failure, invoked) = bed.fails(&plugin, message()).await;
        assert_eq!(failure.kind, kind, "{status}: {failure}");
        assert!(failure.message.contains(&status.to_string()), "{failure}");
        let expected = (kind == FailureKind::Retryable).then_some(Duration::from_secs(9));
        assert_eq!(failure.retry_after, expected, "{status}");
        let shown = format!("{failure} {}", log(&invoked));
        assert!(!shown.contains(KEY), "{shown}");
    }
    let mut with = Gateway::answering(200, "").await.settings();
    let closed = closed_port().await;
    with["config"]["gateway_url"] = json!(format!("http://{closed}/"));
    with["grants"]["http"]["hosts"] = json!([closed.to_string()]);
    let plugin = sms(&bed, with).await;
    let (failure, _) = bed.fails(&plugin, message()).await;
    assert_eq!(failure.kind, FailureKind::Retryable, "{failure}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_operator_has_not_set_is_named() {
    let bed = Bed::new().await;
    let gateway = Gateway::answering(200, "{}").await;
    let plugin = bed.registered("sms", gateway.settings(), &[]).await;
    let (failure, _) = bed.fails(&plugin, message()).await;
    assert_eq!(failure.kind, FailureKind::Permanent);
    assert!(failure.message.contains("gateway_key is not set"), "{failure}");

    let mut with = gateway.settings();
    with["config"] = json!({});
    let (failure, _) = bed.fails(&*sms(&bed, with).await, message()).await;
    assert_eq!(failure.kind, FailureKind::Permanent);
    assert!(failure.message.contains("gateway_url is not set"), "{failure}");

    let mut with = gateway.settings();
    with["grants"]["http"]["hosts"] = json!([]);
    let plugin = sms(&bed, with).await;
    let invoked = bed.fails_as(FailureKind::CapabilityDenied, &plugin, message()).await;
    assert!(log(&invoked).contains("grant it with `http.hosts ="), "{}", log(&invoked));
    assert_eq!(gateway.server.connections(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_grant_for_reading_the_gateway_is_none_for_sending() {
    let bed = Bed::new().await;
    let gateway = Gateway::answering(200, "{}").await;
    let mut with = gateway.settings();
    with["grants"]["http"]["hosts"][0]["methods"] = json!(["GET"]);
    let plugin = sms(&bed, with).await;
    let invoked = bed.fails_as(FailureKind::CapabilityDenied, &plugin, message()).await;
    assert!(log(&invoked).contains(r#"methods = ["POST"]"#), "{}", log(&invoked));
    assert_eq!(gateway.server.connections(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_without_a_sender_names_none() {
    let bed = Bed::new().await;
    let gateway = Gateway::answering(200, "").await;
    let mut with = gateway.settings();
    with["config"]["sender"] = json!("");
    let plugin = sms(&bed, with).await;
    let (said, _) = bed.completes(&plugin, message()).await;
    assert_eq!(said, json!({"message_id": null, "status": "accepted"}));
    let heard = gateway.heard.lock().unwrap();
    let sent: Value = serde_json::from_slice(heard[0].body()).unwrap();
    assert!(sent.get("from").is_none(), "{sent}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_may_name_a_date_to_come_back_at() {
    let bed = Bed::new().await;
    let server = Server::answering(|_| {
        let date = httpdate(SystemTime::now() + Duration::from_secs(40));
        let answer = Response::builder().status(429).header("retry-after", date);
        answer.body(Bytes::new()).unwrap()
    })
    .await;
    let gateway = Gateway { server, heard: Arc::default() };
    let plugin = sms(&bed, gateway.settings()).await;
    let (failure, _) = bed.fails(&plugin, message()).await;
    let delay = failure.retry_after.unwrap();
    let about = Duration::from_secs(25)..=Duration::from_secs(40);
    assert!(about.contains(&delay), "{delay:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_that_knows_the_reference_has_had_the_message() {
    let bed = Bed::new().await;
    let gateway = Gateway::answering(409, r#"{"status": 409, "title": "duplicate"}"#).await;
    let plugin = sms(&bed, gateway.settings()).await;
    let (sent, _) = bed.completes(&plugin, message()).await;
    assert_eq!(sent["status"], "sent");
}

fn httpdate(at: SystemTime) -> String {
    let at = jiff::Timestamp::try_from(at).unwrap();
    at.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string()
}
