//! Components pushed, alone and in forms.

use serde_json::{Value, json};
use taskforge_testing::guests;

use crate::harness::{Api, Setup};

#[tokio::test]
async fn a_component_is_pushed_activated_and_takes_tasks_at_once() {
    let api = Api::start().await;
    let component = guests::bytes("fibonacci");
    let settings = json!({"limits": {"memory": "32 MiB"}, "config": {"colour": "red"}}).to_string();
    let pushed = api.push(&[("settings", &settings)], &component).await;
    assert_eq!(pushed.status, 201, "{pushed:?}");
    let version = pushed.json();
    let number = version["version"].as_str().unwrap().to_owned();
    assert_eq!(
        (&version["name"], &version["owner"], &version["state"], &version["runs_as"]),
        (&json!("fibonacci"), &Value::Null, &json!("available"), &Value::Null)
    );
    assert_eq!((&version["shape"], &version["pushed_by"]), (&json!("handler"), &json!("tester")));
    assert_eq!(version["limits"]["memory"], 32 << 20);
    assert_eq!(version["config"], json!({"colour": "red"}));
    let review = version["review"].as_array().unwrap();
    let config = review.iter().find(|row| row["capability"] == "config");
    assert!(config.is_some_and(|row| row["granted"] != "no"), "{review:?}");

    let task = json!({"task_type": "fibonacci", "input": {"n": 3}});
    let early = api.post("/tasks", &task).await.problem(422, "validation");
    assert!(
        early["detail"].as_str().unwrap().contains("no version of plugin fibonacci is active yet")
    );

    let again = api.push(&[("activate", "true")], &component).await;
    assert_eq!(again.status, 200, "the same bytes again are no error: {again:?}");
    assert_eq!(again.json()["runs_as"], "stable");
    assert_eq!(api.post("/tasks", &task).await.status, 201);

    let plugin = api.get("/plugins/fibonacci").await.json();
    assert_eq!((&plugin["kind"], &plugin["version"]), (&json!("component"), &json!(number)));
    assert_eq!(plugin["rollout"]["active"], json!(number));
    assert_eq!(plugin["input_schema"]["type"], "object");
    let list = api.get("/plugins").await.json();
    assert_eq!(list["plugins"][0]["version"], json!(number));
    let bytes = api.get(&format!("/plugins/fibonacci/versions/{number}/component")).await;
    assert_eq!((bytes.header("content-type"), bytes.body == component), ("application/wasm", true));
    let events = api.get("/plugins/fibonacci/events").await.json();
    let kinds: Vec<_> =
        events["events"].as_array().unwrap().iter().map(|event| &event["kind"]).collect();
    assert_eq!(kinds, ["activated", "pushed"]);
}

#[tokio::test]
async fn what_is_no_plugin_is_told_in_a_sentence() {
    let api = Api::start().await;
    let refused = |component: Vec<u8>| {
        let api = &api;
        async move {
            let answer = api.push(&[], &component).await;
            answer.problem(422, "component")["detail"].as_str().unwrap().to_owned()
        }
    };
    assert!(refused(b"hello".to_vec()).await.contains("not a WebAssembly component"));
    assert!(refused(b"\0asm\x01\0\0\0".to_vec()).await.contains("core module, not a component"));
    let cut = guests::bytes("fibonacci")[..10_000].to_vec();
    assert!(refused(cut).await.contains("damaged or incomplete"));
    let nameless = refused(guests::bytes("command")).await;
    assert!(nameless.contains("name"), "{nameless}");
    assert_eq!(api.push(&[], b"").await.status, 422);
}

#[tokio::test]
async fn a_component_that_is_too_large_or_not_declared_is_refused_before_it_is_looked_at() {
    let api = Setup::config(|config| config.component_limit = 1_000).start().await;
    let large = api.push(&[], &[0; 1_001]).await.problem(413, "body-too-large");
    assert!(large["detail"].as_str().unwrap().contains("1000 bytes"), "{large}");
    api.push(&[], &[0; 500_000]).await.problem(413, "body-too-large");
    api.post("/plugins", &json!({})).await.problem(415, "unsupported-media-type");
    let headers = [("content-type", "application/wasm"), ("content-encoding", "gzip")];
    let packed = api.send("POST", "/plugins", &headers, b"x").await;
    packed.problem(415, "unsupported-media-type");
}

