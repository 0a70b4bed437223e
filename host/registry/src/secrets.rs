//! What a plugin may know and nobody may read.

/// The keys that seal secrets: the first seals, all open.
pub struct Keyring {
    keys: Vec<[u8; 32]>,
}

/// A keyring that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct KeyringError(pub(crate) String);

/// Why a secret was not sealed or opened. Never tells what it says.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SecretError {
    /// This process has no key.
    #[error("this host has no key to seal secrets with: set TASKFORGE_SECRET_KEY")]
    NoKey,
    /// It was sealed with a key that this process does not have.
    #[error("the secret {0} was sealed with a key that this host does not have (TASKFORGE_SECRET_KEY)")]
    OtherKey(String),
    /// It is damaged, or was moved from another plugin or name.
    #[error("the secret {0} cannot be opened: it is damaged, or was sealed for another plugin or name")]
    Damaged(String),
    /// The system has no randomness.
    #[error("no secret can be sealed: the system gives no random numbers")]
    NoRandomness,
}
