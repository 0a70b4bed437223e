//! Who may use the API, what others see of its data, and that probes always get an answer.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::Stdio,
    time::Duration,
};

use serde_json::json;
use taskforge_testing::{guests, wait::wait_until};

use crate::server::{Server, taskforge};

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

#[tokio::test]
async fn a_server_makes_a_key_that_the_command_line_finds_and_nobody_else() {
    let above = tempfile::tempdir().unwrap();
    let data = above.path().join("data");
    let log = above.path().join("log");
    let start = || {
        Server::start_with(&data, |command| {
            command.stderr(Stdio::from(fs::File::create(&log).unwrap()));
        })
    };
    let server = start();
    let key = fs::read_to_string(data.join("key")).unwrap();
    let key = key.trim();
    let without = reqwest::Client::builder().no_proxy().build().unwrap();
    let tasks = format!("{}/tasks", server.url);
    assert_eq!(without.get(&tasks).send().await.unwrap().status(), 401);
    let with = without.get(&tasks).header("authorization", format!("Bearer {key}"));
    assert_eq!(with.send().await.unwrap().status(), 200);

    let found = server.command(&["task", "list"]).output().unwrap();
    assert!(found.status.success());
    let lost = server.command(&["task", "list", "--data-dir", "/nowhere"]).output().unwrap();
    let said = String::from_utf8_lossy(&lost.stderr);
    assert!(!lost.status.success() && said.contains("TASKFORGE_API_KEY"), "{said}");
    let wrong = ["task", "list", "--api-key", "wrong-wrong-wrong-wrong"];
    assert!(!server.command(&wrong).output().unwrap().status.success());

    let page = format!("{}/docs/#key={key}", server.url);
    assert!(server.greeting.contains(&page), "{}", server.greeting);
    drop(server);
    assert!(start().greeting.contains(key), "the key stays");
    assert!(!fs::read_to_string(&log).unwrap().contains(key), "no log has it");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_is_found_by_its_folder_and_nobody_else_is_sent_its_key() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::start(data.path());
    let kept = fs::read_to_string(data.path().join("address")).unwrap();
    assert_eq!(kept.trim(), server.url);
    assert_eq!(mode(&data.path().join("address")), 0o600);
    for args in [&["task", "list"][..], &["health"]] {
        let mut found = taskforge();
        found.args(args).env("TASKFORGE_DATA_DIR", data.path());
        let found = found.output().unwrap();
        assert!(found.status.success(), "{args:?}: {}", String::from_utf8_lossy(&found.stderr));
    }

    // Somebody else on this machine, who is named, and writes down what comes.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let other = listener.local_addr().unwrap();
    let asked = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let (mut request, mut part) = (Vec::<u8>::new(), [0; 1024]);
        while !request.windows(4).any(|end| end == b"\r\n\r\n") {
            let length = stream.read(&mut part).unwrap();
            assert!(length > 0, "the request broke off");
            request.extend_from_slice(&part[..length]);
        }
        let refused = b"HTTP/1.1 401 No\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
        stream.write_all(refused).unwrap();
        String::from_utf8(request).unwrap().to_lowercase()
    });
    let refused =
        server.command(&["task", "list", "--server", &other.to_string()]).output().unwrap();
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(refused.status.code() == Some(5) && said.contains("was not sent"), "{said}");
    let asked = asked.join().unwrap();
    let key = fs::read_to_string(data.path().join("key")).unwrap();
    assert!(asked.starts_with("get /tasks"), "{asked}");
    assert!(
        !asked.contains("authorization") && !asked.contains(&key.trim().to_lowercase()),
        "{asked}"
    );
}

#[tokio::test]
async fn an_address_ends_with_its_server() {
    let data = tempfile::tempdir().unwrap();
    let mut server = Server::start(data.path());
    server.signal("TERM");
    assert!(server.wait_for_exit().await.success());
    assert!(!data.path().join("address").exists());
}

