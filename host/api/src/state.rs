//! What every handler is given.

use std::{ops::Deref, sync::Arc};

use taskforge_domain::{TenantId, Timestamp};
use tokio_util::sync::CancellationToken;

use crate::{
    ApiConfig, Problem, Services,
    external_workers::lease_token::LeaseTokens,
    operations::{
        health::{Checked, HealthChecks},
        metrics::Readings,
    },
    plugins::{push_permits::PushPermits, view::Queueing},
    tasks::{completion_waiters::CompletionWaiters, enqueue::Enqueuer},
};

/// A cheap handle; the router clones it for every request.
#[derive(Clone)]
pub(crate) struct App(Arc<Inner>);

pub(crate) struct Inner {
    pub(crate) services: Services,
    pub(crate) config: Arc<ApiConfig>,
    pub(crate) enqueuer: Enqueuer,
    pub(crate) completion_waiters: CompletionWaiters,
    pub(crate) lease_tokens: LeaseTokens,
    pub(crate) health: Arc<HealthChecks>,
    /// Taken around each change of the queue policy that reads before it writes.
    pub(crate) policy: tokio::sync::Mutex<()>,
    /// Components that are received and compiled at once.
    pub(crate) push_permits: PushPermits,
    /// Cancelled when the server stops taking requests: those who wait are answered at once.
    pub(crate) draining: CancellationToken,
}

impl App {
    pub(crate) fn new(services: Services, config: &ApiConfig, draining: CancellationToken) -> Self {
        let health = HealthChecks {
            store: Arc::clone(&services.store),
            broker: Arc::clone(&services.broker),
            catalog: Some(Arc::clone(&services.catalog)),
            metrics: services.metrics.clone(),
            ready: Arc::clone(&services.ready),
            draining: draining.clone(),
            readings: Readings::default(),
            checked: Checked::default(),
        };
        Self(Arc::new(Inner {
            enqueuer: Enqueuer::start(Arc::clone(&services.store), Arc::clone(&services.broker)),
            completion_waiters: CompletionWaiters::subscribe(&*services.broker),
            lease_tokens: LeaseTokens::new(config.key.as_ref()),
            config: Arc::new(config.clone()),
            health: Arc::new(health),
            policy: tokio::sync::Mutex::default(),
            push_permits: PushPermits::default(),
            services,
            draining,
        }))
    }
}

impl App {
    /// What decides, besides the registry, what becomes of a plugin's tasks.
    pub(crate) async fn queueing(&self, tenant: TenantId) -> Result<Queueing, Problem> {
        let policy = self.services.store.policy().await?;
        Ok(Queueing { policy, tenant })
    }

    /// The store's time, in the microseconds that it keeps: what is answered now equals what is
    /// read later.
    pub(crate) fn now(&self) -> Timestamp {
        self.services.store.clock().now()
    }

    /// Goes by what the registry says now, after a change through this process.
    pub(crate) async fn refresh(&self) {
        if let Err(error) = self.services.registry.refresh(&self.services.catalog).await {
            tracing::warn!(%error, "the API will go by the change in a moment");
        }
    }
}

impl Deref for App {
    type Target = Inner;
    fn deref(&self) -> &Inner {
        &self.0
    }
}
