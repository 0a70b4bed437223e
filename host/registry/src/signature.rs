//! Who vouches for a component's bytes: detached ed25519 signatures.

use std::{fs::OpenOptions, io::Write as _, os::unix::fs::OpenOptionsExt as _, path::Path};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use ring::{
    rand::SystemRandom,
    signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey},
};
use serde::Deserialize;
use taskforge_domain::{TaskType, TenantId};

/// Bytes of a signature.
const SIGNATURE: usize = 64;
/// Bytes of a public key.
const PUBLIC_KEY: usize = 32;
const PEM_BEGIN: &str = "-----BEGIN PRIVATE KEY-----";
const PEM_END: &str = "-----END PRIVATE KEY-----";

/// Why a signature, or its absence, is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// There is none.
    #[error(
        "{0} is not signed, and this host takes signed components only: sign it with `taskforge plugin sign`"
    )]
    Unsigned(TaskType),
    /// It is none.
    #[error("this is no ed25519 signature: {0}")]
    Form(String),
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
    #[error(
        "the signature of {0} does not match its bytes with any key that this host trusts: it was made with another key, or for another file"
    )]
    NoMatch(TaskType),
}

/// Why a key cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct KeyError(String);

/// Keys that this host trusts, and for whom.
#[derive(Debug, Clone, Default)]
pub struct TrustedKeys(Vec<TrustedKey>);