#[tokio::test]
async fn the_data_is_its_users_alone() {
    let above = tempfile::tempdir().unwrap();
    let data = above.path().join("data");
    fs::create_dir(&data).unwrap();
    fs::set_permissions(&data, fs::Permissions::from_mode(0o755)).unwrap();
    let server = Server::start_with(&data, |command| {
        // Its own cache, to look at.
        command.env_remove("TASKFORGE_CACHE_DIR");
    });
    let mail = json!({ "to": "a@example.com", "subject": "x", "text": "x" });
    assert_eq!(server.run("email", mail).await["status"], "completed");
    let mut folders = vec![data.clone()];
    let mut files = 0;
    while let Some(folder) = folders.pop() {
        assert_eq!(mode(&folder) & 0o077, 0, "{}", folder.display());
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => folders.push(path),
                false => {
                    assert_eq!(mode(&path) & 0o077, 0, "{}", path.display());
                    files += 1;
                }
            }
        }
    }
    // The database with its log, its index and its lock; the key; code; a letter.
    assert!(files >= 7, "{files}");
}

#[tokio::test]
async fn a_server_without_a_key_keeps_web_pages_out() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::start_with(data.path(), |command| {
        command.arg("--no-key");
    });
    assert!(!data.path().join("key").exists());
    assert_eq!(server.run("fibonacci", json!({ "n": 10 })).await["status"], "completed");
    let wasm = guests::bytes("fibonacci");
    for (name, value) in [
        ("host", "evil.example"),
        ("origin", "http://evil.example"),
        ("sec-fetch-site", "cross-site"),
    ] {
        let push = server.http().post(format!("{}/plugins?activate=true", server.url));
        let push = push.header("content-type", "text/plain").header(name, value);
        assert_eq!(push.body(wasm.clone()).send().await.unwrap().status(), 403, "{name}");
        let read = server.http().get(format!("{}/tasks", server.url)).header(name, value);
        assert_eq!(read.send().await.unwrap().status(), 403, "{name}");
    }
    let both =
        taskforge().args(["dev", "--no-key", "--api-key", "0123456789abcdef"]).output().unwrap();
    assert!(String::from_utf8_lossy(&both.stderr).contains("--no-key"));
}

/// Opens connections that say nothing.
fn silent(server: &Server, count: usize) -> Vec<TcpStream> {
    let address = server.url.strip_prefix("http://").unwrap();
    let open = || TcpStream::connect(address).unwrap();
    std::iter::repeat_with(open).take(count).collect()
}

async fn status(server: &Server, path: &str) -> Option<u16> {
    let get = server.http().get(format!("{}{path}", server.url));
    let answer = get.timeout(Duration::from_secs(5)).send().await.ok()?;
    Some(answer.status().as_u16())
}

#[tokio::test]
async fn a_flood_of_silent_connections_keeps_nobody_out_for_long() {
    let data = tempfile::tempdir().unwrap();
    // A tenth of the default, so that this process need not open a thousand connections.
    let server = Server::start_with(data.path(), |command| {
        command.args(["--max-connections", "100"]);
    });
    let _flood = silent(&server, 200);
    for path in ["/healthz", "/readyz"] {
        wait_until(path, async || status(&server, path).await == Some(200)).await;
    }
    wait_until("others are served too", async || status(&server, "/tasks").await == Some(200))
        .await;
}

#[tokio::test]
async fn a_low_limit_on_open_files_is_logged_and_the_api_works_within_it() {
    let data = tempfile::tempdir().unwrap();
    let log = data.path().join("stderr");
    let server = Server::start_with(data.path(), |command| {
        let program = command.get_program().to_owned();
        let args: Vec<_> = command.get_args().map(ToOwned::to_owned).collect();
        let mut limited = std::process::Command::new("prlimit");
        limited.arg("--nofile=320:320").arg(program).args(args);
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => limited.env(name, value),
                None => limited.env_remove(name),
            };
        }
        limited.stderr(Stdio::from(fs::File::create(&log).unwrap()));
        *command = limited;
    });
    let said = fs::read_to_string(&log).unwrap();
    assert!(said.contains("fewer connections than asked for"), "{said}");
    let _flood = silent(&server, 150);
    assert_eq!(status(&server, "/healthz").await, Some(200));
    wait_until("others are served too", async || status(&server, "/tasks").await == Some(200))
        .await;
    assert_eq!(server.run("fibonacci", json!({ "n": 10 })).await["status"], "completed");
}

