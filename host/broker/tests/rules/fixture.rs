//! The brokers that the rules are tested on, and helpers of the tests.

use std::{sync::Arc, time::Duration};

use taskforge_broker::{Broker, LocalBroker, QueuedTask, RedisBroker, Want, queue::AGEING_AFTER};
use taskforge_domain::{Clock, LaneLimits, QueuePolicy, TenantPolicy, TypePolicy, Weight};

use crate::{
    hints::{LONG, kind, kinds},
    server::Server,
};

/// A complete broker, and the server that must live as long.
pub(crate) struct Fixture {
    pub(crate) broker: Arc<dyn Broker>,
    pub(crate) _server: Option<Server>,
}

pub(crate) async fn local(capacity: usize, clock: &Clock) -> Fixture {
    let broker = LocalBroker::with(AGEING_AFTER, capacity).on_clock(clock.clone());
    let broker = Arc::new(broker);
    broker.mark_complete().await.unwrap();
    Fixture { broker, _server: None }
}

pub(crate) async fn redis(capacity: usize, clock: &Clock) -> Fixture {
    let server = Server::start();
    let mut config = server.config();
    config.lane_capacity = capacity;
    config.clock = clock.clone();
    let broker = Arc::new(RedisBroker::connect(&config).await.unwrap());
    broker.set_policy(&QueuePolicy::default()).await.unwrap();
    broker.mark_complete().await.unwrap();
    Fixture { broker, _server: Some(server) }
}

/// Tests of this name for both brokers, with lanes of this capacity.
macro_rules! both_keep {
    ($($promise:ident($capacity:literal);)*) => {
        mod in_a_process {
            use taskforge_domain::Clock;

            $(#[tokio::test(flavor = "multi_thread")]
            async fn $promise() {
                let fixture = crate::fixture::local($capacity, &Clock::default()).await;
                super::$promise(fixture.broker.clone()).await;
            })*
        }
        mod in_redis {
            use taskforge_domain::Clock;

            $(#[tokio::test(flavor = "multi_thread")]
            async fn $promise() {
                let fixture = crate::fixture::redis($capacity, &Clock::default()).await;
                super::$promise(fixture.broker.clone()).await;
            })*
        }
    };
}

pub(crate) type Dyn = Arc<dyn Broker>;

pub(crate) fn count_of(tenant: &str, hints: &[QueuedTask]) -> usize {
    hints.iter().filter(|hint| hint.lane.tenant.as_str() == tenant).count()
}

pub(crate) fn weight(weight: u32) -> TenantPolicy {
    TenantPolicy { weight: Weight::new(weight).unwrap(), ..TenantPolicy::default() }
}

pub(crate) fn paused(name: &str) -> QueuePolicy {
    let paused = TypePolicy { paused: true, ..TypePolicy::default() };
    QueuePolicy { types: [(kind(name), paused)].into(), ..QueuePolicy::default() }
}

/// A worker that waits. It has looked when this returns, or is about to: what the test does next
/// must wake it either way.
pub(crate) fn waiting(
    broker: &Dyn,
    types: &[&str],
    max: usize,
) -> tokio::task::JoinHandle<Vec<QueuedTask>> {
    let (broker, types) = (broker.clone(), kinds(types));
    tokio::spawn(async move {
        let want = Want { types: &types, lanes: LaneLimits::none(), max, wait: LONG };
        broker.pop(want).await.unwrap().hints
    })
}

pub(crate) async fn soon(worker: tokio::task::JoinHandle<Vec<QueuedTask>>) -> Vec<QueuedTask> {
    let limit = Duration::from_secs(20);
    tokio::time::timeout(limit, worker).await.expect("the worker still waits").unwrap()
}
