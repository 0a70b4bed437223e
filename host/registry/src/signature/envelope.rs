//! How a statement travels with its signatures: DSSE, the Dead Simple Signing Envelope, version
//! 1.0.2 (<https://github.com/secure-systems-lab/dsse>), as JSON.
//!
//! What is signed is not JSON text that has to be brought into a canonical form, but the payload's
//! bytes and their type. So two readers of one envelope cannot disagree on what was signed.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde::{Deserialize, Serialize};

use super::{
    SignatureError, Statement,
    key::{KeyError, PrivateKey, PublicKey},
};

/// The type of the payload: a [`Statement`] as JSON.
pub const PAYLOAD_TYPE: &str = "application/vnd.taskforge.plugin+json";
/// Bytes of an envelope's text, at most. The databases hold it to the same.
pub const MAX_ENVELOPE: usize = 32 << 10;
/// Signatures in an envelope. Each is held against every trusted key.
const MAX_SIGNATURES: usize = 8;
/// Bytes of a signature of the earlier form.
const BYTES_ONLY: usize = 64;

/// The envelope as JSON. Its other fields, which the standard has readers ignore, are not signed.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Envelope {
    payload: String,
    payload_type: String,
    signatures: Vec<Signature>,
}

#[derive(Serialize, Deserialize)]
struct Signature {
    /// A hint for people. It is not signed, and nothing here goes by it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    keyid: Option<String>,
    sig: String,
}

/// An envelope that was read. Nobody vouches for what its statement says before a signature was
/// verified.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) statement: Statement,
    signed: Vec<u8>,
    signatures: Vec<Vec<u8>>,
}

impl Opened {
    /// Whether this key made one of the signatures.
    pub(super) fn is_signed_by(&self, key: &PublicKey) -> bool {
        self.signatures.iter().any(|signature| key.made(signature, &self.signed))
    }
}

/// Signs a statement with a private key in PEM text. Returns the envelope's text.
///
/// # Errors
/// When the key is none, or the statement is longer than an envelope may be.
pub fn sign(private_pem: &str, statement: &Statement) -> Result<Vec<u8>, KeyError> {
    let key = PrivateKey::parse(private_pem)?;
    let failed = |error: serde_json::Error| KeyError(error.to_string());
    let payload = serde_json::to_vec(statement).map_err(failed)?;
    let envelope = Envelope {
        signatures: vec![Signature {
            keyid: Some(key.id()),
            sig: BASE64_STANDARD.encode(key.sign(&pre_authentication(PAYLOAD_TYPE, &payload))),
        }],
        payload: BASE64_STANDARD.encode(payload),
        payload_type: PAYLOAD_TYPE.to_owned(),
    };
    let mut text = serde_json::to_vec(&envelope).map_err(failed)?;
    text.push(b'\n');
    match open(&text) {
        Ok(_) => Ok(text),
        Err(error) => Err(KeyError(error.to_string())),
    }
}

/// What a signature says, whoever made it.
///
/// # Errors
/// When it is no signature of a plugin.
pub fn unverified(text: &[u8]) -> Result<Statement, SignatureError> {
    open(text).map(|opened| opened.statement)
}

/// Reads an envelope.
pub(super) fn open(text: &[u8]) -> Result<Opened, SignatureError> {
    let form = |reason: &str| SignatureError::Form(reason.to_owned());
    if is_bytes_only(text) {
        return Err(SignatureError::BytesOnly);
    }
    if text.len() > MAX_ENVELOPE {
        let reason = format!("it has {} bytes, more than {MAX_ENVELOPE}", text.len());
        return Err(SignatureError::Form(reason));
    }
    let envelope: Envelope = serde_json::from_slice(text)
        .map_err(|error| SignatureError::Form(format!("it is no DSSE envelope: {error}")))?;
    if envelope.payload_type != PAYLOAD_TYPE {
        return Err(form(
            "its payload is of another type than application/vnd.taskforge.plugin+json",
        ));
    }
    if envelope.signatures.is_empty() || envelope.signatures.len() > MAX_SIGNATURES {
        let reason = format!("an envelope has 1 to {MAX_SIGNATURES} signatures");
        return Err(SignatureError::Form(reason));
    }
    let decode =
        |text: &str| BASE64_STANDARD.decode(text).map_err(|_| form("it has what is no base64"));
    let payload = decode(&envelope.payload)?;
    let statement = serde_json::from_slice(&payload)
        .map_err(|error| SignatureError::Form(format!("its statement cannot be read: {error}")))?;
    let signatures = envelope.signatures.iter();
    Ok(Opened {
        statement,
        signed: pre_authentication(&envelope.payload_type, &payload),
        signatures: signatures.map(|signature| decode(&signature.sig)).collect::<Result<_, _>>()?,
    })
}

/// Whether this is a signature of the earlier form: raw, or as its file and the API had it.
fn is_bytes_only(text: &[u8]) -> bool {
    let decoded = || BASE64_STANDARD.decode(text.trim_ascii());
    text.len() == BYTES_ONLY && !text.starts_with(b"{")
        || decoded().is_ok_and(|bytes| bytes.len() == BYTES_ONLY)
}