#[tokio::test]
async fn a_large_body_without_the_key_gets_its_answer() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::start(data.path());
    let without = reqwest::Client::builder().no_proxy().build().unwrap();
    for path in ["/plugins", "/tasks"] {
        let post = without.post(format!("{}{path}", server.url));
        let answer = post.body(vec![0; 60 << 20]).send().await.unwrap();
        assert_eq!(answer.status(), 401, "{path}");
    }
}

/// What a terminal would obey, or not show.
const WILD: &str = "A\u{1b}[31mB\u{1b}]0;title\u{7}C\rD\u{9b}2JE\u{202e}F\u{2066}G\u{2028}H\u{200b}I\u{61c}J\u{e0041}K\u{feff}L";

#[track_caller]
fn is_clean(what: &str, bytes: &[u8]) {
    let text = String::from_utf8(bytes.to_vec()).unwrap();
    let hidden = |c| taskforge_domain::is_hidden(c) && c != '\n' && c != '\t';
    assert!(!text.contains(hidden), "{what}: {text:?}");
}

#[tokio::test]
async fn what_a_guest_writes_reaches_no_terminal_and_no_log_raw() {
    let folder = tempfile::tempdir().unwrap();
    let (data, log) = (folder.path().join("data"), folder.path().join("log"));
    let server = Server::start_with(&data, |command| {
        command.env("TASKFORGE_LOG", "debug");
        command.stderr(Stdio::from(fs::File::create(&log).unwrap()));
    });
    let component = guests::path("command");
    let component = component.to_str().unwrap();
    let told = |order: serde_json::Value| order.to_string();
    // As an encoder writes it, and raw where JSON allows that.
    let output = told(json!({ "do": "print", "text": json!(WILD).to_string() }));
    let raw = told(
        json!({ "do": "print", "text": format!("\"{}\"", WILD.replace(['\u{1b}', '\u{7}', '\r'], "")) }),
    );
    let complaint =
        told(json!({ "do": "exit", "code": 1, "complaint": format!("{WILD}\nnext {WILD}") }));
    let mut seen = 0;
    let mut run = |args: &[&str]| {
        for extra in [&[][..], &["--json"]] {
            let mut all = args.to_vec();
            all.extend(extra);
            let done = server.command(&all).output().unwrap();
            is_clean(&format!("{all:?}"), &done.stdout);
            is_clean(&format!("{all:?}"), &done.stderr);
            let both = String::from_utf8([done.stdout, done.stderr].concat()).unwrap();
            seen += usize::from(both.contains("\\u202e"));
        }
    };
    run(&["plugin", "inspect", component]);
    for input in [&output, &raw, &complaint] {
        run(&["plugin", "run", component, "--input", input]);
    }
    let push = ["--name", "command", "--version", "1.0.0", "--summary", WILD];
    run(&[&["plugin", "push", component][..], &push].concat());
    let mut ids = Vec::new();
    for (input, state) in [(&output, "completed"), (&raw, "completed"), (&complaint, "failed")] {
        let body = json!({ "task_type": "command", "max_retries": 0,
            "input": serde_json::from_str::<serde_json::Value>(input).unwrap() });
        let (status, task) = server.try_post("/tasks", &body).await.unwrap();
        assert_eq!(status, 201, "{task}");
        let id = task["id"].as_str().unwrap().to_owned();
        assert_eq!(server.ended(&id).await["status"], state);
        ids.push(id);
    }
    for id in &ids {
        for command in ["get", "wait", "logs", "cancel"] {
            run(&["task", command, id]);
        }
    }
    for args in [
        &["task", "list"][..],
        &["task", "submit", "command", "--input", &raw, "--wait"],
        &["task", "submit", "command", "--input", &json!(WILD).to_string()],
        &["dlq", "list"],
        &["dlq", "groups"],
        &["queue", "list"],
        &["plugin", "list"],
        &["plugin", "show", "command"],
        &["plugin", "versions", "command"],
        &["plugin", "events", "command"],
        &["plugin", "advise", "command"],
        &["plugin", "secret", "list", "command"],
    ] {
        run(args);
    }
    assert!(seen >= 20, "the text is shown, escaped: {seen}");
    drop(server);
    is_clean("the log", &fs::read(&log).unwrap());
}
