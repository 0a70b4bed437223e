//! Whose signatures this host takes.

use serde::Deserialize;
use taskforge_domain::{Digest, PluginInfo, TaskType, TenantId};

use super::{
    SignatureError, Statement, envelope,
    key::{KeyError, PublicKey},
};

/// Keys that this host trusts, and for whom.
#[derive(Debug, Clone, Default)]
pub struct TrustedKeys(Vec<TrustedKey>);

#[derive(Debug, Clone)]
struct TrustedKey {
    name: String,
    public_key: PublicKey,
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
    /// Reads a file of trusted keys: tables `[[key]]` with `name`, `public_key` (base64), and for
    /// whom it is trusted: `tenants`, a list, and `shared = true` for plugins that all tenants
    /// share.
    ///
    /// # Errors
    /// When it is no such file; which key is wrong, and why.
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        let file: KeyFile = toml::from_str(text).map_err(|error| KeyError(error.to_string()))?;
        let keys = file.key.into_iter().map(|entry| {
            if entry.tenants.is_empty() && !entry.shared {
                return Err(KeyError(format!(
                    "the key {:?} is trusted for nobody: give it tenants = [\"acme\"] or \
                     shared = true",
                    entry.name
                )));
            }
            let public_key = PublicKey::parse(&entry.public_key)
                .map_err(|KeyError(why)| KeyError(format!("the key {:?}: {why}", entry.name)))?;
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
    /// Refuses what is not signed by a trusted key, whenever it is pushed, is to run, or is loaded.
    ///
    /// A signature that is there counts also where none is required: what it says holds, and if
    /// this host trusts any keys, one of them must have made it.
    pub required: bool,
    /// The keys.
    pub trusted: TrustedKeys,
}

/// A statement, and who stands behind it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vouched {
    /// What was signed.
    pub statement: Statement,
    /// The names of the trusted keys that signed it. None on a host that requires no signature and
    /// trusts no key.
    pub keys: Vec<String>,
}

impl SignaturePolicy {
    /// Checks a version of a plugin: who signed it, and that it is what was signed. `None`: nobody
    /// signed it, and nobody has to.
    ///
    /// # Errors
    /// When this host does not take it.
    pub fn check(
        &self,
        plugin: &TaskType,
        owner: Option<&TenantId>,
        info: &PluginInfo,
        signature: Option<&[u8]>,
    ) -> Result<Option<Vouched>, SignatureError> {
        let vouched = self.open(plugin, owner, signature)?;
        if let Some(Vouched { statement, .. }) = &vouched {
            statement.check(plugin, owner, info)?;
        }
        Ok(vouched)
    }

    /// Checks what comes before it is compiled: who signed it, for whom, and its bytes.
    pub(crate) fn check_source(
        &self,
        plugin: &TaskType,
        owner: Option<&TenantId>,
        digest: &Digest,
        signature: Option<&[u8]>,
    ) -> Result<(), SignatureError> {
        match self.open(plugin, owner, signature)? {
            Some(vouched) => vouched.statement.check_source(owner, digest),
            None => Ok(()),
        }
    }

