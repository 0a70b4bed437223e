//! The registry over HTTP: components pushed, activated, tried, rolled back, retired.

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use taskforge_domain::{Digest, PluginSettings};
use taskforge_registry::{Push, SameVersion, SignaturePolicy, TrustedKeys, signature};
use taskforge_store::Store as _;
use taskforge_testing::guests;

use crate::harness::{Answer, Api, Setup};

/// A query string with every value escaped.
fn query(pairs: &[(&str, &str)]) -> String {
    let mut query = String::new();
    for (name, value) in pairs {
        query.push_str(&format!("{}{name}=", if query.is_empty() { "" } else { "&" }));
        for byte in value.bytes() {
            match byte {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'.' | b'-' => query.push(char::from(byte)),
                byte => query.push_str(&format!("%{byte:02X}")),
            }
        }
    }
    query
}

/// Pushes a WASI command under a version with an input schema, without activating it.
pub(crate) async fn push_command(api: &Api, version: &str, input_schema: Value) -> Answer {
    let manifest = json!({"name": "shaped", "version": version, "input_schema": input_schema}).to_string();
    api.push(&query(&[("manifest", &manifest)]), &guests::bytes("command"))
        .await
}

async fn post(api: &Api, path: &str, body: Value) -> Value {
    let answer = api.post(path, &body).await;
    assert_eq!(answer.status, 200, "{path}: {answer:?}");
    answer.json()
}

fn number(least: i64) -> Value {
    json!({"type": "object", "properties": {"n": {"type": "integer", "minimum": least}}, "required": ["n"]})
}

#[tokio::test]
async fn a_component_is_pushed_activated_and_takes_tasks_at_once() {
    let api = Api::start().await;
    let component = guests::bytes("fibonacci");
    let settings = json!({"limits": {"memory": "32 MiB"}, "config": {"colour": "red"}}).to_string();
    let pushed = api.push(&query(&[("settings", &settings)]), &component).await;
    assert_eq!(pushed.status, 201, "{pushed:?}");
    let version = pushed.json();
    let number = version["version"].as_str().unwrap().to_owned();
    assert_eq!(
        (
            &version["name"],
            &version["owner"],
            &version["state"],
            &version["runs_as"]
        ),
        (
            &json!("fibonacci"),
            &Value::Null,
            &json!("available"),
            &Value::Null
        )
    );
    assert_eq!(
        (&version["shape"], &version["pushed_by"]),
        (&json!("handler"), &json!("tester"))
    );
    assert_eq!(version["limits"]["memory"], 32 << 20);
    assert_eq!(version["config"], json!({"colour": "red"}));
    let review = version["review"].as_array().unwrap();
    let config = review.iter().find(|row| row["capability"] == "config");
    assert!(config.is_some_and(|row| row["granted"] != "no"), "{review:?}");

    let task = json!({"task_type": "fibonacci", "input": {"n": 3}});
    let early = api.post("/tasks", &task).await.problem(422, "validation");
    assert!(
        early["detail"]
            .as_str()
            .unwrap()
            .contains("no version of plugin fibonacci is active yet")
    );

    let again = api.push(&query(&[("activate", "true")]), &component).await;
    assert_eq!(again.status, 200, "the same bytes again are no error: {again:?}");
    assert_eq!(again.json()["runs_as"], "stable");
    assert_eq!(api.post("/tasks", &task).await.status, 201);

    let plugin = api.get("/plugins/fibonacci").await.json();
    assert_eq!(
        (&plugin["kind"], &plugin["version"]),
        (&json!("component"), &json!(number))
    );
    assert_eq!(plugin["rollout"]["active"], json!(number));
    assert_eq!(plugin["input_schema"]["type"], "object");
    let list = api.get("/plugins").await.json();
    assert_eq!(list["plugins"][0]["version"], json!(number));
    let bytes = api
        .get(&format!("/plugins/fibonacci/versions/{number}/component"))
        .await;
    assert_eq!(
        (bytes.header("content-type"), bytes.body == component),
        ("application/wasm", true)
    );
    let events = api.get("/plugins/fibonacci/events").await.json();
    let kinds: Vec<_> = events["events"]
        .as_array()
        .unwrap()
        .iter()
        .map(|event| &event["kind"])
        .collect();
    assert_eq!(kinds, ["activated", "pushed"]);
}

