//! Starts: with plugins that are still to be compiled, with none, and those that cannot be.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::Stdio,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use taskforge_testing::guests;

use crate::{
    server::{Server, said, taskforge},
    slow::slow,
};

/// What an address answers, status and JSON.
async fn get(url: &str) -> Option<(u16, Value)> {
    let response = reqwest::get(url).await.ok()?;
    Some((response.status().as_u16(), response.json().await.ok()?))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_api_answers_and_small_plugins_run_while_a_large_one_is_compiled() {
    let _already_there = rustls::crypto::ring::default_provider().install_default();
    let (data, plugins) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let file = |name: &str| plugins.path().join(name);
    // In the order of their names the slow one would be first.
    std::fs::write(file("a-slow.wasm"), slow()).unwrap();
    std::fs::copy(guests::path("fibonacci"), file("fibonacci.wasm")).unwrap();
    let mut dev = start(data.path(), plugins.path());
    let lines = BufReader::new(dev.stderr.take().unwrap()).lines();
    let mut lines = lines.map_while(Result::ok);
    let url = lines
        .find_map(|line| {
            let (_, url) = line.split_once("the API answers at ")?;
            Some(url.split([' ', ',']).next()?.to_owned())
        })
        .expect("it says where it listens");
    let said = std::thread::spawn(move || lines.collect::<Vec<_>>());

    assert_eq!(get(&format!("{url}/healthz")).await.unwrap().0, 200);
    let deadline = Instant::now() + Duration::from_secs(120);
    let task = loop {
        let task = json!({"task_type": "fibonacci", "input": {"n": 10}}).to_string();
        let request = reqwest::Client::new().post(format!("{url}/tasks"));
        let request = request.header("content-type", "application/json").body(task);
        let answer: Value = request.send().await.unwrap().json().await.unwrap();
        match answer["id"].as_str() {
            Some(id) => break get(&format!("{url}/tasks/{id}?wait=60s")).await.unwrap().1,
            None => assert!(Instant::now() < deadline, "{answer}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    assert_eq!(task["result"], json!({"result": 55}), "{task}");
    let (status, ready) = get(&format!("{url}/readyz")).await.unwrap();
    assert_eq!(status, 503, "{ready}");
    let server = ready["checks"]["server"].as_str().unwrap();
    assert!(server.contains("those that are run already"), "{server}");

    let done = std::process::Command::new("kill").args(["-TERM", &dev.id().to_string()]).status();
    assert!(done.unwrap().success());
    assert!(dev.wait().unwrap().success(), "a start can be stopped");
    let said = said.join().unwrap().join("\n");
    assert!(said.contains("a-slow.wasm is looked at, 2 of 2"), "{said}");
}

fn start(data: &Path, plugins: &Path) -> std::process::Child {
    taskforge()
        .args(["dev", "--no-key", "--listen", "127.0.0.1:0", "--data-dir"])
        .arg(data)
        .arg("--plugins")
        .arg(plugins)
        .env("TASKFORGE_CACHE_DIR", data.join("cache"))
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
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
        server.try_post("/tasks", &body).await.is_some_and(|(status, _)| status == 201)
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
        (&["dev", "--listen", free, "--api-key", "short"], "TASKFORGE_API_KEY"),
        (&["serve", "--listen", &taken, "--database-url", gone], &taken),
        (&["serve", "--listen", free, "--admin-listen", &taken, "--database-url", gone], &taken),
        (&["worker", "--admin-listen", &taken, "--database-url", gone], &taken),
        (
            &["serve", "--listen", free, "--database-url", "mysql://root@127.0.0.1:3306/db"],
            "postgres://",
        ),
        (
            &["worker", "--admin-listen", free, "--database-url", "mysql://root:pw@127.0.0.1/db"],
            "postgres://",
        ),
        (
            &["serve", "--listen", free, "--database-url", gone, "--startup-timeout", "0s"],
            "refused",
        ),
    ] {
        let output = start(args);
        let said = said(&output);
        assert!(output.status.code() == Some(1) && said.contains(told), "{args:?}: {said}");
        assert!(!said.contains("pool timed out") && !said.contains("root:pw"), "{args:?}: {said}");
    }
    assert!(began.elapsed().as_secs() < 50, "nobody waited for what never comes");
    let mode = fs::metadata(data.path()).unwrap().permissions().mode() & 0o077;
    assert_eq!(mode, 0);
}