    fn open(
        &self,
        plugin: &TaskType,
        owner: Option<&TenantId>,
        signature: Option<&[u8]>,
    ) -> Result<Option<Vouched>, SignatureError> {
        let Some(signature) = signature else {
            return match self.required {
                true => Err(SignatureError::Unsigned(plugin.clone())),
                false => Ok(None),
            };
        };
        let opened = envelope::open(signature)?;
        let signed = |key: &&TrustedKey| opened.is_signed_by(&key.public_key);
        let signers: Vec<_> = self.trusted.0.iter().filter(signed).collect();
        let keys: Vec<_> =
            signers.iter().filter(|key| key.is_for(owner)).map(|key| key.name.clone()).collect();
        let nobody_is_known = !self.required && self.trusted.is_empty();
        match signers.first() {
            None if nobody_is_known => {}
            None => return Err(SignatureError::NoMatch(plugin.clone())),
            Some(signer) if keys.is_empty() => {
                return Err(SignatureError::NotTrusted {
                    plugin: plugin.clone(),
                    key: signer.name.clone(),
                    whose: match owner {
                        Some(tenant) => format!("tenant {tenant}"),
                        None => "shared plugins".to_owned(),
                    },
                });
            }
            Some(_) => {}
        }
        Ok(Some(Vouched { statement: opened.statement, keys }))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{
        super::{KeyPair, keygen, sign},
        *,
    };

    fn policy(pair: &KeyPair, whose: &str) -> SignaturePolicy {
        let public = &pair.public;
        let text = format!("[[key]]\nname = \"ci\"\npublic_key = \"{public}\"\n{whose}\n");
        SignaturePolicy { required: true, trusted: TrustedKeys::parse(&text).unwrap() }
    }

    fn name() -> TaskType {
        TaskType::new("work").unwrap()
    }

    fn signed(pair: &KeyPair, owner: Option<&TenantId>) -> Vec<u8> {
        let statement = serde_json::from_value(json!({
            "name": "work", "version": "1.0.0", "owner": owner, "digest": "01".repeat(32),
            "shape": "handler", "grants": {}, "config": [],
        }));
        sign(&pair.private_pem, &statement.unwrap()).unwrap()
    }

    const DIGEST: Digest = Digest::from_bytes([1; 32]);

    #[test]
    fn a_signature_counts_for_whom_its_key_is_trusted() {
        let pair = keygen().unwrap();
        let (acme, other) = (TenantId::new("acme").unwrap(), TenantId::new("other").unwrap());
        let policy = policy(&pair, "tenants = [\"acme\"]");
        let check = |owner: Option<&TenantId>, signature: &[u8]| {
            policy.check_source(&name(), owner, &DIGEST, Some(signature))
        };
        check(Some(&acme), &signed(&pair, Some(&acme))).unwrap();
        for owner in [Some(&other), None] {
            let error = check(owner, &signed(&pair, owner)).unwrap_err().to_string();
            assert!(error.contains("the key \"ci\", which is not trusted for"), "{error}");
        }
        // A trusted key's word for one owner is none for another.
        let error = check(Some(&acme), &signed(&pair, Some(&other))).unwrap_err();
        assert!(matches!(error, SignatureError::Other { .. }), "{error}");
    }

    #[test]
    fn unsigned_changed_and_foreign_components_are_refused_each_in_its_own_words() {
        let (pair, stranger) = (keygen().unwrap(), keygen().unwrap());
        let policy = policy(&pair, "shared = true");
        let check = |digest: &Digest, signature: Option<&[u8]>| {
            policy.check_source(&name(), None, digest, signature)
        };
        assert_eq!(check(&DIGEST, None), Err(SignatureError::Unsigned(name())));
        let own = signed(&pair, None);
        check(&DIGEST, Some(&own)).unwrap();
        let changed = check(&Digest::from_bytes([2; 32]), Some(&own)).unwrap_err();
        assert!(changed.to_string().contains("the component 0101"), "{changed}");
        let foreign = check(&DIGEST, Some(&signed(&stranger, None)));
        assert_eq!(foreign, Err(SignatureError::NoMatch(name())));
    }

    #[test]
    fn a_signature_that_is_there_counts_where_none_is_required() {
        let (pair, stranger) = (keygen().unwrap(), keygen().unwrap());
        let keyed = SignaturePolicy { required: false, ..policy(&pair, "shared = true") };
        let keyless = SignaturePolicy::default();
        let (own, foreign) = (signed(&pair, None), signed(&stranger, None));
        let other = Digest::from_bytes([2; 32]);
        for policy in [&keyed, &keyless] {
            let check = |digest: &Digest, signature: Option<&[u8]>| {
                policy.check_source(&name(), None, digest, signature)
            };
            check(&DIGEST, None).unwrap();
            check(&DIGEST, Some(&own)).unwrap();
            assert!(check(&other, Some(&own)).is_err());
            assert!(check(&DIGEST, Some(b"{}")).is_err());
        }
        let foreign = |policy: &SignaturePolicy| policy.open(&name(), None, Some(&foreign));
        assert!(foreign(&keyed).is_err());
        assert_eq!(foreign(&keyless).unwrap().unwrap().keys, [""; 0]);
        let own = keyed.open(&name(), None, Some(&own)).unwrap().unwrap();
        assert_eq!(own.keys, ["ci"]);
    }

    #[test]
    fn a_file_of_keys_says_which_of_them_is_wrong() {
        for (text, reason) in [
            ("[[key]]\nname = \"a\"\npublic_key = \"AAAA\"\nshared = true", "\"a\""),
            ("[[key]]\nname = \"b\"\npublic_key = \"AAAA\"", "trusted for nobody"),
            ("[[keys]]\nname = \"c\"", "unknown field"),
        ] {
            let error = TrustedKeys::parse(text).unwrap_err();
            assert!(error.to_string().contains(reason), "{error}");
        }
    }
}
