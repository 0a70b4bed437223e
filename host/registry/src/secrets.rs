//! What a plugin may know and nobody may read.
//!
//! A secret lies in the store sealed (ChaCha20-Poly1305) under a key that only processes have. What
//! it was sealed for, the plugin and the name, is part of the seal: a ciphertext that is moved to
//! another row does not open there.

use std::fmt;

use base64::{Engine as _, prelude::BASE64_STANDARD};
use ring::{
    aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    digest::{SHA256, digest},
    rand::{SecureRandom as _, SystemRandom},
};
use taskforge_domain::TaskType;

/// The first byte of what is stored; another one would be another form.
const FORM: u8 = 1;
/// Bytes that tell keys apart.
const KEY_ID: usize = 8;
/// Bytes before the ciphertext.
const HEAD: usize = 1 + KEY_ID + NONCE_LEN;

/// The keys that seal secrets: the first seals, all open. So a key is changed by putting the new
/// one before the old one.
pub struct Keyring(Vec<SealKey>);

struct SealKey {
    id: [u8; KEY_ID],
    key: LessSafeKey,
}

/// Keys that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "a key is 32 bytes in base64 or hexadecimal digits, several are comma-separated; number {0} is \
     not"
)]
pub struct KeyringError(usize);

/// Why a secret was not sealed or opened. Never tells what it says.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SecretError {
    /// This process has no key.
    #[error("this host has no key for secrets: set TASKFORGE_SECRET_KEY")]
    NoKey,
    /// It was sealed with a key that this process does not have.
    #[error(
        "the secret {0} was sealed with a key that this host does not have (TASKFORGE_SECRET_KEY)"
    )]
    OtherKey(String),
    /// It is damaged, or was moved from another plugin or name.
    #[error(
        "the secret {0} cannot be opened: it is damaged, or was sealed for another plugin or name"
    )]
    Damaged(String),
    /// The system has no randomness.
    #[error("no secret can be sealed: the system gives no random numbers")]
    NoRandomness,
}

impl Keyring {
    /// Reads keys: each 32 bytes in base64 or as hexadecimal digits, comma-separated.
    ///
    /// # Errors
    /// When one is none of that. It is not repeated.
    pub fn parse(text: &str) -> Result<Self, KeyringError> {
        let keys = text.split(',').enumerate().map(|(index, text)| {
            let text = text.trim();
            let bytes = hex::decode(text).or_else(|_| BASE64_STANDARD.decode(text));
            let bytes: Option<[u8; 32]> = bytes.ok().and_then(|bytes| bytes.try_into().ok());
            let wrong = || KeyringError(index + 1);
            let bytes = bytes.ok_or_else(wrong)?;
            let key = UnboundKey::new(&CHACHA20_POLY1305, &bytes).map_err(|_| wrong())?;
            Ok(SealKey { id: id(&bytes), key: LessSafeKey::new(key) })
        });
        keys.collect::<Result<_, _>>().map(Self)
    }

    /// Seals a secret of a plugin under the first key.
    ///
    /// # Errors
    /// When the system gives no random numbers.
    pub fn seal(&self, plugin: &TaskType, name: &str, value: &str) -> Result<Vec<u8>, SecretError> {
        let SealKey { id, key } = self.0.first().ok_or(SecretError::NoKey)?;
        // Twelve random bytes: two of a billion secrets share them with a probability of 10^-11.
        let mut nonce = [0; NONCE_LEN];
        let random = SystemRandom::new().fill(&mut nonce);
        random.map_err(|_| SecretError::NoRandomness)?;
        let mut text = value.as_bytes().to_vec();
        key.seal_in_place_append_tag(
            Nonce::assume_unique_for_key(nonce),
            bound_to(plugin, name),
            &mut text,
        )
        .map_err(|_| SecretError::NoRandomness)?;
        let mut sealed = Vec::with_capacity(HEAD + text.len());
        sealed.push(FORM);
        sealed.extend_from_slice(id);
        sealed.extend_from_slice(&nonce);
        sealed.extend_from_slice(&text);
        Ok(sealed)
    }

