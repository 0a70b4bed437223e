//! What the API needs from the rest of the process.

use std::sync::Arc;

use taskforge_broker::Broker;
use taskforge_registry::{Catalog, Registry};
use taskforge_store::Store;

use crate::Metrics;

/// The parts that the routes work with.
#[derive(Clone)]
pub struct Services {
    /// Where tasks are.
    pub store: Arc<dyn Store>,
    /// How workers learn of them.
    pub broker: Arc<dyn Broker>,
    /// The types that tasks may name.
    pub catalog: Arc<Catalog>,
    /// Where plugins are changed.
    pub registry: Registry,
    /// What `/metrics` shows.
    pub metrics: Metrics,
    /// What else must be true before `/readyz` says so.
    pub ready: Arc<dyn Readiness>,
}

/// A condition of readiness beyond the store and the broker, which the API checks itself: plugins
/// loaded, for example.
pub trait Readiness: Send + Sync + 'static {
    /// Whether it holds. Must not block.
    ///
    /// # Errors
    /// What is missing, in a sentence that any client may read.
    fn check(&self) -> Result<(), String>;
}

/// No further condition.
#[derive(Debug, Clone, Copy, Default)]
pub struct AlwaysReady;

impl Readiness for AlwaysReady {
    fn check(&self) -> Result<(), String> {
        Ok(())
    }
}

impl<F: Fn() -> Result<(), String> + Send + Sync + 'static> Readiness for F {
    fn check(&self) -> Result<(), String> {
        self()
    }
}
