use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use taskforge_api::{AdminServices, Metrics, admin};
use tokio_util::sync::CancellationToken;

use crate::harness::{Api, TEST_DEADLINE};

#[tokio::test]
async fn a_process_without_an_api_has_probes_and_metrics_and_nothing_else() {
    // Its store and broker, behind a listener of their own.
    let mut api = Api::start().await;
    let id = api.fibonacci().await;
    let listener = admin::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let address = listener.local_addr().unwrap();
    let is_draining = Arc::new(AtomicBool::new(false));
    let draining = Arc::clone(&is_draining);
    let services = AdminServices {
        store: api.store.clone(),
        broker: api.broker.clone(),
        metrics: Metrics::install().unwrap(),
        ready: Arc::new(move || match draining.load(Ordering::SeqCst) {
            false => Ok(()),
            true => Err("draining".to_owned()),
        }),
    };
    let shutdown = CancellationToken::new();
    let serving = tokio::spawn(admin::serve(listener, services, shutdown.clone()));
    api.address = address;
    assert_eq!(api.get("/healthz").await.json()["status"], "ok");
    let ready = api.get("/readyz").await;
    assert_eq!((ready.status, &ready.json()["mode"]), (200, &"local".into()));
    let metrics = api.get("/metrics").await;
    for line in [
        "taskforge_tasks{type=\"fibonacci\",state=\"pending\"} 1\n",
        "taskforge_broker_mode{mode=\"local\"} 1\n",
    ] {
        assert!(metrics.text().contains(line), "{line}");
    }
    for path in ["/", "/tasks", &format!("/tasks/{id}"), "/docs/", "/openapi.json", "/queues"] {
        api.get(path).await.problem(404, "no-route");
    }
    api.post_text("/readyz", "").await.problem(405, "method-not-allowed");
    is_draining.store(true, Ordering::SeqCst);
    let ready = api.get("/readyz").await;
    assert_eq!((ready.status, &ready.json()["checks"]["server"]), (503, &"draining".into()));
    shutdown.cancel();
    tokio::time::timeout(TEST_DEADLINE, serving).await.expect("it ends").unwrap().unwrap();
}
