//! The life of a plugin from the shell: pushed, activated, tried, rolled back, limited, signed, and
//! dropped into a watched folder.

use std::{
    io::Write as _,
    path::Path,
    process::{Output, Stdio},
};

use serde_json::{Value, json};
use taskforge_testing::{guests, wait::wait_until};

use crate::server::{Server, taskforge};

/// Runs a command against a server, with this on its standard input.
fn run_with(server: &Server, args: &[&str], input: &str) -> Output {
    let mut command = server.command(args);
    command.env("USER", "tester");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut process = command.spawn().unwrap();
    // A command that fails early may not read it.
    let _read = process.stdin.take().unwrap().write_all(input.as_bytes());
    process.wait_with_output().unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// Runs a command that must succeed, and returns what it printed.
fn run(server: &Server, args: &[&str]) -> String {
    let output = run_with(server, args, "");
    assert!(output.status.success(), "{args:?}: {}", said(&output));
    said(&output)
}

/// Runs a command that must fail, and returns what it printed.
fn refused(server: &Server, args: &[&str]) -> String {
    let output = run_with(server, args, "");
    assert!(!output.status.success(), "{args:?}: {}", said(&output));
    said(&output)
}

fn json(server: &Server, args: &[&str]) -> Value {
    let mut all = vec!["--json"];
    all.extend(args);
    serde_json::from_str(&run(server, &all)).unwrap()
}

fn write(folder: &Path, name: &str, bytes: &[u8]) -> String {
    let file = folder.join(name);
    std::fs::write(&file, bytes).unwrap();
    file.to_str().unwrap().to_owned()
}

/// The version that the attempt of a new task ran.
async fn version_of_a_task(server: &Server, task_type: &str) -> String {
    let done = server.run(task_type, json!({ "n": 10 })).await;
    assert_eq!(done["result"], json!({ "result": 55 }), "{done}");
    let logs =
        server.get(&format!("/tasks/{}/logs", done["id"].as_str().unwrap())).await.to_string();
    ["1.0.0", "1.1.0"]
        .into_iter()
        .find(|version| logs.contains(version))
        .unwrap_or_else(|| panic!("no version in {logs}"))
        .to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_is_pushed_swapped_rolled_back_and_retired_from_the_shell() {
    let (data, files) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let server = Server::start_with(data.path(), |command| {
        command.env("TASKFORGE_SECRET_KEY", "00".repeat(32));
    });
    let one = write(files.path(), "one.wasm", &guests::variant("shellplug", "1.0.0"));
    let two = write(files.path(), "two.wasm", &guests::variant("shellplug", "1.1.0"));
    write(files.path(), "one.toml", b"[limits]\nfuel = 5_000_000\n\n[grants]\nmail = true\n");

    let pushed = run(&server, &["plugin", "push", &one]);
    assert!(
        pushed.contains("CAPABILITY")
            && pushed.contains("mail")
            && pushed.contains("shellplug 1.0.0 runs"),
        "{pushed}"
    );
    assert_eq!(version_of_a_task(&server, "shellplug").await, "1.0.0");
    let staged = run(&server, &["plugin", "push", &two, "--stage"]);
    assert!(staged.contains("plugin activate shellplug 1.1.0"), "{staged}");
    assert_eq!(version_of_a_task(&server, "shellplug").await, "1.0.0");
    for (change, version) in [
        (&["plugin", "activate", "shellplug", "1.1.0"][..], "1.1.0"),
        (&["plugin", "rollback", "shellplug"], "1.0.0"),
    ] {
        run(&server, change);
        wait_until("the worker has heard of it", async || {
            version_of_a_task(&server, "shellplug").await == version
        })
        .await;
    }

    let canary = ["plugin", "canary", "shellplug", "1.1.0", "--percent", "50"];
    assert_eq!(json(&server, &canary)["canary"]["percent"], 50);
    assert_eq!(json(&server, &["plugin", "canary-stop", "shellplug"])["canary"], Value::Null);
    let settings = write(files.path(), "settings.toml", b"[limits]\nfuel = 7_000_000\n");
    run(&server, &["plugin", "settings", "shellplug", "1.0.0", &settings]);
    assert_eq!(json(&server, &["plugin", "show", "shellplug"])["limits"]["fuel"], 7_000_000);
    let set = run_with(
        &server,
        &["plugin", "secret", "set", "shellplug", "gateway_key"],
        "s3cr3t-value\n",
    );
    assert!(set.status.success(), "{}", said(&set));
    let listed = run(&server, &["plugin", "secret", "list", "shellplug"]);
    assert!(listed.contains("gateway_key") && !listed.contains("s3cr3t"), "{listed}");
    run(&server, &["plugin", "secret", "delete", "shellplug", "gateway_key", "--yes"]);

    wait_until("the attempts are counted", async || {
        json(&server, &["plugin", "advise", "shellplug"])["attempts"]
            .as_u64()
            .is_some_and(|attempts| attempts >= 3)
    })
    .await;
    let advice = run(&server, &["plugin", "advise", "shellplug"]);
    assert!(advice.contains("fuel") && advice.contains("too few"), "{advice}");
    run(&server, &["plugin", "pause", "shellplug"]);
    assert!(run(&server, &["plugin", "list"]).contains("paused"));
    run(&server, &["plugin", "resume", "shellplug"]);
    run(&server, &["plugin", "retire", "shellplug", "1.1.0"]);
    let gone = refused(&server, &["plugin", "activate", "shellplug", "1.1.0"]);
    assert!(gone.contains("retired"), "{gone}");
    run(&server, &["plugin", "retire", "shellplug"]);
    let body = json!({ "task_type": "shellplug", "input": { "n": 1 } });
    let (status, problem) = server.try_post("/tasks", &body).await.unwrap();
    assert!(status == 422 && problem.to_string().contains("retired"), "{status} {problem}");
    let events = run(&server, &["plugin", "events", "shellplug"]);
    for what in [
        "pushed",
        "activated",
        "rolled back",
        "settings changed",
        "secret set",
        "retired",
        "tester",
    ] {
        assert!(events.contains(what), "{what}: {events}");
    }
    assert!(!events.contains("s3cr3t"), "{events}");
    assert!(run(&server, &["plugin", "versions", "shellplug"]).contains("1.1.0"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_pushed_is_told_in_a_sentence() {
    let (data, files) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let server = Server::start(data.path());
    let core = wat::parse_str("(module)").unwrap();
    let command = guests::bytes("command");
    for (name, bytes, why) in [
        ("text.wasm", &b"hello"[..], "WebAssembly"),
        ("empty.wasm", &b""[..], "empty"),
        ("core.wasm", &core[..], "wasm32-wasip2"),
        ("command.wasm", &command[..], "wasi:cli/run"),
    ] {
        let file = write(files.path(), name, bytes);
        let said = refused(&server, &["plugin", "push", &file]);
        assert!(said.contains(why), "{name}: {said}");
    }
    let command = files.path().join("command.wasm");
    let command = command.to_str().unwrap();
    let named = ["plugin", "push", command, "--name", "tool", "--version", "1.0.0"];
    run(&server, &named);
    let done = server.run("tool", json!({ "do": "echo", "value": 7 })).await;
    assert_eq!(done["status"], "completed", "{done}");

    let one = write(files.path(), "one.wasm", &guests::variant("shellplug", "1.0.0"));
    run(&server, &["plugin", "push", &one]);
    let mut other = guests::variant("shellplug", "1.0.0");
    // A custom section changes the bytes and nothing else.
    other.extend_from_slice(b"\0\x03\x01xy");
    let other = write(files.path(), "other.wasm", &other);
    let said = refused(&server, &["plugin", "push", &other]);
    assert!(said.contains("raise the version"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_asks_for_signatures_takes_what_is_signed_and_nothing_else() {
    let (data, files) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let plugins = tempfile::tempdir().unwrap();
    let key = files.path().join("author.key");
    let key = key.to_str().unwrap();
    let made = taskforge().args(["plugin", "keygen", key]).output().unwrap();
    assert!(made.status.success(), "{}", said(&made));
    let public = std::fs::read_to_string(format!("{key}.pub")).unwrap();
    let trusted = write(
        files.path(),
        "trusted.toml",
        format!("[[key]]\nname = \"author\"\npublic_key = \"{}\"\nshared = true\n", public.trim())
            .as_bytes(),
    );
    let sign = |file: &str| {
        let signed = taskforge().args(["plugin", "sign", file, "--key", key]).output().unwrap();
        assert!(signed.status.success(), "{}", said(&signed));
    };
    let first = write(plugins.path(), "first.wasm", &guests::variant("fib-first", "1.0.0"));
    sign(&first);
    let server = Server::start_with(data.path(), |command| {
        command
            .args(["--require-signature", "--trusted-keys", &trusted, "--plugins"])
            .arg(plugins.path());
    });
    let one = write(files.path(), "one.wasm", &guests::variant("shellplug", "1.0.0"));
    let unsigned = refused(&server, &["plugin", "push", &one]);
    assert!(unsigned.contains("sign"), "{unsigned}");
    sign(&one);
    run(&server, &["plugin", "push", &one]);
    assert_eq!(version_of_a_task(&server, "shellplug").await, "1.0.0");
    let two = write(files.path(), "two.wasm", &guests::variant("shellplug", "1.1.0"));
    std::fs::copy(format!("{one}.sig"), format!("{two}.sig")).unwrap();
    let foreign = refused(&server, &["plugin", "push", &two]);
    assert!(foreign.contains("signature"), "{foreign}");
    let shown = run(&server, &["plugin", "show", "shellplug"]);
    assert!(shown.contains("signed by") && shown.contains("author"), "{shown}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signed_component_passes_for_nothing_but_what_was_signed() {
    let (data, files) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let plugins = tempfile::tempdir().unwrap();
    let key = files.path().join("author.key");
    let key = key.to_str().unwrap();
    let made = taskforge().args(["plugin", "keygen", key]).output().unwrap();
    assert!(made.status.success(), "{}", said(&made));
    let public = std::fs::read_to_string(format!("{key}.pub")).unwrap();
    let trusted =
        format!("[[key]]\nname = \"author\"\npublic_key = \"{}\"\nshared = true\n", public.trim());
    let trusted = write(files.path(), "trusted.toml", trusted.as_bytes());
    let sign = |arguments: &[&str]| {
        let signed = taskforge().args(["plugin", "sign", "--key", key]).args(arguments).output();
        let signed = signed.unwrap();
        assert!(signed.status.success(), "{}", said(&signed));
    };
    let first = write(plugins.path(), "first.wasm", &guests::variant("fib-first", "1.0.0"));
    sign(&[&first]);
    let server = Server::start_with(data.path(), |command| {
        command
            .args(["--require-signature", "--trusted-keys", &trusted, "--plugins"])
            .arg(plugins.path());
    });
    let tool = write(files.path(), "tool.wasm", &guests::bytes("command"));
    let bound = "[grants.http]\nhosts = [\"*.example.com\"]\n[config]\nurl = \"\"\n";
    let bound = write(files.path(), "bound.toml", bound.as_bytes());
    sign(&[&tool, "--settings", &bound, "--name", "tool", "--version", "1.0.0"]);
    let narrow = "[grants.http]\nhosts = [\"a.example.com\"]\n[config]\nurl = \"x\"\n";
    let narrow = write(files.path(), "narrow.toml", narrow.as_bytes());
    let wide = "[grants.http]\nhosts = [\"*\"]\n";
    let wide = write(files.path(), "wide.toml", wide.as_bytes());
    let push = ["plugin", "push", &tool, "--settings"];
    for (arguments, reason) in [
        (vec![&narrow, "--name", "other", "--version", "1.0.0"], "the plugin tool"),
        (vec![&narrow, "--name", "tool", "--version", "1.0.1"], "version 1.0.0"),
        (
            vec![&narrow, "--name", "tool", "--version", "1.0.0", "--tenant", "acme"],
            "not trusted for",
        ),
        (vec![&wide, "--name", "tool", "--version", "1.0.0"], "grants.http.hosts"),
    ] as [(Vec<&str>, &str); 4]
    {
        let refused = refused(&server, &[&push[..], &arguments[..]].concat());
        assert!(refused.contains(reason), "{refused}");
    }
    let good = [&push[..], &[&narrow, "--name", "tool", "--version", "1.0.0"]].concat();
    run(&server, &good);
    let refused_settings = refused(&server, &["plugin", "settings", "tool", "1.0.0", &wide]);
    assert!(refused_settings.contains("more than the signature allows"), "{refused_settings}");

    // The signer means it to reach more now.
    sign(&[&tool, "--settings", &wide, "--name", "tool", "--version", "1.0.0"]);
    let signature = format!("{tool}.sig");
    let stuck = refused(&server, &["plugin", "attach", "tool", "1.0.0", &signature]);
    assert!(stuck.contains("config"), "what is set stays within what is signed: {stuck}");
    let narrower = write(files.path(), "narrower.toml", b"");
    run(&server, &["plugin", "settings", "tool", "1.0.0", &narrower]);
    run(&server, &["plugin", "attach", "tool", "1.0.0", &signature]);
    run(&server, &["plugin", "settings", "tool", "1.0.0", &wide]);

    // A replay of what is older.
    sign(&[&tool, "--settings", &narrower, "--name", "tool", "--version", "2.0.0"]);
    let two =
        ["plugin", "push", &tool, "--settings", &narrower, "--name", "tool", "--version", "2.0.0"];
    run(&server, &two);
    let older = refused(&server, &["plugin", "activate", "tool", "1.0.0"]);
    assert!(older.contains("--allow-downgrade"), "{older}");
    run(&server, &["plugin", "activate", "tool", "1.0.0", "--allow-downgrade"]);
    let events = run(&server, &["plugin", "events", "tool"]);
    assert!(events.contains("older than 2.0.0"), "{events}");

    // A signature of an earlier release.
    std::fs::write(&signature, format!("{}==\n", "A".repeat(86))).unwrap();
    let old = refused(&server, &two);
    assert!(old.contains("sign the component again"), "{old}");
    let pruned = run(&server, &["plugin", "prune", "tool", "--keep", "1", "--dry-run"]);
    assert!(pruned.contains("0 versions of tool would be deleted"), "{pruned}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_folder_of_dev_is_watched() {
    let (data, plugins) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    write(plugins.path(), "a.wasm", &guests::variant("fib-first", "1.0.0"));
    let server = Server::start_with(data.path(), |command| {
        command.arg("--plugins").arg(plugins.path());
    });
    assert_eq!(version_of_a_task(&server, "fib-first").await, "1.0.0");

    write(plugins.path(), "b.wasm", &guests::variant("shellplug", "1.0.0"));
    // It is in the list a moment before its version is active.
    wait_until("the new file's plugin runs", async || {
        let body = json!({ "task_type": "shellplug", "input": { "n": 1 } });
        matches!(server.try_post("/tasks", &body).await, Some((201, _)))
    })
    .await;
    assert_eq!(version_of_a_task(&server, "shellplug").await, "1.0.0");
    write(plugins.path(), "b.wasm", b"half a fi");
    write(plugins.path(), "a.wasm", &guests::variant("fib-first", "1.1.0"));
    wait_until("the changed file's version runs", async || {
        version_of_a_task(&server, "fib-first").await == "1.1.0"
    })
    .await;
    // A bad file takes nothing away.
    assert_eq!(version_of_a_task(&server, "shellplug").await, "1.0.0");
    write(plugins.path(), "a.toml", b"[limits]\nfuel = 6_000_000\n");
    wait_until("the changed settings are the version's", async || {
        server.get("/plugins/fib-first").await["limits"]["fuel"] == 6_000_000
    })
    .await;
    std::fs::remove_file(plugins.path().join("a.wasm")).unwrap();
    wait_until("the removed file's plugin is retired", async || {
        server.get("/plugins/fib-first").await["retired"] == true
    })
    .await;
}
