//! A broker to hold to a promise, and what the promises are told with.

use std::{sync::Arc, time::Duration};

use taskforge_broker::{Broker, Hint, LocalBroker, RedisBroker, Want, queue::AGEING_AFTER};
use taskforge_domain::{QueuePolicy, TenantPolicy, TypePolicy, Weight};

use crate::{
    hints::{LONG, kind, kinds, taken},
    server::Server,
};

/// A broker that knows all, and what must live as long.
pub(crate) struct Bench {
    pub(crate) broker: Arc<dyn Broker>,
    pub(crate) _server: Option<Server>,
}

pub(crate) async fn local(capacity: usize) -> Bench {
    let broker = Arc::new(LocalBroker::with(AGEING_AFTER, capacity));
    broker.mark_complete().await.unwrap();
    Bench {
        broker,
        _server: None,
    }
}

pub(crate) async fn redis(capacity: usize) -> Bench {
    let server = Server::start();
    let mut config = server.config();
    config.lane_capacity = capacity;
    let broker = Arc::new(RedisBroker::connect(&config).await.unwrap());
    broker.set_policy(&QueuePolicy::default()).await.unwrap();
    broker.set_running(&QueuePolicy::default(), &[]).await.unwrap();
    broker.mark_complete().await.unwrap();
    Bench {
        broker,
        _server: Some(server),
    }
}

/// Tests of this name for both brokers, with lanes of this capacity.
macro_rules! both_keep {
    ($($promise:ident($capacity:literal);)*) => {
        mod in_a_process {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $promise() {
                let bench = crate::bench::local($capacity).await;
                super::$promise(bench.broker.clone()).await;
            })*
        }
        mod in_redis {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $promise() {
                let bench = crate::bench::redis($capacity).await;
                super::$promise(bench.broker.clone()).await;
            })*
        }
    };
}

pub(crate) type Dyn = Arc<dyn Broker>;

pub(crate) fn count_of(tenant: &str, hints: &[Hint]) -> usize {
    hints
        .iter()
        .filter(|hint| hint.lane.tenant.as_str() == tenant)
        .count()
}

pub(crate) fn tenant_policy(weight: u32, max_running: Option<u32>) -> TenantPolicy {
    TenantPolicy {
        weight: Weight::new(weight).unwrap(),
        max_running,
    }
}

pub(crate) fn type_policy(name: &str, paused: bool, max_running: Option<u32>) -> QueuePolicy {
    QueuePolicy {
        types: [(kind(name), TypePolicy { paused, max_running })].into(),
        ..QueuePolicy::default()
    }
}

/// A worker that waits. It has looked at least once when this returns, or is about to: what is done next must wake it either way.
pub(crate) fn waiting(broker: &Dyn, types: &[&str], max: usize) -> tokio::task::JoinHandle<Vec<Hint>> {
    let (broker, types) = (broker.clone(), kinds(types));
    tokio::spawn(async move {
        let want = Want {
            types: &types,
            max,
            wait: LONG,
        };
        taken(broker.pop(want).await.unwrap())
    })
}

pub(crate) async fn soon(worker: tokio::task::JoinHandle<Vec<Hint>>) -> Vec<Hint> {
    let patience = Duration::from_secs(20);
    tokio::time::timeout(patience, worker)
        .await
        .expect("the worker still waits")
        .unwrap()
}