#[tokio::test]
async fn what_is_no_plugin_is_told_in_a_sentence() {
    let api = Api::start().await;
    let refused = |component: Vec<u8>| {
        let api = &api;
        async move {
            let answer = api.push("", &component).await;
            answer.problem(422, "component")["detail"]
                .as_str()
                .unwrap()
                .to_owned()
        }
    };
    assert!(
        refused(b"hello".to_vec())
            .await
            .contains("not a WebAssembly component")
    );
    assert!(
        refused(b"\0asm\x01\0\0\0".to_vec())
            .await
            .contains("core module, not a component")
    );
    let cut = guests::bytes("fibonacci")[..10_000].to_vec();
    assert!(refused(cut).await.contains("damaged or incomplete"));
    let nameless = refused(guests::bytes("command")).await;
    assert!(nameless.contains("name"), "{nameless}");
    assert_eq!(api.push("", b"").await.status, 422);
}

#[tokio::test]
async fn a_component_that_is_too_large_or_not_declared_is_refused_before_it_is_looked_at() {
    let api = Setup::config(|config| config.component_limit = 1_000)
        .start()
        .await;
    let large = api.push("", &[0; 1_001]).await.problem(413, "body-too-large");
    assert!(
        large["detail"].as_str().unwrap().contains("1000 bytes"),
        "{large}"
    );
    api.push("", &[0; 500_000]).await.problem(413, "body-too-large");
    api.post("/plugins", &json!({}))
        .await
        .problem(415, "unsupported-media-type");
    let headers = [("content-type", "application/wasm"), ("content-encoding", "gzip")];
    let packed = api.send("POST", "/plugins", &headers, b"x").await;
    packed.problem(415, "unsupported-media-type");
}

