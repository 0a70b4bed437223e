//! Whose components a server takes.

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use taskforge_domain::Digest;
use taskforge_registry::{SignaturePolicy, TrustedKeys, signature};
use taskforge_testing::guests;

use crate::harness::{Api, Setup};

#[tokio::test]
async fn a_host_that_asks_for_signatures_takes_nothing_else() {
    let pair = signature::keygen().unwrap();
    let setup = Setup { signatures: trusting(&pair), ..Setup::default() };
    let api = setup.start().await;
    let component = guests::bytes("fibonacci");
    let unsigned = api.push(&[], &component).await.problem(403, "signature");
    assert!(unsigned["detail"].as_str().unwrap().contains("not signed"), "{unsigned}");
    let info = describe(&component).await;
    let signed = envelope(&pair, &info, &json!({}));
    let push = async |signed: &str| api.push(&[("signature", signed)], &component).await;
    let foreign = envelope(&signature::keygen().unwrap(), &info, &json!({}));
    push(&foreign).await.problem(403, "signature");
    for change in [
        json!({"version": "0.0.1"}),
        json!({"name": "other"}),
        json!({"owner": "acme"}),
        json!({"digest": "00".repeat(32)}),
        json!({"shape": "command"}),
    ] {
        push(&envelope(&pair, &info, &change)).await.problem(403, "signature");
    }
    let answer = push(&signed).await;
    assert_eq!((answer.status, &answer.json()["signed"]), (201, &json!(true)));
    let signature = &answer.json()["signature"];
    assert_eq!((&signature["keys"], &signature["problem"]), (&json!(["ci"]), &json!(null)));
    assert_eq!(signature["statement"]["digest"], answer.json()["digest"]);

    // Wider settings, and a wider statement that allows them.
    let (name, version) = (info["name"].as_str().unwrap(), info["version"].as_str().unwrap());
    let path = format!("/plugins/{name}/versions/{version}");
    let wide = json!({"grants": {"http": {"hosts": ["example.com"]}}});
    let settings = format!("{path}/settings");
    let refused = api.put(&settings, &wide).await.problem(403, "signature");
    assert!(refused["detail"].as_str().unwrap().contains("grants.http.hosts"), "{refused}");
    let wider = envelope(&pair, &info, &wide);
    let attached =
        api.put(&format!("{path}/signature"), &serde_json::from_str(&wider).unwrap()).await;
    assert_eq!(attached.status, 200, "{attached:?}");
    assert_eq!(api.put(&settings, &wide).await.status, 200);
    let back = serde_json::from_str(&signed).unwrap();
    api.put(&format!("{path}/signature"), &back).await.problem(403, "signature");
    let none = api.put(&format!("{path}/signature"), &json!({})).await;
    none.problem(422, "validation");
    // One of an earlier release.
    let old = "A".repeat(86) + "==";
    let refused = push(&old).await.problem(403, "signature");
    assert!(refused["detail"].as_str().unwrap().contains("taskforge plugin sign"), "{refused}");
}

#[tokio::test]
async fn an_older_version_needs_a_word_where_signatures_are_asked_for() {
    let pair = signature::keygen().unwrap();
    let setup = Setup { signatures: trusting(&pair), ..Setup::default() };
    let api = setup.start().await;
    let component = guests::bytes("command");
    for version in ["1.0.0", "2.0.0"] {
        let info = json!({
            "name": "shaped", "version": version, "digest": digest(&component), "shape": "command",
        });
        let signed = envelope(&pair, &info, &json!({}));
        let pairs = [
            ("name", "shaped"),
            ("version", version),
            ("signature", &signed),
            ("activate", "true"),
        ];
        assert_eq!(api.push(&pairs, &component).await.status, 201);
    }
    let activate = async |body: Value| api.post("/plugins/shaped/activate", &body).await;
    let refused = activate(json!({"version": "1.0.0", "force": true})).await;
    let refused = refused.problem(409, "plugin-conflict");
    assert!(refused["detail"].as_str().unwrap().contains("allow_downgrade"), "{refused}");
    let body = json!({"version": "1.0.0", "percent": 5});
    api.post("/plugins/shaped/canary", &body).await.problem(409, "plugin-conflict");
    let allowed = activate(json!({"version": "1.0.0", "allow_downgrade": true})).await;
    assert_eq!((allowed.status, &allowed.json()["active"]), (200, &json!("1.0.0")));
    let events = api.get("/plugins/shaped/events").await;
    assert!(events.text().contains("older than 2.0.0, which was live"), "{events:?}");
}

fn trusting(pair: &signature::KeyPair) -> SignaturePolicy {
    let public = &pair.public;
    let keys = format!("[[key]]\nname = \"ci\"\npublic_key = \"{public}\"\nshared = true\n");
    SignaturePolicy { required: true, trusted: TrustedKeys::parse(&keys).unwrap() }
}

fn digest(component: &[u8]) -> String {
    Digest::from_bytes(Sha256::digest(component).into()).to_string()
}

/// What a component is, as a server that asks for no signature says.
async fn describe(component: &[u8]) -> Value {
    let answer = Api::start().await.push(&[], component).await;
    assert_eq!(answer.status, 201);
    answer.json()
}

/// A signature for a version as a server shows it, with something of the statement changed.
pub(crate) fn envelope(pair: &signature::KeyPair, version: &Value, change: &Value) -> String {
    let mut statement = json!({ "owner": null, "grants": {}, "config": [] });
    for field in ["name", "version", "digest", "shape"] {
        statement[field] = version[field].clone();
    }
    for (field, value) in change.as_object().unwrap() {
        statement[field] = value.clone();
    }
    let statement = serde_json::from_value(statement).unwrap();
    let signed = signature::sign(&pair.private_pem, &statement).unwrap();
    String::from_utf8(signed).unwrap().trim().to_owned()
}
