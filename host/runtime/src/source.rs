//! Where to fetch a component whose code is needed again.

use async_trait::async_trait;
use taskforge_domain::Digest;

/// Finds the bytes of components that were loaded before, or elsewhere: the registry.
#[async_trait]
pub trait ComponentSource: Send + Sync + 'static {
    /// The bytes of a component. The runtime checks that they have this digest.
    ///
    /// # Errors
    /// Why they cannot be fetched, in a sentence for the operator.
    async fn component(&self, digest: &Digest) -> Result<Vec<u8>, String>;
}