#[derive(Debug, Clone)]
struct TrustedKey {
    name: String,
    public_key: [u8; PUBLIC_KEY],
    tenants: Vec<TenantId>,
    shared: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct KeyFile {
    #[serde(default)]
    key: Vec<KeyEntry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct KeyEntry {
    name: String,
    public_key: String,
    #[serde(default)]
    tenants: Vec<TenantId>,
    #[serde(default)]
    shared: bool,
}

impl TrustedKeys {
    /// Reads a file of trusted keys: tables `[[key]]` with `name`, `public_key` (base64), and for whom it is trusted: `tenants`, a list,
    /// and `shared = true` for plugins that all tenants share.
    ///
    /// # Errors
    /// When it is no such file; which key is wrong, and why.
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        let file: KeyFile = toml::from_str(text).map_err(|error| KeyError(error.to_string()))?;
        let keys = file.key.into_iter().map(|entry| {
            if entry.tenants.is_empty() && !entry.shared {
                return Err(KeyError(format!(
                    "the key {:?} is trusted for nobody: give it tenants = [\"acme\"] or shared = true",
                    entry.name
                )));
            }
            let public_key = public_key(&entry.public_key)
                .map_err(|KeyError(reason)| KeyError(format!("the key {:?}: {reason}", entry.name)))?;
            Ok(TrustedKey {
                name: entry.name,
                public_key,
                tenants: entry.tenants,
                shared: entry.shared,
            })
        });
        keys.collect::<Result<_, _>>().map(Self)
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl TrustedKey {
    fn is_for(&self, owner: Option<&TenantId>) -> bool {
        match owner {
            Some(tenant) => self.tenants.contains(tenant),
            None => self.shared,
        }
    }
}

/// Whose components this host takes.
#[derive(Debug, Clone, Default)]
pub struct SignaturePolicy {
    /// Refuses what is not signed by a trusted key, at push and again when it is loaded. Otherwise a signature is checked only if there is
    /// one and there are keys to check it with.
    pub required: bool,
    /// The keys.
    pub trusted: TrustedKeys,
}

impl SignaturePolicy {
    /// Checks a component of a plugin.
    ///
    /// # Errors
    /// When this host does not take it.
    pub fn check(
        &self,
        plugin: &TaskType,
        owner: Option<&TenantId>,
        bytes: &[u8],
        signature: Option<&[u8]>,
    ) -> Result<(), SignatureError> {
        let Some(signature) = signature else {
            return match self.required {
                true => Err(SignatureError::Unsigned(plugin.clone())),
                false => Ok(()),
            };
        };
        check_form(signature)?;
        if !self.required && self.trusted.is_empty() {
            return Ok(());
        }
        let made_it = |key: &&TrustedKey| is_of(&key.public_key, bytes, signature);
        let mut makers = self.trusted.0.iter().filter(made_it).peekable();
        let Some(first) = makers.peek() else {
            return Err(SignatureError::NoMatch(plugin.clone()));
        };
        let name = first.name.clone();
        if makers.any(|key| key.is_for(owner)) {
            return Ok(());
        }
        Err(SignatureError::NotTrusted {
            plugin: plugin.clone(),
            key: name,
            whose: owner.map_or_else(
                || "shared plugins".to_owned(),
                |tenant| format!("tenant {tenant}"),
            ),
        })
    }
}

/// A new key pair.
#[derive(Clone)]
pub struct KeyPair {
    /// The private key, PKCS #8 as PEM text. To be kept in a file that only its owner can read.
    pub private_pem: String,
    /// The public key, base64 of 32 bytes.
    pub public: String,
}

impl KeyPair {
    /// Writes the private key to a new file that only this user can read, and the public key to `FILE.pub`.
    ///
    /// # Errors
    /// When a file cannot be written, or one with the private key's name exists.
    pub fn save(&self, file: &Path) -> std::io::Result<()> {
        let mut private = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(file)?;
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
    Ok(KeyPair {
        private_pem,
        public: BASE64_STANDARD.encode(pair.public_key().as_ref()),
    })
}

/// Signs bytes with a private key in PEM text, of [`keygen`] or of `openssl genpkey -algorithm ed25519`.
///
/// # Errors
/// When the text is no ed25519 private key.
pub fn sign(private_pem: &str, bytes: &[u8]) -> Result<Vec<u8>, KeyError> {
    let wrong = || KeyError("this is no ed25519 private key in PEM (PKCS #8)".to_owned());
    let body = private_pem
        .split_once(PEM_BEGIN)
        .and_then(|(_, rest)| rest.split_once(PEM_END))
        .map(|(body, _)| body.split_whitespace().collect::<String>())
        .ok_or_else(wrong)?;
    let document = BASE64_STANDARD.decode(body).map_err(|_| wrong())?;
    let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(&document).map_err(|_| wrong())?;
    Ok(pair.sign(bytes).as_ref().to_vec())
}

/// Checks a signature with a public key in base64.
///
/// # Errors
/// When the key is none.
pub fn verify(public: &str, bytes: &[u8], signature: &[u8]) -> Result<bool, KeyError> {
    Ok(is_of(&public_key(public)?, bytes, signature))
}

/// The text of a signature file: base64, and a line end.
#[must_use]
pub fn to_text(signature: &[u8]) -> String {
    format!("{}\n", BASE64_STANDARD.encode(signature))
}

/// Reads the text of a signature file, or of the API's parameter.
///
/// # Errors
/// When it is not base64 of 64 bytes.
pub fn from_text(text: &str) -> Result<Vec<u8>, SignatureError> {
    let signature = BASE64_STANDARD
        .decode(text.trim())
        .map_err(|_| SignatureError::Form("it is not base64".to_owned()))?;
    check_form(&signature)?;
    Ok(signature)
}

fn check_form(signature: &[u8]) -> Result<(), SignatureError> {
    if signature.len() == SIGNATURE {
        Ok(())
    } else {
        Err(SignatureError::Form(format!(
            "it has {} bytes, not {SIGNATURE}",
            signature.len()
        )))
    }
}

fn is_of(public_key: &[u8; PUBLIC_KEY], bytes: &[u8], signature: &[u8]) -> bool {
    UnparsedPublicKey::new(&ED25519, public_key)
        .verify(bytes, signature)
        .is_ok()
}

fn public_key(text: &str) -> Result<[u8; PUBLIC_KEY], KeyError> {
    let bytes = BASE64_STANDARD.decode(text.trim()).ok();
    bytes
        .and_then(|bytes| bytes.try_into().ok())
        .ok_or_else(|| KeyError(format!("a public key is {PUBLIC_KEY} bytes in base64")))
}

#[cfg(test)]
mod tests {
    use super::*;

    const BYTES: &[u8] = b"\0asm, more or less";

    fn policy(pair: &KeyPair, whose: &str) -> SignaturePolicy {
        let text = format!(
            "[[key]]\nname = \"ci\"\npublic_key = \"{}\"\n{whose}\n",
            pair.public
        );
        SignaturePolicy {
            required: true,
            trusted: TrustedKeys::parse(&text).unwrap(),
        }
    }

    fn name() -> TaskType {
        TaskType::new("work").unwrap()
    }

    #[test]
    fn a_signature_counts_for_whom_its_key_is_trusted() {
        let pair = keygen().unwrap();
        let signature = sign(&pair.private_pem, BYTES).unwrap();
        let (acme, other) = (TenantId::new("acme").unwrap(), TenantId::new("other").unwrap());
        let policy = policy(&pair, "tenants = [\"acme\"]");
        policy
            .check(&name(), Some(&acme), BYTES, Some(&signature))
            .unwrap();
        for owner in [Some(&other), None] {
            let error = policy.check(&name(), owner, BYTES, Some(&signature)).unwrap_err();
            assert!(
                error
                    .to_string()
                    .contains("signed with the key \"ci\", which is not trusted for"),
                "{error}"
            );
        }
    }

    #[test]
    fn unsigned_changed_and_foreign_components_are_refused_each_in_its_own_words() {
        let (pair, stranger) = (keygen().unwrap(), keygen().unwrap());
        let policy = policy(&pair, "shared = true");
        let unsigned = policy.check(&name(), None, BYTES, None).unwrap_err();
        assert_eq!(unsigned, SignatureError::Unsigned(name()));
        let signature = sign(&pair.private_pem, BYTES).unwrap();
        let changed = policy.check(&name(), None, b"other", Some(&signature));
        assert_eq!(changed, Err(SignatureError::NoMatch(name())));
        let foreign = sign(&stranger.private_pem, BYTES).unwrap();
        let foreign = policy.check(&name(), None, BYTES, Some(&foreign));
        assert_eq!(foreign, Err(SignatureError::NoMatch(name())));
        let short = policy.check(&name(), None, BYTES, Some(&signature[..63]));
        assert!(matches!(short, Err(SignatureError::Form(_))));
    }

    #[test]
    fn a_host_that_asks_for_no_signature_still_refuses_a_wrong_one_if_it_has_keys() {
        let pair = keygen().unwrap();
        let signature = sign(&pair.private_pem, BYTES).unwrap();
        let keyed = SignaturePolicy {
            required: false,
            ..policy(&pair, "shared = true")
        };
        keyed.check(&name(), None, BYTES, None).unwrap();
        keyed.check(&name(), None, BYTES, Some(&signature)).unwrap();
        assert!(keyed.check(&name(), None, b"other", Some(&signature)).is_err());
        SignaturePolicy::default()
            .check(&name(), None, b"other", Some(&signature))
            .unwrap();
    }

    #[test]
    fn keys_and_signatures_survive_their_files() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("key.pem");
        let pair = keygen().unwrap();
        pair.save(&file).unwrap();
        assert!(pair.save(&file).is_err(), "a key is never overwritten");
        let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&file).unwrap().permissions());
        assert_eq!(mode & 0o777, 0o600);
        let private = std::fs::read_to_string(&file).unwrap();
        let public = std::fs::read_to_string(folder.path().join("key.pem.pub")).unwrap();
        let signature = sign(&private, BYTES).unwrap();
        assert_eq!(from_text(&to_text(&signature)), Ok(signature.clone()));
        assert!(verify(&public, BYTES, &signature).unwrap());
        assert!(!verify(&public, b"other", &signature).unwrap());
    }

    #[test]
    fn a_key_of_openssl_signs_too() {
        // The private key of RFC 8410, section 10.3, and the public key that belongs to it.
        let pem = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC\n-----END PRIVATE KEY-----\n";
        let public = "Gb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=";
        assert!(verify(public, BYTES, &sign(pem, BYTES).unwrap()).unwrap());
    }

    #[test]
    fn a_file_of_keys_says_which_of_them_is_wrong() {
        for (text, reason) in [
            (
                "[[key]]\nname = \"a\"\npublic_key = \"AAAA\"\nshared = true",
                "\"a\"",
            ),
            (
                "[[key]]\nname = \"b\"\npublic_key = \"AAAA\"",
                "trusted for nobody",
            ),
            ("[[keys]]\nname = \"c\"", "unknown field"),
        ] {
            let error = TrustedKeys::parse(text).unwrap_err();
            assert!(error.to_string().contains(reason), "{error}");
        }
    }
}
