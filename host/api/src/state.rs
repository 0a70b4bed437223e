//! What every handler is given.

use std::{ops::Deref, sync::Arc};

use tokio_util::sync::CancellationToken;

use crate::{ApiConfig, Services, enqueue::Enqueuer, finishes::Finishes, metrics::Readings};

/// A cheap handle; the router clones it for every request.
#[derive(Clone)]
pub(crate) struct App(Arc<Inner>);

pub(crate) struct Inner {
    pub(crate) services: Services,
    pub(crate) config: ApiConfig,
    pub(crate) enqueuer: Enqueuer,
    pub(crate) finishes: Finishes,
    pub(crate) readings: Readings,
    /// Cancelled when the server stops taking requests: those who wait are answered at once.
    pub(crate) draining: CancellationToken,
}

impl App {
    pub(crate) fn new(services: Services, config: &ApiConfig, draining: CancellationToken) -> Self {
        let enqueuer = Enqueuer::start(Arc::clone(&services.store), Arc::clone(&services.broker));
        let finishes = Finishes::listen(&*services.broker);
        let (config, readings) = (config.clone(), Readings::default());
        Self(Arc::new(Inner {
            services,
            config,
            enqueuer,
            finishes,
            readings,
            draining,
        }))
    }
}

impl Deref for App {
    type Target = Inner;
    fn deref(&self) -> &Inner {
        &self.0
    }
}
