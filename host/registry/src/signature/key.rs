//! Key pairs for Ed25519.

use std::{fs::OpenOptions, io::Write as _, os::unix::fs::OpenOptionsExt as _, path::Path};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use ring::{
    rand::SystemRandom,
    signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey},
};
use sha2::{Digest as _, Sha256};

const PEM_BEGIN: &str = "-----BEGIN PRIVATE KEY-----";
const PEM_END: &str = "-----END PRIVATE KEY-----";

/// Why a key cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct KeyError(pub(super) String);

/// A new key pair.
#[derive(Clone)]
pub struct KeyPair {
    /// The private key, PKCS #8 as PEM text. To be kept in a file that only its owner can read.
    pub private_pem: String,
    /// The public key, base64 of 32 bytes.
    pub public: String,
}

impl KeyPair {
    /// Writes the private key to a new file that only this user can read, and the public key to
    /// `FILE.pub`.
    ///
    /// # Errors
    /// When a file cannot be written, or one with the private key's name exists.
    pub fn save(&self, file: &Path) -> std::io::Result<()> {
        let mut private = OpenOptions::new().write(true).create_new(true).mode(0o600).open(file)?;
        private.write_all(self.private_pem.as_bytes())?;
        let mut public = file.as_os_str().to_owned();
        public.push(".pub");
        std::fs::write(public, format!("{}\n", self.public))
    }
}

/// Makes a key pair.
///
/// # Errors
/// When the system gives no random numbers.
pub fn keygen() -> Result<KeyPair, KeyError> {
    let failed = || KeyError("no key can be made: the system gives no random numbers".to_owned());
    let document = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).map_err(|_| failed())?;
    let pair = Ed25519KeyPair::from_pkcs8(document.as_ref()).map_err(|_| failed())?;
    let encoded = BASE64_STANDARD.encode(document.as_ref());
    let mut private_pem = format!("{PEM_BEGIN}\n");
    for line in encoded.as_bytes().chunks(64) {
        private_pem.push_str(&String::from_utf8_lossy(line));
        private_pem.push('\n');
    }
    private_pem.push_str(PEM_END);
    private_pem.push('\n');
    Ok(KeyPair { private_pem, public: BASE64_STANDARD.encode(pair.public_key().as_ref()) })
}

/// A private key in PEM text, of [`keygen`] or of `openssl genpkey -algorithm ed25519`.
pub(super) struct PrivateKey(Ed25519KeyPair);

impl PrivateKey {
    pub(super) fn parse(private_pem: &str) -> Result<Self, KeyError> {
        let wrong = || KeyError("this is no ed25519 private key in PEM (PKCS #8)".to_owned());
        let body = private_pem
            .split_once(PEM_BEGIN)
            .and_then(|(_, rest)| rest.split_once(PEM_END))
            .map(|(body, _)| body.split_whitespace().collect::<String>())
            .ok_or_else(wrong)?;
        let document = BASE64_STANDARD.decode(body).map_err(|_| wrong())?;
        let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(&document);
        pair.map(Self).map_err(|_| wrong())
    }

    pub(super) fn sign(&self, bytes: &[u8]) -> Vec<u8> {
        self.0.sign(bytes).as_ref().to_vec()
    }

    /// Names the key that made a signature, for people and for look-ups: SHA-256 of the public key,
    /// in hexadecimal. It proves nothing.
    pub(super) fn id(&self) -> String {
        hex::encode(Sha256::digest(self.0.public_key().as_ref()))
    }
}

/// A public key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PublicKey([u8; 32]);

impl PublicKey {
    pub(super) fn parse(text: &str) -> Result<Self, KeyError> {
        let bytes = BASE64_STANDARD.decode(text.trim()).ok();
        bytes
            .and_then(|bytes| bytes.try_into().ok())
            .map(Self)
            .ok_or_else(|| KeyError("a public key is 32 bytes in base64".to_owned()))
    }

    /// Whether this key's private half made a signature.
    pub(super) fn made(&self, signature: &[u8], bytes: &[u8]) -> bool {
        UnparsedPublicKey::new(&ED25519, &self.0).verify(bytes, signature).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_survives_its_file_and_is_never_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("key.pem");
        let pair = keygen().unwrap();
        pair.save(&file).unwrap();
        assert!(pair.save(&file).is_err(), "a key is never overwritten");
        let permissions = std::fs::metadata(&file).unwrap().permissions();
        let mode = std::os::unix::fs::PermissionsExt::mode(&permissions);
        assert_eq!(mode & 0o777, 0o600);
        let private = std::fs::read_to_string(&file).unwrap();
        let public = std::fs::read_to_string(folder.path().join("key.pem.pub")).unwrap();
        let signature = PrivateKey::parse(&private).unwrap().sign(b"text");
        let public = PublicKey::parse(&public).unwrap();
        assert!(public.made(&signature, b"text") && !public.made(&signature, b"other"));
    }

    #[test]
    fn a_key_of_openssl_signs_too() {
        // The private key of RFC 8410, section 10.3, and the public key that belongs to it.
        let pem = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC\n-----END PRIVATE KEY-----\n";
        let public = PublicKey::parse("Gb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=").unwrap();
        assert!(public.made(&PrivateKey::parse(pem).unwrap().sign(b"text"), b"text"));
        assert!(PrivateKey::parse("no key").is_err() && PublicKey::parse("AAAA").is_err());
    }
}
