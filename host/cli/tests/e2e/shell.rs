//! What people type, and what scripts read: addresses, ids, exit codes, errors, lists, terminals.

use std::{
    fs,
    io::{Read as _, Write as _},
    os::unix::fs::PermissionsExt as _,
    process::{Command, Output, Stdio},
};

use serde_json::{Value, json};
use taskforge_testing::guests;

use crate::server::{Server, taskforge};

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

fn run(server: &Server, args: &[&str]) -> Output {
    server.command(args).output().unwrap()
}

/// Runs a command that must succeed, and returns what it printed.
fn done(server: &Server, args: &[&str]) -> String {
    let output = run(server, args);
    assert!(output.status.success(), "{args:?}: {}", said(&output));
    said(&output)
}

fn json(server: &Server, args: &[&str]) -> Value {
    let output = run(server, &[args, &["--json"]].concat());
    assert!(output.status.success(), "{args:?}: {}", said(&output));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// A component in a folder of its own.
fn component(folder: &std::path::Path, name: &str, bytes: &[u8]) -> String {
    let file = folder.join(name);
    fs::write(&file, bytes).unwrap();
    file.to_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn exit_codes_and_errors_tell_what_went_wrong() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::start(data.path());
    let nobody = "00000000-0000-7000-8000-000000000000";
    let fails = [
        "task",
        "submit",
        "scraper",
        "-i",
        r#"{"url": "http://127.0.0.1:1/"}"#,
        "--max-retries",
        "0",
        "--wait",
    ];
    let later = done(
        &server,
        &[
            "task",
            "submit",
            "fibonacci",
            "-i",
            r#"{"n": 1}"#,
            "--delay",
            "1h",
        ],
    );
    let later = later.trim();
    let cases: &[(&[&str], i32, &str)] = &[
        (
            &["task", "submit", "fibonacci", "-i", r#"{"n": 1}"#, "--wait"],
            0,
            "",
        ),
        (&fails, 3, ""),
        (&["task", "wait", later, "--timeout", "10ms"], 7, ""),
        (&["task", "get", nobody], 4, "not_found"),
        (&["task", "get", "0000"], 4, "not_found"),
        (&["plugin", "show", "nope"], 4, "not_found"),
        (&["queue", "pause", "nope"], 4, "not_found"),
        (
            &["task", "submit", "fibonacci", "-i", r#"{"n": -1}"#],
            5,
            "refused",
        ),
        (&["task", "retry", later], 5, "refused"),
        (
            &["task", "list", "--api-key", "wrong-wrong-wrong-wrong"],
            5,
            "refused",
        ),
        (
            &["task", "list", "--server", "http://127.0.0.1:1"],
            6,
            "unreachable",
        ),
        (
            &["task", "wait", nobody, "--server", "http://127.0.0.1:1"],
            6,
            "unreachable",
        ),
        (&["task", "wait", nobody], 4, "not_found"),
        (&["task", "list", "--sevrer", "x"], 2, "usage"),
        (&["task", "prune", "--first", "5"], 2, "usage"),
        (&["task", "get", "no-id"], 2, "usage"),
        (&["dlq", "delete"], 2, "usage"),
    ];
    for (args, code, kind) in cases {
        let plain = run(&server, args);
        assert_eq!(plain.status.code(), Some(*code), "{args:?}: {}", said(&plain));
        let output = run(&server, &[args, &["--json"][..]].concat());
        assert_eq!(output.status.code(), Some(*code), "{args:?}: {}", said(&output));
        if kind.is_empty() {
            continue;
        }
        assert!(output.stdout.is_empty(), "{args:?}: {}", said(&output));
        let error: Value = serde_json::from_slice(&output.stderr).unwrap();
        let error = &error["error"];
        assert_eq!(
            (&error["kind"], &error["exit_code"]),
            (&json!(kind), &json!(code)),
            "{args:?}"
        );
        let message = error["message"].as_str().unwrap();
        assert!(
            !message.is_empty() && !message.starts_with("error"),
            "{args:?}: {message}"
        );
        if *kind == "refused" {
            assert!(
                error["problem"]["type"].as_str().unwrap().starts_with("urn:"),
                "{error}"
            );
        }
    }
    let wrong = run(
        &server,
        &["task", "submit", "fibonacci", "-i", r#"{"n": -1}"#, "--json"],
    );
    let error: Value = serde_json::from_slice(&wrong.stderr).unwrap();
    assert_eq!(error["error"]["problem"]["errors"][0]["pointer"], "/input/n");
    let help = String::from_utf8(taskforge().arg("--help").output().unwrap().stdout).unwrap();
    assert!(help.contains("Exit codes"), "{help}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_list_is_an_object_that_names_it_and_numbers_stay_as_they_are() {
    let (data, files) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let server = Server::start(data.path());
    let anything = component(files.path(), "anything.wasm", &guests::bytes("command"));
    done(
        &server,
        &[
            "plugin",
            "push",
            &anything,
            "--name",
            "anything",
            "--version",
            "1.0.0",
        ],
    );
    let number = "12345678901234567890123";
    let input = format!(r#"{{"n":{number},"x":1.10}}"#);
    let id = done(
        &server,
        &["task", "submit", "anything", "-i", &input, "--delay", "1h"],
    );
    let id = id.trim();
    for args in [
        &["task", "get", id][..],
        &["task", "get", id, "--json"],
        &["task", "list", "--json"],
        &["task", "wait", id, "--timeout", "1ms", "--json"],
        &["task", "cancel", id, "--json"],
    ] {
        let shown = said(&run(&server, args));
        assert!(
            shown.contains(number) && shown.contains("1.10"),
            "{args:?}: {shown}"
        );
    }
    for (args, name) in [
        (&["task", "list"][..], "tasks"),
        (&["task", "logs", id], "logs"),
        (&["dlq", "list"], "tasks"),
        (&["dlq", "groups"], "groups"),
        (&["queue", "list"], "queues"),
        (&["queue", "list"], "tenants"),
        (&["plugin", "list"], "plugins"),
        (&["plugin", "versions", "anything"], "versions"),
        (&["plugin", "events", "anything"], "events"),
        (&["plugin", "secret", "list", "anything"], "secrets"),
    ] {
        let list = json(&server, args);
        assert!(list[name].is_array(), "{args:?}: {list}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_beginning_of_an_id_is_enough_where_it_is_the_only_one() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::start(data.path());
    let mut ids = Vec::new();
    for _ in 0..3 {
        let id = done(
            &server,
            &[
                "task",
                "submit",
                "fibonacci",
                "-i",
                r#"{"n": 1}"#,
                "--delay",
                "1h",
            ],
        );
        ids.push(id.trim().to_owned());
    }
    let first = &ids[0][..32];
    assert_eq!(json(&server, &["task", "get", first])["id"], ids[0]);
    assert_eq!(
        json(&server, &["task", "cancel", &first.to_uppercase()])["id"],
        ids[0]
    );
    let waited = run(&server, &["task", "wait", first]);
    assert!(said(&waited).contains("cancelled"), "{}", said(&waited));
    assert_eq!(json(&server, &["task", "retry", first])["id"], ids[0]);
    let several = run(&server, &["task", "get", &ids[0][..2]]);
    assert!(
        several.status.code() == Some(2) && said(&several).contains(&ids[2]),
        "{}",
        said(&several)
    );
    let none = run(&server, &["dlq", "requeue", first]);
    assert!(
        !said(&none).contains("panicked") && none.status.code() != Some(2),
        "{}",
        said(&none)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_are_named_as_people_type_them() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::start(data.path());
    let address = server.url.strip_prefix("http://").unwrap();
    let (_, port) = address.split_once(':').unwrap();
    for name in [
        address.to_owned(),
        format!("localhost:{port}"),
        format!(":{port}"),
        format!("http://{address}/"),
    ] {
        done(&server, &["task", "list", "--server", &name]);
        let healthy = said(&run(&server, &["health", &name]));
        assert!(healthy.contains("\"status\""), "{name}: {healthy}");
        assert!(run(&server, &["health", &name]).status.success(), "{name}");
    }
    assert!(
        run(&server, &["health", &format!("{address}/healthz")])
            .status
            .success()
    );
    let elsewhere = run(&server, &["health", &format!("{address}/docs")]);
    assert!(
        elsewhere.status.code() == Some(1) && said(&elsewhere).contains("leads to /docs/"),
        "{}",
        said(&elsewhere)
    );
    let scheme = run(&server, &["task", "list", "--server", "ftp://a.test"]);
    assert!(
        scheme.status.code() == Some(2) && said(&scheme).contains("http://"),
        "{}",
        said(&scheme)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_does_not_fit_is_traced_to_where_it_came_from() {
    let (data, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let server = Server::start(data.path());
    let list = |folder: &std::path::Path| {
        let folder = folder.to_str().unwrap();
        run(&server, &["task", "list", "--data-dir", folder])
    };
    let file = other.path().join("key");
    fs::write(&file, "another-key-of-another-server\n").unwrap();
    let unsent = list(other.path());
    assert!(
        unsent.status.code() == Some(5) && said(&unsent).contains("was not sent"),
        "{}",
        said(&unsent)
    );
    fs::write(other.path().join("address"), &server.url).unwrap();
    let foreign = list(other.path());
    assert!(
        foreign.status.code() == Some(5) && said(&foreign).contains(file.to_str().unwrap()),
        "{}",
        said(&foreign)
    );
    // A folder in the place of the file cannot be read by root either.
    fs::remove_file(&file).unwrap();
    fs::create_dir(&file).unwrap();
    let unreadable = list(other.path());
    assert!(
        unreadable.status.code() == Some(5) && said(&unreadable).contains(file.to_str().unwrap()),
        "{}",
        said(&unreadable)
    );
    let free_data = tempfile::tempdir().unwrap();
    let free = Server::start_with(free_data.path(), |command| {
        command.env("TASKFORGE_NO_KEY", "true");
    });
    fs::write(other.path().join("address"), &free.url).unwrap();
    let folder = other.path().to_str().unwrap();
    let goes_on = run(&free, &["task", "list", "--data-dir", folder]);
    assert!(goes_on.status.success(), "{}", said(&goes_on));
    assert!(
        said(&goes_on).contains("going on without a key"),
        "{}",
        said(&goes_on)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_push_says_what_became_of_settings_and_for_whom_it_is() {
    let (data, files) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let server = Server::start(data.path());
    let command = component(files.path(), "bare.wasm", &guests::bytes("command"));
    let push = |more: &[&str]| {
        run(
            &server,
            &[&["plugin", "push", command.as_str(), "--name", "thing"][..], more].concat(),
        )
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
    assert_eq!(
        json(&server, &["plugin", "show", "thing", "1.1.0"])["config"]["url"],
        "x"
    );
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
    assert_eq!(
        json(&server, &["plugin", "show", "thing", "1.1.0"])["config"]["url"],
        "x"
    );

    let theirs = ["--version", "1.0.0", "--tenant", "acme"];
    let theirs = run(
        &server,
        &[
            &["plugin", "push", command.as_str(), "--name", "theirs"][..],
            &theirs,
        ]
        .concat(),
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
    assert!(
        row.contains("paused") && row.ends_with('3'),
        "a cap does not resume it: {row}"
    );
    done(&server, &["plugin", "resume", "thing"]);
    let list = done(&server, &["queue", "list"]);
    assert!(
        !list
            .lines()
            .any(|line| line.starts_with("thing") && line.contains("paused")),
        "{list}"
    );
    done(&server, &["queue", "tenant", "default", "--max-running", "9"]);
    done(&server, &["queue", "tenant", "default", "--weight", "2"]);
    let tenants = json(&server, &["queue", "list"])["tenants"].clone();
    assert_eq!(
        (&tenants[0]["weight"], &tenants[0]["max_running"]),
        (&json!(2), &json!(9))
    );
}

#[test]
fn a_secret_that_is_empty_is_none() {
    let set = |value: &str| {
        let mut command = taskforge();
        command.args(["plugin", "secret", "set", "thing", "key", "--from-env", "THE_KEY"]);
        command
            .env("THE_KEY", value)
            .env("TASKFORGE_SERVER", "127.0.0.1:1")
            .output()
            .unwrap()
    };
    assert_eq!(set("").status.code(), Some(2), "{}", said(&set("")));
    assert_eq!(set("x").status.code(), Some(6), "it was sent");
}

/// Runs a shell line on a terminal of 80 columns; types `typed` once `prompt` has been shown. Returns all that was to be seen.
fn on_a_terminal(server: &Server, line: &str, prompt: &str, typed: &str) -> String {
    let mut command = Command::new("script");
    command.args(["-qfec", &format!("stty cols 80 rows 24; {line}"), "/dev/null"]);
    for (name, value) in server.command(&[]).get_envs() {
        if let Some(value) = value {
            command.env(name, value);
        }
    }
    let mut process = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let (mut input, mut output) = (process.stdin.take().unwrap(), process.stdout.take().unwrap());
    let mut seen = Vec::new();
    let mut is_typed = typed.is_empty();
    let mut byte = [0];
    while output.read(&mut byte).unwrap() == 1 {
        seen.push(byte[0]);
        if !is_typed && seen.ends_with(prompt.as_bytes()) {
            is_typed = true;
            // The prompt comes before the echo is off.
            std::thread::sleep(std::time::Duration::from_millis(500));
            input.write_all(typed.as_bytes()).unwrap();
        }
    }
    process.wait().unwrap();
    String::from_utf8_lossy(&seen).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_terminal_shows_tables_that_fit_and_no_secret_that_is_typed() {
    if Command::new("script").arg("--version").output().is_err() {
        assert!(std::env::var_os("CI").is_none(), "util-linux's script is missing");
        eprintln!("skipped: there is no program `script` to be a terminal");
        return;
    }
    let (data, files) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let server = Server::start_with(data.path(), |command| {
        command.env("TASKFORGE_SECRET_KEY", "00".repeat(32));
    });
    let program = taskforge();
    let program = program.get_program().to_str().unwrap().to_owned();
    let thing = component(files.path(), "thing.wasm", &guests::bytes("command"));
    done(
        &server,
        &["plugin", "push", &thing, "--name", "thing", "--version", "1.0.0"],
    );
    let secret = on_a_terminal(
        &server,
        &format!("{program} plugin secret set thing key"),
        "< FILE):",
        "swordfish-of-the-test\n",
    );
    assert!(
        secret.contains("not shown") && secret.contains("CAN BE OPENED"),
        "{secret}"
    );
    assert!(!secret.contains("swordfish"), "{secret}");

    let wide = json!({ "url": format!("http://{}.test/", "x".repeat(60)) }).to_string();
    let id = done(&server, &["task", "submit", "scraper", "-i", &wide]);
    for line in [
        "task list",
        "plugin list",
        "plugin versions thing",
        "plugin events thing",
        "queue list",
    ] {
        let shown = on_a_terminal(&server, &format!("{program} {line}"), "", "");
        for row in shown.lines() {
            assert!(row.trim_end().chars().count() <= 80, "{line}: {row}");
        }
        assert!(line != "task list" || shown.contains(id.trim()), "{shown}");
    }
}

#[test]
fn shells_are_given_completions() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let output = taskforge().args(["completions", shell]).output().unwrap();
        assert!(output.status.success(), "{}", said(&output));
        let script = String::from_utf8(output.stdout).unwrap();
        assert!(
            script.contains("taskforge") && script.contains("submit"),
            "{shell}"
        );
    }
    let checked = Command::new("bash")
        .args(["-c", "source <(\"$0\" completions bash) && complete -p taskforge"])
        .arg(taskforge().get_program())
        .output()
        .unwrap();
    assert!(checked.status.success(), "{}", said(&checked));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_plugins_starts_and_takes_the_first_that_comes() {
    let (data, folder) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let server = Server::start_with(data.path(), |command| {
        command.arg("--plugins").arg(folder.path());
    });
    assert!(server.greeting.contains("none yet"), "{}", server.greeting);
    fs::write(folder.path().join("fibonacci.wasm"), guests::bytes("fibonacci")).unwrap();
    taskforge_testing::wait_until("it is taken", async || {
        let body = json!({"task_type": "fibonacci", "input": {"n": 10}});
        server
            .try_post("/tasks", &body)
            .await
            .is_some_and(|(status, _)| status == 201)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_start_says_why_before_anything_is_compiled() {
    let data = tempfile::tempdir().unwrap();
    let began = std::time::Instant::now();
    let start = |args: &[&str]| {
        let mut command = taskforge();
        command.args(args).arg("--data-dir").arg(data.path());
        // Nothing is compiled yet in this cache; a whole minute would be waited for a database.
        command.env("TASKFORGE_CACHE_DIR", data.path().join("cache"));
        command.output().unwrap()
    };
    let (gone, free) = ("postgres://postgres@127.0.0.1:1/db", "127.0.0.1:0");
    let held = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = held.local_addr().unwrap().to_string();
    for (args, told) in [
        (&["dev", "--listen", &taken][..], taken.as_str()),
        (
            &["dev", "--listen", free, "--api-key", "short"],
            "TASKFORGE_API_KEY",
        ),
        (&["serve", "--listen", &taken, "--database-url", gone], &taken),
        (
            &[
                "serve",
                "--listen",
                free,
                "--admin-listen",
                &taken,
                "--database-url",
                gone,
            ],
            &taken,
        ),
        (
            &["worker", "--admin-listen", &taken, "--database-url", gone],
            &taken,
        ),
        (
            &[
                "serve",
                "--listen",
                free,
                "--database-url",
                "mysql://root@127.0.0.1:3306/db",
            ],
            "postgres://",
        ),
        (
            &[
                "worker",
                "--admin-listen",
                free,
                "--database-url",
                "mysql://root:pw@127.0.0.1/db",
            ],
            "postgres://",
        ),
        (
            &[
                "serve",
                "--listen",
                free,
                "--database-url",
                gone,
                "--startup-timeout",
                "0s",
            ],
            "refused",
        ),
    ] {
        let output = start(args);
        let said = said(&output);
        assert!(
            output.status.code() == Some(1) && said.contains(told),
            "{args:?}: {said}"
        );
        assert!(
            !said.contains("pool timed out") && !said.contains("root:pw"),
            "{args:?}: {said}"
        );
    }
    assert!(
        began.elapsed().as_secs() < 50,
        "nobody waited for what never comes"
    );
    let mode = fs::metadata(data.path()).unwrap().permissions().mode() & 0o077;
    assert_eq!(mode, 0);
}
