//! Components for the sandbox, from the store.

use std::sync::Arc;

use async_trait::async_trait;
use taskforge_domain::Digest;
use taskforge_runtime::ComponentSource;
use taskforge_store::PluginStore;

/// The registry's components, as the sandbox asks for them when code is neither loaded nor cached.
#[derive(Clone)]
pub struct StoredComponents(Arc<dyn PluginStore>);

impl StoredComponents {
    /// Components of this store.
    #[must_use]
    pub fn new(store: Arc<dyn PluginStore>) -> Self {
        Self(store)
    }
}

#[async_trait]
impl ComponentSource for StoredComponents {
    async fn component(&self, digest: &Digest) -> Result<Vec<u8>, String> {
        let found = self.0.component(digest).await;
        found
            .map_err(|error| error.to_string())?
            .ok_or_else(|| format!("the registry holds no component {digest}"))
    }
}
