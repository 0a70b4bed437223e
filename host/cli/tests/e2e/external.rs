//! Types without a component, and the example of a worker for them.

use std::{
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use serde_json::{Value, json};
use taskforge_testing::wait::wait_until;

use crate::server::Server;

const EXAMPLES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/examples");

/// The example, started beside a `taskforge dev` as its README says: it finds the key by itself.
fn worker(server: &Server) -> Command {
    let mut worker = Command::new("python3");
    worker
        .arg(Path::new(EXAMPLES).join("python_worker.py"))
        .env("TASKFORGE_URL", &server.url)
        .env("TASKFORGE_DATA_DIR", server.data_dir())
        .env("TASKFORGE_WAIT_SECONDS", "0.2")
        .env("NO_PROXY", "*")
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env_remove("TASKFORGE_API_KEY");
    worker
}

/// A process that ends with its test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It may have exited already, which is as good.
        let _gone = self.0.kill();
        let _reaped = self.0.wait();
    }
}

/// Whether there is a Python to run the example with. A machine that builds releases must have one.
fn has_python() -> bool {
    let found = Command::new("python3").arg("--version").stdout(Stdio::null()).status();
    let has = found.is_ok_and(|status| status.success());
    assert!(has || std::env::var_os("CI").is_none(), "python3 is missing");
    if !has {
        eprintln!("skipped: python3 is missing, and CI is not set");
    }
    has
}

/// A plugins folder of the test's own.
fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let fibonacci = taskforge_testing::guests::path("fibonacci");
    std::fs::copy(fibonacci, folder.path().join("fibonacci.wasm")).unwrap();
    folder
}

async fn types(server: &Server) -> Vec<String> {
    let list = server.get("/plugins").await;
    let plugins = list["plugins"].as_array().unwrap();
    let external = plugins.iter().filter(|plugin| plugin["kind"] == "external");
    external.map(|plugin| plugin["name"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_type_that_is_named_is_worked_on_by_the_example_beside_dev() {
    if !has_python() {
        return;
    }
    let data = tempfile::tempdir().unwrap();
    let server = Server::start_with(data.path(), |command| {
        command.args(["--external-types", "word_count,ocr"]);
    });
    assert!(server.greeting.contains("external  ocr, word_count"), "{}", server.greeting);
    let _worker = Running(worker(&server).spawn().unwrap());
    let task = server.run("word_count", json!({ "text": "to be or not to be" })).await;
    assert_eq!(
        (&task["status"], &task["result"]),
        (&json!("completed"), &json!({ "words": 6, "characters": 18 })),
        "{task}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_in_the_plugins_folder_declares_a_type_with_its_schemas() {
    let (data, plugins) = (tempfile::tempdir().unwrap(), folder());
    let declared = plugins.path().join("word_count.external.toml");
    let example = PathBuf::from(EXAMPLES).join("word_count.external.toml");
    std::fs::copy(&example, &declared).unwrap();
    let server = Server::start_with(data.path(), |command| {
        command.arg("--plugins").arg(plugins.path());
    });
    assert_eq!(types(&server).await, ["word_count"]);
    let submit = async |input: Value| {
        let body = json!({ "task_type": "word_count", "input": input });
        server.try_post("/tasks", &body).await.unwrap()
    };
    assert_eq!(submit(json!({ "text": "one two" })).await.0, 201);
    let (status, problem) = submit(json!({ "text": 7 })).await;
    assert_eq!(
        (status, &problem["errors"][0]["pointer"]),
        (422, &json!("/input/text")),
        "{problem}"
    );

    // While the server runs: another file, one that is broken, and none.
    std::fs::write(plugins.path().join("ocr.external.toml"), "summary = 'Reads pages'\n").unwrap();
    wait_until("the new file is known", async || types(&server).await == ["ocr", "word_count"])
        .await;
    std::fs::write(&declared, "sumary = 'a slip of the pen'\n").unwrap();
    std::fs::remove_file(plugins.path().join("ocr.external.toml")).unwrap();
    std::fs::write(plugins.path().join("later.external.toml"), "").unwrap();
    // Nothing changes while one file is broken; put right, all of it counts.
    std::fs::copy(&example, &declared).unwrap();
    wait_until("the folder is followed", async || types(&server).await == ["later", "word_count"])
        .await;
    assert_eq!(submit(json!({ "text": "three" })).await.0, 201);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_declaration_is_named_when_the_server_starts() {
    let (data, plugins) = (tempfile::tempdir().unwrap(), folder());
    std::fs::write(plugins.path().join("ocr.external.toml"), "sumary = ''\n").unwrap();
    let dev = crate::server::taskforge()
        .args(["dev", "--listen", "127.0.0.1:0", "--data-dir"])
        .arg(data.path())
        .arg("--plugins")
        .arg(plugins.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&dev.stderr);
    assert!(!dev.status.success(), "{said}");
    assert!(said.contains("ocr.external.toml") && said.contains("sumary"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_whose_type_is_not_declared_is_told_how() {
    if !has_python() {
        return;
    }
    let data = tempfile::tempdir().unwrap();
    let server = Server::start(data.path());
    let ended = worker(&server).output().unwrap();
    let said = String::from_utf8_lossy(&ended.stderr);
    assert_eq!(ended.status.code(), Some(1), "{said}");
    assert!(said.contains("--external-types") && !said.contains("Traceback"), "{said}");
    // A wrong key is told as well.
    let ended =
        worker(&server).env("TASKFORGE_API_KEY", "not-the-key-of-this-server").output().unwrap();
    let said = String::from_utf8_lossy(&ended.stderr);
    assert!(said.contains("401") && !said.contains("Traceback"), "{said}");
}