    /// Opens a secret of a plugin.
    ///
    /// # Errors
    /// When it was sealed with another key, for something else, or is damaged.
    pub fn open(
        &self,
        plugin: &TaskType,
        name: &str,
        sealed: &[u8],
    ) -> Result<String, SecretError> {
        let damaged = || SecretError::Damaged(name.to_owned());
        let (head, text) = sealed.split_at_checked(HEAD).ok_or_else(damaged)?;
        let (front, nonce) = head.split_at(1 + KEY_ID);
        if front[0] != FORM {
            return Err(damaged());
        }
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| damaged())?;
        let key = self.key(&front[1..]);
        let key = key.ok_or_else(|| SecretError::OtherKey(name.to_owned()))?;
        let mut text = text.to_vec();
        let open = key.key.open_in_place(nonce, bound_to(plugin, name), &mut text);
        let length = open.map_err(|_| damaged())?.len();
        text.truncate(length);
        String::from_utf8(text).map_err(|_| damaged())
    }

    /// Whether this ring has the key that something was sealed with.
    #[must_use]
    pub fn can_open(&self, sealed: &[u8]) -> bool {
        let id = sealed.get(1..=KEY_ID);
        id.is_some_and(|id| self.key(id).is_some())
    }

    fn key(&self, id: &[u8]) -> Option<&SealKey> {
        self.0.iter().find(|key| key.id == id)
    }
}

impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Keyring")
    }
}

/// Tells keys apart without telling anything of them.
fn id(key: &[u8; 32]) -> [u8; KEY_ID] {
    let mut text = b"taskforge secret key id\0".to_vec();
    text.extend_from_slice(key);
    let sum = digest(&SHA256, &text);
    let mut id = [0; KEY_ID];
    id.copy_from_slice(&sum.as_ref()[..KEY_ID]);
    id
}

/// What a secret is bound to. A plugin's name holds no NUL, so no two pairs look alike.
fn bound_to(plugin: &TaskType, name: &str) -> Aad<Vec<u8>> {
    Aad::from(format!("{plugin}\0{name}").into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> TaskType {
        TaskType::new(text).unwrap()
    }

    fn ring(bytes: &[u8]) -> Keyring {
        let keys: Vec<_> = bytes.iter().map(|byte| hex::encode([*byte; 32])).collect();
        Keyring::parse(&keys.join(",")).unwrap()
    }

    #[test]
    fn a_secret_opens_only_where_it_was_sealed_for() {
        let keys = ring(&[1]);
        let sealed = keys.seal(&name("sms"), "key", "swordfish").unwrap();
        assert!(!sealed.windows(9).any(|window| window == b"swordfish"));
        assert_eq!(keys.open(&name("sms"), "key", &sealed), Ok("swordfish".to_owned()));
        for (plugin, secret) in [("other", "key"), ("sms", "other")] {
            let moved = keys.open(&name(plugin), secret, &sealed);
            assert_eq!(moved, Err(SecretError::Damaged(secret.to_owned())));
        }
        assert_ne!(sealed, keys.seal(&name("sms"), "key", "swordfish").unwrap());
    }

    #[test]
    fn a_key_is_changed_by_putting_the_new_one_first() {
        let (old, both, new) = (ring(&[1]), ring(&[2, 1]), ring(&[2]));
        let sealed = old.seal(&name("sms"), "key", "swordfish").unwrap();
        assert!(both.can_open(&sealed) && !new.can_open(&sealed));
        assert!(both.open(&name("sms"), "key", &sealed).is_ok());
        let error = new.open(&name("sms"), "key", &sealed).unwrap_err();
        assert!(error.to_string().contains("a key that this host does not have"), "{error}");
        let again = both.seal(&name("sms"), "key", "swordfish").unwrap();
        assert!(new.open(&name("sms"), "key", &again).is_ok());
    }

    #[test]
    fn damage_is_found_and_nothing_panics() {
        let keys = ring(&[1]);
        let sealed = keys.seal(&name("sms"), "key", "swordfish").unwrap();
        for length in 0..sealed.len() {
            assert!(keys.open(&name("sms"), "key", &sealed[..length]).is_err());
        }
        for index in 0..sealed.len() {
            let mut flipped = sealed.clone();
            flipped[index] ^= 1;
            assert!(keys.open(&name("sms"), "key", &flipped).is_err(), "{index}");
        }
    }

    #[test]
    fn keys_are_base64_or_hexadecimal_and_are_never_shown() {
        let base64 = BASE64_STANDARD.encode([7; 32]);
        let keys = Keyring::parse(&format!("{base64}, {}", hex::encode([8; 32]))).unwrap();
        assert_eq!(format!("{keys:?}"), "Keyring");
        for (bad, number) in [("", 1), ("abcd", 1), (&format!("{base64},x"), 2)] {
            assert_eq!(Keyring::parse(bad).unwrap_err(), KeyringError(number));
        }
    }
}