#[tokio::test]
async fn a_parameter_that_is_wrong_is_named() {
    let api = Api::start().await;
    for (pairs, parameter, text) in [
        (
            vec![("settings", r#"{"limits": {"feul": 1}}"#)],
            "settings",
            "limits.feul",
        ),
        (vec![("settings", "{")], "settings", "EOF"),
        (
            vec![("settings", r#"{"config": {}, "config": {}}"#)],
            "settings",
            "config",
        ),
        (vec![("manifest", r#"{"name": "x"}"#)], "manifest", "version"),
        (vec![("name", "x")], "version", "together with name"),
        (vec![("summary", "x")], "summary", "together with"),
        (vec![("signature", "AAAA")], "signature", "signature"),
        (vec![("tenant", "")], "tenant", ""),
        (vec![("activate", "yes")], "activate", "true or false"),
        (vec![("colour", "red")], "colour", "known are tenant"),
    ] {
        let problem = api
            .push(&query(&pairs), b"x")
            .await
            .problem(400, "invalid-parameter");
        assert_eq!(problem["errors"][0]["parameter"], parameter, "{problem}");
        assert!(problem["detail"].as_str().unwrap().contains(text), "{problem}");
    }
    let limits = query(&[("settings", r#"{"limits": {"fuel": 0}}"#)]);
    assert_eq!(api.push(&limits, b"x").await.pointers(), ["/limits/fuel"]);
}

#[tokio::test]
async fn a_version_that_refuses_what_the_running_one_takes_must_be_forced() {
    let api = Api::start().await;
    for (version, least) in [("1.0.0", 0), ("1.1.0", 1)] {
        let pushed = push_command(&api, version, number(least)).await;
        assert_eq!(
            (pushed.status, pushed.json()["shape"] == "command"),
            (201, true),
            "{pushed:?}"
        );
    }
    post(&api, "/plugins/shaped/activate", json!({"version": "1.0.0"})).await;
    let breaking = json!({"version": "1.1.0"});
    let problem = api.post("/plugins/shaped/activate", &breaking).await;
    let problem = problem.problem(409, "breaking-change");
    assert_eq!(
        problem["errors"],
        json!([{"pointer": "/n", "detail": "minimum rose from 0 to 1"}])
    );
    let canary = json!({"version": "1.1.0", "percent": 10});
    api.post("/plugins/shaped/canary", &canary)
        .await
        .problem(409, "breaking-change");

    let forced = post(
        &api,
        "/plugins/shaped/activate",
        json!({"version": "1.1.0", "force": true}),
    )
    .await;
    assert_eq!(
        (&forced["active"], &forced["previous"]),
        (&json!("1.1.0"), &json!("1.0.0"))
    );
    let task = json!({"task_type": "shaped", "input": {"n": 0}});
    assert_eq!(api.post("/tasks", &task).await.pointers(), ["/input/n"]);
    let back = post(&api, "/plugins/shaped/rollback", json!({})).await;
    assert_eq!(back["active"], "1.0.0");
    assert_eq!(api.post("/tasks", &task).await.status, 201);
    let other = push_command(&api, "1.0.0", number(7)).await;
    other.problem(409, "plugin-conflict");
}

#[tokio::test]
async fn tasks_are_checked_against_the_version_that_will_run_them() {
    let api = Api::start().await;
    push_command(&api, "1.0.0", number(0)).await;
    push_command(&api, "1.1.0", number(5)).await;
    post(&api, "/plugins/shaped/activate", json!({"version": "1.0.0"})).await;
    let canary = json!({"version": "1.1.0", "percent": 50, "guard": {"min_attempts": 7}, "force": true});
    let trial = post(&api, "/plugins/shaped/canary", canary).await;
    assert_eq!(
        (
            &trial["canary"]["percent"],
            &trial["canary"]["guard"]["min_attempts"]
        ),
        (&json!(50), &json!(7))
    );
    let task = json!({"task_type": "shaped", "input": {"n": 3}});
    let mut accepted = 0;
    for _ in 0..60 {
        accepted += i32::from(api.post("/tasks", &task).await.status == 201);
    }
    assert!(
        (10..50).contains(&accepted),
        "about half of them are of the stable version: {accepted}"
    );
    assert_eq!(api.get("/plugins").await.json()["plugins"][0]["canary"], "1.1.0");
    let ended = api.delete("/plugins/shaped/canary").await;
    assert_eq!((ended.status, &ended.json()["canary"]), (200, &Value::Null));
    api.delete("/plugins/shaped/canary")
        .await
        .problem(409, "plugin-conflict");
    assert_eq!(api.post("/tasks", &task).await.status, 201);
}

#[tokio::test]
async fn a_plugin_of_a_tenant_is_not_there_for_others() {
    let api = Api::start().await;
    let theirs = query(&[
        ("tenant", "acme"),
        ("name", "theirs"),
        ("version", "1.0.0"),
        ("activate", "true"),
    ]);
    let pushed = api.push(&theirs, &guests::bytes("command")).await;
    assert_eq!((pushed.status, &pushed.json()["owner"]), (201, &json!("acme")));
    let mine = query(&[("name", "mine"), ("version", "1.0.0"), ("activate", "true")]);
    assert_eq!(api.push(&mine, &guests::bytes("command")).await.status, 201);
    let detail = |name: &'static str| {
        let api = &api;
        async move {
            let answer = api.post("/tasks", &json!({"task_type": name})).await;
            let detail = answer.problem(422, "validation")["errors"][0]["detail"].clone();
            detail.as_str().unwrap().replace(name, "…")
        }
    };
    assert_eq!(detail("theirs").await, detail("nobody").await);
    assert!(detail("theirs").await.ends_with("known are mine"));
    let taken = query(&[("name", "theirs"), ("version", "2.0.0")]);
    let taken = api
        .push(&taken, &guests::bytes("command"))
        .await
        .problem(409, "plugin-conflict");
    assert!(!taken.to_string().contains("acme"), "{taken}");
}

#[tokio::test]
async fn settings_are_taken_over_and_told_and_a_grant_is_not_lost_unseen() {
    let api = Api::start().await;
    let command = guests::bytes("command");
    let push = async |version: &str, more: &[(&str, &str)]| {
        let own = [("name", "shaped"), ("version", version)];
        api.push(&query(&[&own[..], more].concat()), &command).await
    };
    let settings = json!({"limits": {"fuel": 4711}, "config": {"url": "x"}, "grants": {"secrets": ["key"]}});
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
    assert_eq!(
        (again.status, &again.json()["limits"]["fuel"]),
        (200, &json!(4711))
    );
    assert!(
        note.contains("keeps its settings") && note.contains("limits, grants, config"),
        "{note}"
    );
    let same = push("2.0.0", &[("settings", &given)]).await;
    assert_eq!(same.json().get("settings_note"), None, "the same settings again");
}

#[tokio::test]
async fn a_version_that_would_lose_a_grant_goes_live_only_by_force() {
    let api = Api::start().await;
    let settings = json!({"grants": {"http": {"hosts": ["a.test"]}}}).to_string();
    let scraper = guests::bytes("scraper");
    let pushed = api
        .push(&query(&[("settings", &settings), ("activate", "true")]), &scraper)
        .await;
    let one = pushed.json()["version"].as_str().unwrap().to_owned();
    assert_eq!(pushed.status, 201, "{pushed:?}");
    // Another version of it, which is granted nothing. No component of a higher version is at hand.
    let registry = api.registry();
    let push = Push {
        owner: None,
        manifest: None,
        settings: Some(PluginSettings::default()),
        signature: None,
        by: "test".to_owned(),
        same_version: SameVersion::Suffix,
    };
    let mut rebuilt = scraper;
    // A custom section of no name and no content.
    rebuilt.extend([0, 1, 0]);
    let two = registry.push(rebuilt, push).await.unwrap().version.info.version;
    let activate = async |path: &str, more: Value| {
        let mut body = json!({ "version": two });
        body.as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        api.post(&format!("/plugins/scraper/{path}"), &body).await
    };
    for (path, more) in [("activate", json!({})), ("canary", json!({"percent": 10}))] {
        let refused = activate(path, more).await.problem(409, "plugin-conflict");
        let detail = refused["detail"].as_str().unwrap();
        assert!(
            detail.contains("grants.http.hosts: a.test") && detail.contains(&one) && detail.contains("force"),
            "{detail}"
        );
    }
    assert_eq!(activate("activate", json!({"force": true})).await.status, 200);
}

#[tokio::test]
async fn a_pause_of_a_plugin_and_one_of_its_queue_are_the_same() {
    let api = Api::start().await;
    push_command(&api, "1.0.0", json!({})).await;
    post(&api, "/plugins/shaped/activate", json!({"version": "1.0.0"})).await;
    let seen = async || {
        let queues = api.get("/queues").await.json();
        let mut queues = queues["queues"].as_array().unwrap().iter();
        let queue = queues.find(|queue| queue["task_type"] == "shaped").unwrap()["paused"].clone();
        let plugin = api.get("/plugins/shaped").await.json();
        let list = api.get("/plugins").await.json();
        let mut plugins = list["plugins"].as_array().unwrap().iter();
        let listed = plugins.find(|plugin| plugin["name"] == "shaped").unwrap()["paused"].clone();
        [
            queue,
            plugin["paused"].clone(),
            plugin["rollout"]["paused"].clone(),
            listed,
        ]
    };
    for pausing in ["queues", "plugins"] {
        for resuming in ["queues", "plugins"] {
            let paused = post(&api, &format!("/{pausing}/shaped/pause"), json!({})).await;
            assert_eq!(
                (&paused["paused"], seen().await),
                (&json!(true), [(); 4].map(|()| json!(true)))
            );
            let resumed = post(&api, &format!("/{resuming}/shaped/resume"), json!({})).await;
            assert_eq!(resumed["paused"], false, "{pausing} {resuming}");
            assert_eq!(
                seen().await,
                [(); 4].map(|()| json!(false)),
                "{pausing} {resuming}"
            );
            let policy = api.store.policy().await.unwrap();
            assert!(policy.types.is_empty(), "{policy:?}");
        }
    }
}

#[tokio::test]
async fn who_can_enqueue_tasks_of_a_plugin_is_told() {
    let api = Api::start().await;
    let of = |owner: &'static str, name: &'static str| {
        query(&[
            ("tenant", owner),
            ("name", name),
            ("version", "1.0.0"),
            ("activate", "true"),
        ])
    };
    let accepted = async |name: &str| {
        let plugin = api.get(&format!("/plugins/{name}")).await.json();
        assert_eq!(plugin["accepts_tasks"], plugin["rollout"]["accepts_tasks"]);
        let task = api.post("/tasks", &json!({ "task_type": name })).await;
        assert_eq!(task.status == 201, plugin["accepts_tasks"] == true, "{plugin}");
        plugin["accepts_tasks"] == true
    };
    for (owner, name) in [("acme", "theirs"), ("default", "ours")] {
        let pushed = api.push(&of(owner, name), &guests::bytes("command")).await;
        assert_eq!(pushed.status, 201, "{pushed:?}");
        assert_eq!(accepted(name).await, owner == "default", "{name}");
    }
    post(&api, "/plugins/ours/retire", json!({})).await;
    assert!(!accepted("ours").await, "it is retired");
}

#[tokio::test]
async fn a_paused_plugin_takes_tasks_and_a_retired_one_says_that_it_is() {
    let api = Api::start().await;
    push_command(&api, "1.0.0", json!({})).await;
    post(&api, "/plugins/shaped/activate", json!({"version": "1.0.0"})).await;
    let task = json!({"task_type": "shaped"});
    assert_eq!(
        post(&api, "/plugins/shaped/pause", json!({})).await["paused"],
        true
    );
    assert_eq!(api.post("/tasks", &task).await.status, 201);
    assert_eq!(
        post(&api, "/plugins/shaped/resume", json!({})).await["paused"],
        false
    );
    let running = api
        .post("/plugins/shaped/retire", &json!({"version": "1.0.0"}))
        .await;
    running.problem(409, "plugin-conflict");
    // Without any body it is the whole plugin.
    let retired = api.send("POST", "/plugins/shaped/retire", &[], b"").await;
    assert_eq!((retired.status, &retired.json()["retired"]), (200, &json!(true)));
    let refused = api.post("/tasks", &task).await.problem(422, "validation");
    assert_eq!(
        refused["errors"][0],
        json!({"pointer": "/task_type", "detail": "plugin shaped is retired"})
    );
    post(&api, "/plugins/shaped/activate", json!({"version": "1.0.0"})).await;
    assert_eq!(api.post("/tasks", &task).await.status, 201);
    push_command(&api, "2.0.0", json!({})).await;
    post(&api, "/plugins/shaped/retire", json!({"version": "2.0.0"})).await;
    let never = json!({"version": "2.0.0"});
    api.post("/plugins/shaped/activate", &never)
        .await
        .problem(409, "plugin-conflict");
    let versions = api.get("/plugins/shaped/versions").await.json();
    let states: Vec<_> = versions["versions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|version| &version["state"])
        .collect();
    assert_eq!(states, ["retired", "available"]);
}

#[tokio::test]
async fn settings_change_per_version_and_what_is_wrong_in_them_is_named() {
    let api = Api::start().await;
    push_command(&api, "1.0.0", json!({})).await;
    let path = "/plugins/shaped/versions/1.0.0/settings";
    let settings = json!({"limits": {"deadline": "5s", "concurrency": 3}, "grants": {"mail": {"recipients": ["example.com"]},
        "http": {"hosts": [{"host": "api.example.com", "methods": ["POST"]}]}}, "config": {"a": "b"}});
    let changed = api.put(path, &settings).await;
    assert_eq!(changed.status, 200, "{changed:?}");
    let version = changed.json();
    assert_eq!(
        (&version["limits"]["deadline"], &version["config"]),
        (&json!("5s"), &json!({"a": "b"}))
    );
    assert_eq!(
        version["grants"]["http"]["hosts"],
        settings["grants"]["http"]["hosts"]
    );
    assert_eq!(api.get("/plugins/shaped/versions/1.0.0").await.json(), version);
    for (wrong, pointer) in [
        (json!({"limits": {"feul": 1}}), "/limits/feul"),
        (
            json!({"grants": {"http": {"hosts": ["a", 7]}}}),
            "/grants/http/hosts/1",
        ),
        (json!({"config": {"a": 1}}), "/config/a"),
        (json!({"limits": {"fuel": 0}}), "/limits/fuel"),
        (json!({"limits": {"memories": 1_000_000}}), "/limits/memories"),
    ] {
        assert_eq!(api.put(path, &wrong).await.pointers(), [pointer], "{wrong}");
    }
    let unknown = api
        .put(path, &json!({"limit": {}}))
        .await
        .problem(422, "validation");
    assert!(unknown["detail"].as_str().unwrap().contains("limit"), "{unknown}");
    let malformed = api
        .send("PUT", path, &[("content-type", "application/json")], b"{")
        .await;
    malformed.problem(400, "malformed-body");
}

#[tokio::test]
async fn a_secret_is_set_and_never_shown() {
    let api = Api::start().await;
    let secret = json!({"value": "k-0123456789"});
    let early = api.put("/plugins/shaped/secrets/key", &secret).await;
    early.problem(404, "not-found");
    push_command(&api, "1.0.0", json!({})).await;
    let empty = api
        .put("/plugins/shaped/secrets/key", &json!({"value": ""}))
        .await;
    assert_eq!(empty.pointers(), ["/value"]);
    let set = api.put("/plugins/shaped/secrets/key", &secret).await;
    assert_eq!(
        (set.status, &set.json()["secrets"][0]["name"]),
        (200, &json!("key"))
    );
    let wrong = api
        .put(
            "/plugins/shaped/secrets/key",
            &json!({"value": {"k": "k-0123456789"}}),
        )
        .await;
    assert_eq!(wrong.pointers(), ["/value"]);
    let listed = api.get("/plugins/shaped/secrets").await;
    let events = api.get("/plugins/shaped/events").await;
    let version = api.get("/plugins/shaped/versions/1.0.0").await;
    for answer in [&set, &wrong, &listed, &events, &version] {
        assert!(!answer.text().contains("0123456789"), "{answer:?}");
    }
    let deleted = api.delete("/plugins/shaped/secrets/key").await;
    assert_eq!((deleted.status, deleted.json()), (200, json!({"secrets": []})));
    api.delete("/plugins/shaped/secrets/key")
        .await
        .problem(404, "not-found");
}

#[tokio::test]
async fn a_host_that_asks_for_signatures_takes_nothing_else() {
    let pair = signature::keygen().unwrap();
    let setup = Setup {
        signatures: trusting(&pair),
        ..Setup::default()
    };
    let api = setup.start().await;
    let component = guests::bytes("fibonacci");
    let unsigned = api.push("", &component).await.problem(403, "signature");
    assert!(
        unsigned["detail"].as_str().unwrap().contains("not signed"),
        "{unsigned}"
    );
    let info = describe(&component).await;
    let signed = envelope(&pair, &info, &json!({}));
    let push = async |signed: &str| api.push(&query(&[("signature", signed)]), &component).await;
    let foreign = envelope(&signature::keygen().unwrap(), &info, &json!({}));
    push(&foreign).await.problem(403, "signature");
    for change in [
        json!({"version": "0.0.1"}),
        json!({"name": "other"}),
        json!({"owner": "acme"}),
        json!({"digest": "00".repeat(32)}),
        json!({"shape": "command"}),
    ] {
        push(&envelope(&pair, &info, &change))
            .await
            .problem(403, "signature");
    }
    let answer = push(&signed).await;
    assert_eq!((answer.status, &answer.json()["signed"]), (201, &json!(true)));
    let signature = &answer.json()["signature"];
    assert_eq!(
        (&signature["keys"], &signature["problem"]),
        (&json!(["ci"]), &json!(null))
    );
    assert_eq!(signature["statement"]["digest"], answer.json()["digest"]);

    // Wider settings, and a wider statement that allows them.
    let (name, version) = (info["name"].as_str().unwrap(), info["version"].as_str().unwrap());
    let path = format!("/plugins/{name}/versions/{version}");
    let wide = json!({"grants": {"http": {"hosts": ["example.com"]}}});
    let settings = format!("{path}/settings");
    let refused = api.put(&settings, &wide).await.problem(403, "signature");
    assert!(
        refused["detail"].as_str().unwrap().contains("grants.http.hosts"),
        "{refused}"
    );
    let wider = envelope(&pair, &info, &wide);
    let attached = api
        .put(
            &format!("{path}/signature"),
            &serde_json::from_str(&wider).unwrap(),
        )
        .await;
    assert_eq!(attached.status, 200, "{attached:?}");
    assert_eq!(api.put(&settings, &wide).await.status, 200);
    let back = serde_json::from_str(&signed).unwrap();
    api.put(&format!("{path}/signature"), &back)
        .await
        .problem(403, "signature");
    let none = api.put(&format!("{path}/signature"), &json!({})).await;
    none.problem(422, "validation");
    // One of an earlier release.
    let old = "A".repeat(86) + "==";
    let refused = push(&old).await.problem(403, "signature");
    assert!(
        refused["detail"]
            .as_str()
            .unwrap()
            .contains("taskforge plugin sign"),
        "{refused}"
    );
}

#[tokio::test]
async fn an_older_version_needs_a_word_where_signatures_are_asked_for() {
    let pair = signature::keygen().unwrap();
    let setup = Setup {
        signatures: trusting(&pair),
        ..Setup::default()
    };
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
        assert_eq!(api.push(&query(&pairs), &component).await.status, 201);
    }
    let activate = async |body: Value| api.post("/plugins/shaped/activate", &body).await;
    let refused = activate(json!({"version": "1.0.0", "force": true})).await;
    let refused = refused.problem(409, "plugin-conflict");
    assert!(
        refused["detail"].as_str().unwrap().contains("allow_downgrade"),
        "{refused}"
    );
    let body = json!({"version": "1.0.0", "percent": 5});
    api.post("/plugins/shaped/canary", &body)
        .await
        .problem(409, "plugin-conflict");
    let allowed = activate(json!({"version": "1.0.0", "allow_downgrade": true})).await;
    assert_eq!(
        (allowed.status, &allowed.json()["active"]),
        (200, &json!("1.0.0"))
    );
    let events = api.get("/plugins/shaped/events").await;
    assert!(
        events.text().contains("older than 2.0.0, which was live"),
        "{events:?}"
    );
}

#[tokio::test]
async fn versions_that_nothing_refers_to_can_be_deleted() {
    let api = Api::start().await;
    for version in ["1.0.0", "1.1.0", "1.2.0"] {
        push_command(&api, version, json!({})).await;
    }
    let prune = async |body: Value| api.post("/plugins/shaped/prune", &body).await;
    for (body, pointer) in [
        (json!({}), "/keep"),
        (json!({"keep": 0}), "/keep"),
        (json!({"keep": 1, "dry_run": 1}), "/dry_run"),
        (json!({"keep": 1, "all": true}), "/all"),
    ] {
        assert_eq!(prune(body).await.pointers(), [pointer]);
    }
    let dry = prune(json!({"keep": 1, "dry_run": true})).await;
    assert_eq!(dry.json()["versions"].as_array().unwrap().len(), 2);
    let pruned = prune(json!({"keep": 1})).await;
    assert_eq!(
        (pruned.status, &pruned.json()["versions"]),
        (200, &dry.json()["versions"])
    );
    assert_eq!(
        pruned.json()["components"],
        0,
        "the last version is made of it too"
    );
    let left = api.get("/plugins/shaped/versions").await;
    assert_eq!(left.json()["versions"].as_array().unwrap().len(), 1);
    let nobody = api.post("/plugins/nobody/prune", &json!({"keep": 1})).await;
    nobody.problem(404, "not-found");
}

fn trusting(pair: &signature::KeyPair) -> SignaturePolicy {
    let public = &pair.public;
    let keys = format!("[[key]]\nname = \"ci\"\npublic_key = \"{public}\"\nshared = true\n");
    SignaturePolicy {
        required: true,
        trusted: TrustedKeys::parse(&keys).unwrap(),
    }
}

fn digest(component: &[u8]) -> String {
    Digest::from_bytes(Sha256::digest(component).into()).to_string()
}

/// What a component is, as a server that asks for no signature says.
async fn describe(component: &[u8]) -> Value {
    let answer = Api::start().await.push("", component).await;
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

#[tokio::test]
async fn what_is_not_there_is_not_found() {
    let api = Api::start().await;
    push_command(&api, "1.0.0", json!({})).await;
    for path in [
        "/plugins/nobody",
        "/plugins/nobody/versions",
        "/plugins/nobody/versions/1.0.0",
        "/plugins/shaped/versions/9.0.0",
        "/plugins/shaped/versions/9.0.0/component",
        "/plugins/nobody/secrets",
        "/plugins/nobody/events",
        "/plugins/nobody/advice",
        "/plugins/shaped/advice?version=9.0.0",
    ] {
        api.get(path).await.problem(404, "not-found");
    }
    let unknown = json!({"version": "9.0.0"});
    for path in [
        "/plugins/nobody/activate",
        "/plugins/shaped/activate",
        "/plugins/nobody/pause",
        "/plugins/shaped/retire",
    ] {
        api.post(path, &unknown).await.problem(404, "not-found");
    }
    api.get("/plugins/shaped/advice")
        .await
        .problem(409, "plugin-conflict");
    let advice = api.get("/plugins/shaped/advice?version=1.0.0").await.json();
    assert_eq!(
        (&advice["attempts"], advice["reason"].is_string()),
        (&json!(0), true)
    );
    api.post("/plugins/shaped/rollback", &json!({}))
        .await
        .problem(409, "plugin-conflict");
}
