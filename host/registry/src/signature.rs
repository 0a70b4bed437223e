//! Who vouches for a component's bytes: detached ed25519 signatures.

use taskforge_domain::{TaskType, TenantId};

/// Keys that this host trusts, and for whom.
#[derive(Debug, Clone, Default)]
pub struct TrustedKeys {
    keys: Vec<TrustedKey>,
}

#[derive(Debug, Clone)]
struct TrustedKey {
    name: String,
    public_key: [u8; 32],
    tenants: Vec<TenantId>,
    shared: bool,
}

/// Whose components this host takes.
#[derive(Debug, Clone, Default)]
pub struct SignaturePolicy {
    /// Refuses what is not signed by a trusted key, at push and again when it is loaded.
    pub required: bool,
    /// The keys.
    pub trusted: TrustedKeys,
}

/// Why a signature, or its absence, is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// There is none.
    #[error(
        "{0} is not signed, and this host takes signed components only: sign it with `taskforge plugin sign`"
    )]
    Unsigned(TaskType),
    /// It is not 64 bytes.
    #[error("this is no ed25519 signature: it has {0} bytes, not 64")]
    Form(usize),
    /// A key that is trusted for others made it.
    #[error("{plugin} is signed with the key {key:?}, which is not trusted for {whose}")]
    NotTrusted {
        /// The plugin.
        plugin: TaskType,
        /// The key's name.
        key: String,
        /// `tenant acme`, or `shared plugins`.
        whose: String,
    },
    /// No known key made it for these bytes.
    #[error("the signature of {0} does not match its bytes with any key that this host trusts")]
    NoMatch(TaskType),
}

/// A new key pair: the private key as PEM text (PKCS #8), to be kept in a file that only its owner can read, and the public key as base64.
#[derive(Clone)]
pub struct KeyPair {
    /// The private key, PEM.
    pub private_pem: String,
    /// The public key, base64 of 32 bytes.
    pub public: String,
}

/// Why a key cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct KeyError(pub(crate) String);

/// Makes a key pair.
///
/// # Errors
/// When the system gives no random numbers.
pub fn keygen() -> Result<KeyPair, KeyError> {
    todo!()
}

/// Signs bytes with a private key in PEM text; 64 bytes.
///
/// # Errors
/// When the text is no ed25519 private key.
pub fn sign(private_pem: &str, bytes: &[u8]) -> Result<Vec<u8>, KeyError> {
    todo!()
}

/// Checks a signature with a public key in base64.
///
/// # Errors
/// When the key is none.
pub fn verify(public: &str, bytes: &[u8], signature: &[u8]) -> Result<bool, KeyError> {
    todo!()
}

/// The text of a signature file: base64, and a line end.
#[must_use]
pub fn to_text(signature: &[u8]) -> String {
    todo!()
}

/// Reads the text of a signature file, or of the API's parameter.
///
/// # Errors
/// When it is not base64 of 64 bytes.
pub fn from_text(text: &str) -> Result<Vec<u8>, SignatureError> {
    todo!()
}
