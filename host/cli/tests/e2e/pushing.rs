//! What a push says, and what a secret may be.

use serde_json::json;
use taskforge_testing::guests;

use crate::server::{Server, component, done, json, run, said, taskforge};

#[tokio::test(flavor = "multi_thread")]
async fn a_push_says_what_became_of_settings_and_for_whom_it_is() {
    let (data, files) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let server = Server::start(data.path());
    let command = component(files.path(), "bare.wasm", &guests::bytes("command"));
    let push = |more: &[&str]| {
        run(&server, &[&["plugin", "push", command.as_str(), "--name", "thing"][..], more].concat())
    };
    let settings = component(
        files.path(),
        "some.toml",
        b"[grants]\nkeyvalue = true\n\n[config]\nurl = \"x\"\n",
    );
    let first = push(&["--version", "1.0.0", "--settings", &settings, "--stage"]);
    assert!(first.status.success(), "{}", said(&first));
    let waiting = done(&server, &["plugin", "show", "thing"]);
    for part in ["not active", "1.0.0", "CAPABILITY", "keyvalue"] {
        assert!(waiting.contains(part), "{part}: {waiting}");
    }
    done(&server, &["plugin", "activate", "thing", "1.0.0"]);
    let second = push(&["--version", "1.1.0", "--stage"]);
    assert!(said(&second).contains("has those of 1.0.0"), "{}", said(&second));
    let shown = done(&server, &["plugin", "show", "thing", "1.1.0"]);
    for part in ["1.1.0", "available", "CAPABILITY", "keyvalue", "url"] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    assert_eq!(json(&server, &["plugin", "show", "thing", "1.1.0"])["config"]["url"], "x");
    let both = done(&server, &["plugin", "show", "thing"]);
    assert!(both.contains("not active") && both.contains("1.1.0"), "{both}");
    let nothing = component(files.path(), "none.toml", b"");
    let again = push(&["--version", "1.1.0", "--settings", &nothing]);
    assert!(said(&again).contains("keeps its settings"), "{}", said(&again));
    let manifest = component(
        files.path(),
        "manifest.toml",
        b"[manifest]\nname = \"thing\"\nversion = \"1.1.0\"\n",
    );
    let unset = run(&server, &["plugin", "settings", "thing", "1.1.0", &manifest]);
    assert!(
        unset.status.code() == Some(2) && said(&unset).contains("no settings"),
        "{}",
        said(&unset)
    );
    assert_eq!(json(&server, &["plugin", "show", "thing", "1.1.0"])["config"]["url"], "x");

    let theirs = ["--version", "1.0.0", "--tenant", "acme"];
    let theirs = run(
        &server,
        &[&["plugin", "push", command.as_str(), "--name", "theirs"][..], &theirs].concat(),
    );
    assert!(
        said(&theirs).contains("tenant acme alone") && !said(&theirs).contains("1.0.0 runs"),
        "{}",
        said(&theirs)
    );
    let task = run(&server, &["task", "submit", "theirs"]);
    assert_eq!(task.status.code(), Some(5), "{}", said(&task));
    let list = done(&server, &["plugin", "list"]);
    let row = list.lines().find(|line| line.starts_with("theirs")).unwrap();
    assert!(!row.contains("runs"), "{row}");

    done(&server, &["queue", "pause", "thing"]);
    assert!(done(&server, &["plugin", "show", "thing"]).contains("paused"));
    done(&server, &["queue", "limit", "thing", "3"]);
    let list = done(&server, &["queue", "list"]);
    let row = list.lines().find(|line| line.starts_with("thing")).unwrap();
    assert!(row.contains("paused") && row.ends_with('3'), "a cap does not resume it: {row}");
    done(&server, &["plugin", "resume", "thing"]);
    let list = done(&server, &["queue", "list"]);
    assert!(
        !list.lines().any(|line| line.starts_with("thing") && line.contains("paused")),
        "{list}"
    );
    done(&server, &["queue", "tenant", "default", "--max-running", "9"]);
    done(&server, &["queue", "tenant", "default", "--weight", "2"]);
    let tenants = json(&server, &["queue", "list"])["tenants"].clone();
    assert_eq!((&tenants[0]["weight"], &tenants[0]["max_running"]), (&json!(2), &json!(9)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_push_carries_schemas_that_no_address_could() {
    let (data, files) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let server = Server::start(data.path());
    let command = component(files.path(), "wide.wasm", &guests::bytes("command"));
    let fields = (0..1000).map(|n| (format!("f{n}"), json!({"description": "x".repeat(150)})));
    let schema = json!({"properties": fields.collect::<serde_json::Map<_, _>>()});
    let file = component(files.path(), "schema.json", schema.to_string().as_bytes());
    let settings = component(files.path(), "some.toml", b"[limits]\nfeul = 1\n");
    let push = |more: &[&str]| {
        let named = ["plugin", "push", &command, "--name", "wide", "--version", "1.0.0"];
        run(&server, &[&named[..], more].concat())
    };
    let pushed =
        push(&["--input-schema", &format!("@{file}"), "--output-schema", &format!("@{file}")]);
    assert!(pushed.status.success(), "{}", said(&pushed));
    let shown = json(&server, &["plugin", "show", "wide"]);
    assert_eq!((&shown["input_schema"], &shown["output_schema"]), (&schema, &schema));
    let wrong = push(&["--settings", &settings]);
    assert!(said(&wrong).contains("feul"), "{}", said(&wrong));
    let too_much = component(files.path(), "much.toml", b"[limits]\nmemories = 1000000\n");
    let refused = push(&["--settings", &too_much]);
    assert!(
        refused.status.code() == Some(5) && said(&refused).contains("/settings/limits/memories"),
        "{}",
        said(&refused)
    );
}

#[test]
fn a_secret_that_is_empty_is_none() {
    let set = |value: &str| {
        let mut command = taskforge();
        command.args(["plugin", "secret", "set", "thing", "key", "--from-env", "THE_KEY"]);
        command.env("THE_KEY", value).env("TASKFORGE_SERVER", "127.0.0.1:1").output().unwrap()
    };
    assert_eq!(set("").status.code(), Some(2), "{}", said(&set("")));
    assert_eq!(set("x").status.code(), Some(6), "it was sent");
}
