//! What versions may use and reach, and what they may know.

use serde_json::json;
use taskforge_testing::guests;

use super::push_command;
use crate::harness::Api;

#[tokio::test]
async fn settings_are_taken_over_and_told_and_a_grant_is_not_lost_unseen() {
    let api = Api::start().await;
    let command = guests::bytes("command");
    let push = async |version: &str, more: &[(&str, &str)]| {
        let own = [("name", "shaped"), ("version", version)];
        api.push(&[&own[..], more].concat(), &command).await
    };
    let settings =
        json!({"limits": {"fuel": 4711}, "config": {"url": "x"}, "grants": {"secrets": ["key"]}});
    let given = settings.to_string();
    let first = push("1.0.0", &[("settings", &given), ("activate", "true")]).await;
    assert_eq!((first.status, first.json().get("settings_note")), (201, None));
    let second = push("2.0.0", &[]).await.json();
    assert_eq!(second["limits"]["fuel"], 4711);
    assert_eq!(
        (&second["config"], &second["grants"]["secrets"]),
        (&json!({"url": "x"}), &json!(["key"]))
    );
    assert_eq!(
        second["settings_note"],
        "no settings were given: 2.0.0 has those of 1.0.0, which runs"
    );

    let other = json!({"limits": {"fuel": 5}}).to_string();
    let again = push("2.0.0", &[("settings", &other)]).await;
    let note = again.json()["settings_note"].as_str().unwrap().to_owned();
    assert_eq!((again.status, &again.json()["limits"]["fuel"]), (200, &json!(4711)));
    assert!(
        note.contains("keeps its settings") && note.contains("limits, grants, config"),
        "{note}"
    );
    let same = push("2.0.0", &[("settings", &given)]).await;
    assert_eq!(same.json().get("settings_note"), None, "the same settings again");
}

#[tokio::test]
async fn settings_change_per_version_and_what_is_wrong_in_them_is_named() {
    let api = Api::start().await;
    push_command(&api, "1.0.0", json!({})).await;
    let path = "/plugins/shaped/versions/1.0.0/settings";
    let grants = json!({
        "mail": {"recipients": ["example.com"]},
        "http": {"hosts": [{"host": "api.example.com", "methods": ["POST"]}]},
    });
    let limits = json!({"deadline": "5s", "concurrency": 3});
    let settings = json!({"limits": limits, "grants": grants, "config": {"a": "b"}});
    let changed = api.put(path, &settings).await;
    assert_eq!(changed.status, 200, "{changed:?}");
    let version = changed.json();
    assert_eq!(
        (&version["limits"]["deadline"], &version["config"]),
        (&json!("5s"), &json!({"a": "b"}))
    );
    assert_eq!(version["grants"]["http"]["hosts"], settings["grants"]["http"]["hosts"]);
    assert_eq!(api.get("/plugins/shaped/versions/1.0.0").await.json(), version);
    for (wrong, pointer) in [
        (json!({"limits": {"feul": 1}}), "/limits/feul"),
        (json!({"grants": {"http": {"hosts": ["a", 7]}}}), "/grants/http/hosts/1"),
        (json!({"config": {"a": 1}}), "/config/a"),
        (json!({"limits": {"fuel": 0}}), "/limits/fuel"),
        (json!({"limits": {"memories": 1_000_000}}), "/limits/memories"),
    ] {
        assert_eq!(api.put(path, &wrong).await.pointers(), [pointer], "{wrong}");
    }
    let unknown = api.put(path, &json!({"limit": {}})).await.problem(422, "validation");
    assert!(unknown["detail"].as_str().unwrap().contains("limit"), "{unknown}");
    let malformed = api.send("PUT", path, &[("content-type", "application/json")], b"{").await;
    malformed.problem(400, "malformed-body");
}

#[tokio::test]
async fn a_secret_is_set_and_never_shown() {
    let api = Api::start().await;
    let secret = json!({"value": "k-0123456789"});
    let early = api.put("/plugins/shaped/secrets/key", &secret).await;
    early.problem(404, "not-found");
    push_command(&api, "1.0.0", json!({})).await;
    let empty = api.put("/plugins/shaped/secrets/key", &json!({"value": ""})).await;
    assert_eq!(empty.pointers(), ["/value"]);
    let set = api.put("/plugins/shaped/secrets/key", &secret).await;
    assert_eq!((set.status, &set.json()["secrets"][0]["name"]), (200, &json!("key")));
    let wrong =
        api.put("/plugins/shaped/secrets/key", &json!({"value": {"k": "k-0123456789"}})).await;
    assert_eq!(wrong.pointers(), ["/value"]);
    let listed = api.get("/plugins/shaped/secrets").await;
    let events = api.get("/plugins/shaped/events").await;
    let version = api.get("/plugins/shaped/versions/1.0.0").await;
    for answer in [&set, &wrong, &listed, &events, &version] {
        assert!(!answer.text().contains("0123456789"), "{answer:?}");
    }
    let deleted = api.delete("/plugins/shaped/secrets/key").await;
    assert_eq!((deleted.status, deleted.json()), (200, json!({"secrets": []})));
    api.delete("/plugins/shaped/secrets/key").await.problem(404, "not-found");
}