/// DSSE's pre-authentication encoding: `DSSEv1`, the type and the payload, each with its length.
fn pre_authentication(payload_type: &str, payload: &[u8]) -> Vec<u8> {
    let (length, size) = (payload_type.len(), payload.len());
    let mut bytes = format!("DSSEv1 {length} {payload_type} {size} ").into_bytes();
    bytes.extend_from_slice(payload);
    bytes
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::{super::keygen, *};

    fn statement() -> Statement {
        serde_json::from_value(json!({
            "name": "work", "version": "1.0.0", "owner": "acme", "digest": "ab".repeat(32),
            "shape": "handler", "grants": {}, "config": [],
        }))
        .unwrap()
    }

    #[test]
    fn the_encoding_is_that_of_the_standard() {
        // The example of the standard's protocol.md.
        let encoded = pre_authentication("http://example.com/HelloWorld", b"hello world");
        assert_eq!(encoded, b"DSSEv1 29 http://example.com/HelloWorld 11 hello world");
    }

    #[test]
    fn an_envelope_reads_back_and_every_change_of_what_is_signed_shows() {
        let (pair, other) = (keygen().unwrap(), keygen().unwrap());
        let text = sign(&pair.private_pem, &statement()).unwrap();
        let key = PublicKey::parse(&pair.public).unwrap();
        let opened = open(&text).unwrap();
        assert_eq!(opened.statement, statement());
        assert!(opened.is_signed_by(&key));
        assert!(!opened.is_signed_by(&PublicKey::parse(&other.public).unwrap()));

        let envelope: Value = serde_json::from_slice(&text).unwrap();
        let mut changed = envelope.clone();
        let payload = BASE64_STANDARD.decode(envelope["payload"].as_str().unwrap()).unwrap();
        let payload = String::from_utf8(payload).unwrap().replace("1.0.0", "1.0.1");
        changed["payload"] = json!(BASE64_STANDARD.encode(payload));
        let opened = open(changed.to_string().as_bytes()).unwrap();
        assert!(!opened.is_signed_by(&key));

        // What others add, as the standard allows, changes nothing; a second signature may come
        // along.
        let mut more = envelope.clone();
        more["note"] = json!("x");
        more["signatures"][0]["keyid"] = json!("another");
        let foreign: Value =
            serde_json::from_slice(&sign(&other.private_pem, &statement()).unwrap()).unwrap();
        let signatures = more["signatures"].as_array_mut().unwrap();
        signatures.insert(0, foreign["signatures"][0].clone());
        let opened = open(more.to_string().as_bytes()).unwrap();
        assert!(opened.is_signed_by(&key));
        assert!(opened.is_signed_by(&PublicKey::parse(&other.public).unwrap()));
    }

    #[test]
    fn what_is_no_envelope_is_refused_with_the_reason() {
        let pair = keygen().unwrap();
        let text = sign(&pair.private_pem, &statement()).unwrap();
        let envelope: Value = serde_json::from_slice(&text).unwrap();
        let with = |field: &str, value: Value| {
            let mut changed = envelope.clone();
            changed[field] = value;
            changed.to_string()
        };
        let payload = |text: &str| with("payload", json!(BASE64_STANDARD.encode(text)));
        let own = serde_json::to_string(&statement()).unwrap();
        let many = vec![envelope["signatures"][0].clone(); 9];
        let twice = envelope.to_string().replacen('{', r#"{"payload":"","#, 1);
        for (text, reason) in [
            (String::new(), "no DSSE envelope"),
            ("null".to_owned(), "no DSSE envelope"),
            (" ".repeat(MAX_ENVELOPE + 1), "more than 32768"),
            (with("payloadType", json!("application/json")), "another type"),
            (with("signatures", json!([])), "1 to 8 signatures"),
            (with("signatures", json!(many)), "1 to 8 signatures"),
            (with("signatures", json!([{"sig": "*"}])), "no base64"),
            (with("payload", json!("*")), "no base64"),
            (twice, "duplicate field"),
            (payload(""), "statement"),
            (payload(&own.replacen('{', r#"{"more":1,"#, 1)), "unknown field"),
            (payload(&own.replacen('{', r#"{"name":"evil","#, 1)), "duplicate field"),
            (payload(&format!("{own}{own}")), "trailing"),
            (format!("{envelope}{envelope}"), "trailing"),
        ] {
            let refused = open(text.as_bytes()).unwrap_err().to_string();
            assert!(refused.contains(reason), "{refused}");
        }
    }

    #[test]
    fn a_signature_over_bytes_only_is_told_to_be_made_again() {
        for old in [
            vec![7; 64],
            BASE64_STANDARD.encode([7; 64]).into_bytes(),
            format!("{}\n", BASE64_STANDARD.encode([7; 64])).into_bytes(),
        ] {
            let refused = open(&old).unwrap_err();
            assert_eq!(refused, SignatureError::BytesOnly);
            assert!(refused.to_string().contains("taskforge plugin sign"), "{refused}");
        }
    }
}