#[tokio::test]
async fn a_parameter_that_is_wrong_is_named() {
    let api = Api::start().await;
    for (pairs, parameter, text) in [
        (vec![("name", "x")], "version", "together with name"),
        (vec![("summary", "x")], "summary", "together with"),
        (vec![("tenant", "")], "tenant", ""),
        (vec![("activate", "yes")], "activate", "true or false"),
        (vec![("colour", "red")], "colour", "known are tenant"),
        (
            vec![("manifest", r#"{"name": "x", "version": "1.0.0"}"#), ("name", "x")],
            "name",
            "in the manifest",
        ),
    ] {
        let problem = api.push(&pairs, b"x").await.problem(400, "invalid-parameter");
        assert_eq!(problem["errors"][0]["parameter"], parameter, "{problem}");
        assert!(problem["detail"].as_str().unwrap().contains(text), "{problem}");
    }
}

#[tokio::test]
async fn a_plugin_of_a_tenant_is_not_there_for_others() {
    let api = Api::start().await;
    let theirs =
        [("tenant", "acme"), ("name", "theirs"), ("version", "1.0.0"), ("activate", "true")];
    let pushed = api.push(&theirs, &guests::bytes("command")).await;
    assert_eq!((pushed.status, &pushed.json()["owner"]), (201, &json!("acme")));
    let mine = [("name", "mine"), ("version", "1.0.0"), ("activate", "true")];
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
    let taken = [("name", "theirs"), ("version", "2.0.0")];
    let taken = api.push(&taken, &guests::bytes("command")).await.problem(409, "plugin-conflict");
    assert!(!taken.to_string().contains("acme"), "{taken}");
}

#[tokio::test]
async fn what_is_wrong_in_a_part_is_named_by_its_pointer() {
    let api = Api::start().await;
    let deep = format!("{}{}", "[".repeat(101), "]".repeat(101));
    for (part, text, pointer, detail) in [
        ("settings", r#"{"limits": {"feul": 1}}"#, "/settings/limits/feul", "unknown field"),
        ("settings", r#"{"limits": {"fuel": 0}}"#, "/settings/limits/fuel", "fuel"),
        ("settings", r#"{"config": {"a": 1}}"#, "/settings/config/a", "string"),
        ("settings", r#"{"config": {}, "config": {}}"#, "/settings", "twice"),
        ("settings", "{", "/settings", "EOF"),
        ("settings", "", "/settings", "empty"),
        ("settings", "\u{7f}", "/settings", "not valid JSON"),
        ("settings", &deep, "/settings", "nests deeper"),
        ("manifest", r#"{"name": "x"}"#, "/manifest", "version"),
        ("manifest", r#"{"name": "a b", "version": "1"}"#, "/manifest/name", ""),
        ("signature", "AAAA", "/signature", "signature"),
        ("colour", "red", "/colour", "known are component, settings, manifest, signature"),
        ("a/b", "red", "/a~1b", "is not a part"),
    ] {
        let parts = [(part, text.as_bytes()), ("component", b"x")];
        let answer = api.push_form("", &parts).await;
        assert_eq!(answer.pointers(), [pointer], "{part} {text}: {answer:?}");
        assert!(answer.text().contains(detail), "{answer:?}");
    }
    let twice = api.push_form("", &[("component", b"x"), ("component", b"x")]).await;
    assert_eq!(twice.pointers(), ["/component"]);
    let alone = api.push_form("", &[("settings", b"{}")]).await;
    assert_eq!(alone.pointers(), ["/component"]);
    // A part is no parameter.
    let query = api.push_form("settings=%7B%7D", &[("component", b"x")]).await;
    query.problem(400, "invalid-parameter");
}

#[tokio::test]
async fn each_part_has_a_limit_and_the_form_an_end() {
    let setup = Setup::config(|config| config.component_limit = 10_000);
    let api = setup.start().await;
    let large = vec![b' '; (1 << 20) + 1];
    for (part, bytes, limit) in [
        ("component", &large[..10_001], "10000"),
        ("settings", &large[..], "1048576"),
        ("manifest", &large[..], "1048576"),
        ("signature", &large[..], "1048576"),
    ] {
        let problem = api.push_form("", &[(part, bytes)]).await;
        let problem = problem.problem(413, "body-too-large");
        let detail = problem["detail"].as_str().unwrap();
        assert!(detail.contains(part) && detail.contains(limit), "{problem}");
        assert_eq!(problem["errors"][0]["pointer"], format!("/{part}"));
    }
    let endless = vec![b' '; 4 << 20];
    let endless = api.push_form("", &[("component", &endless)]).await;
    endless.problem(413, "body-too-large");

    let send = async |content_type: &str, body: &[u8]| {
        let headers = [("content-type", content_type)];
        api.send("POST", "/plugins", &headers, body).await
    };
    let form = "multipart/form-data; boundary=b";
    for broken in [
        &b"--b\r\ncontent-disposition: form-data; name=\"component\"\r\n\r\nx"[..],
        b"--b\r\nno header at all\r\n\r\nx\r\n--b--",
        b"--other--\r\n",
        b"--b\r\ncontent-disposition: form-data; filename=\"x.wasm\"\r\n\r\nx\r\n--b--",
        b"",
    ] {
        send(form, broken).await.problem(400, "malformed-body");
    }
    // What stands outside the parts is no room for more.
    let long = vec![b'a'; 2 << 20];
    let header = [b"--b\r\n", &long[..], b": x\r\n\r\nx\r\n--b--"].concat();
    let part =
        [b"--b\r\ncontent-disposition: form-data; name=\"", &long[..1000], b"\"\r\n\r\nx"].concat();
    for (broken, status) in [(&long, 400), (&header, 400), (&part, 422)] {
        let answer = send(form, broken).await;
        assert_eq!(answer.status, status, "{}", answer.text());
        assert!(answer.body.len() < 2_000, "{} bytes", answer.body.len());
    }
    for content_type in ["multipart/form-data", "multipart/mixed; boundary=b", "text/plain", ""] {
        let answer = send(content_type, b"--b--\r\n").await;
        answer.problem(415, "unsupported-media-type");
    }
}
