//! A `taskforge dev` process of the test's own.

use std::{
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
    time::Duration,
};

use reqwest::header::{HeaderMap, HeaderName};
use serde_json::{Value, json};

pub(crate) use crate::binary::taskforge;

/// A running server and its data folder. Killed when dropped.
pub(crate) struct Server {
    process: Child,
    pub(crate) url: String,
    /// What it printed until it was ready.
    pub(crate) greeting: String,
    data_dir: PathBuf,
    http: reqwest::Client,
}

impl Server {
    pub(crate) fn start(data_dir: &Path) -> Self {
        Self::start_with(data_dir, |_| {})
    }

    /// Starts a server on a free port, and returns once it has said where it listens.
    pub(crate) fn start_with(data_dir: &Path, adjust: impl FnOnce(&mut Command)) -> Self {
        let mut command = taskforge();
        command.args(["dev", "--listen", "127.0.0.1:0", "--data-dir"]).arg(data_dir);
        adjust(&mut command);
        Self::run_command(data_dir, command)
    }

    /// Starts a server that may open so many files.
    pub(crate) fn start_with_descriptors(
        data_dir: &Path,
        count: u32,
        adjust: impl FnOnce(&mut Command),
    ) -> Self {
        let mut dev = taskforge();
        adjust(&mut dev);
        let mut command = Command::new("sh");
        command
            .args(["-c", &format!("ulimit -n {count} && exec \"$0\" \"$@\"")])
            .arg(dev.get_program())
            .args(["dev", "--listen", "127.0.0.1:0", "--data-dir"])
            .arg(data_dir);
        for (name, value) in dev.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        Self::run_command(data_dir, command)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.id()
    }

    fn run_command(data_dir: &Path, mut command: Command) -> Self {
        let mut process = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let (mut url, mut greeting) = (None, String::new());
        for line in lines.by_ref().map_while(Result::ok) {
            greeting.push_str(&format!("{line}\n"));
            match line.trim().strip_prefix("API") {
                Some(said) => url = Some(said.trim().to_owned()),
                None if line.starts_with("A first task") => break,
                None => {}
            }
        }
        let url = url.expect("the server said where it listens");
        // Nobody reads the rest; the thread ends with the process.
        std::thread::spawn(move || lines.map_while(Result::ok).for_each(drop));
        // The binary installs one for itself; this is for the test's own client.
        let _already_there = rustls::crypto::ring::default_provider().install_default();
        let http = reqwest::Client::builder().no_proxy();
        // Made before the server listens; there is none where `--no-key` was said.
        let http = match std::fs::read_to_string(data_dir.join("key")) {
            Ok(key) => http.default_headers(HeaderMap::from_iter([(
                HeaderName::from_static("x-api-key"),
                key.trim().parse().unwrap(),
            )])),
            Err(_) => http,
        };
        let http = http.build().unwrap();
        Self { process, url, greeting, data_dir: data_dir.to_owned(), http }
    }

    pub(crate) fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    /// A client command that speaks to this server, with the key that it finds by itself.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = taskforge();
        command
            .args(args)
            .env("TASKFORGE_SERVER", &self.url)
            .env("TASKFORGE_DATA_DIR", &self.data_dir);
        command
    }

    pub(crate) fn http(&self) -> &reqwest::Client {
        &self.http
    }

    pub(crate) fn signal(&self, name: &str) {
        let done = Command::new("kill")
            .args([format!("-{name}"), self.process.id().to_string()])
            .status()
            .unwrap();
        assert!(done.success());
    }

    /// SIGKILL: no handler runs, nothing is flushed.
    pub(crate) fn kill(mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    pub(crate) async fn wait_for_exit(&mut self) -> ExitStatus {
        for _ in 0..600 {
            if let Some(status) = self.process.try_wait().unwrap() {
                return status;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("the server did not exit within 30 s");
    }

    pub(crate) async fn get(&self, path: &str) -> Value {
        let response = self.http.get(format!("{}{path}", self.url)).send().await.unwrap();
        assert!(response.status().is_success(), "GET {path}: {}", response.status());
        response.json().await.unwrap()
    }

    /// Posts JSON; `None` if the connection broke, which is what a killed server looks like.
    pub(crate) async fn try_post(&self, path: &str, body: &Value) -> Option<(u16, Value)> {
        let response =
            self.http.post(format!("{}{path}", self.url)).json(body).send().await.ok()?;
        let status = response.status().as_u16();
        Some((status, response.json().await.ok()?))
    }

    /// Enqueues a task and returns its id.
    pub(crate) async fn submit(&self, task_type: &str, input: Value) -> String {
        let body = json!({ "task_type": task_type, "input": input });
        let (status, task) = self.try_post("/tasks", &body).await.unwrap();
        assert_eq!(status, 201, "{task}");
        task["id"].as_str().unwrap().to_owned()
    }

    /// The task, once it has ended.
    pub(crate) async fn ended(&self, id: &str) -> Value {
        for _ in 0..12 {
            let task = self.get(&format!("/tasks/{id}?wait=10s")).await;
            if ["completed", "failed", "cancelled"].contains(&task["status"].as_str().unwrap()) {
                return task;
            }
        }
        panic!("task {id} did not end within 2 min");
    }

    /// Runs a task to its end.
    pub(crate) async fn run(&self, task_type: &str, input: Value) -> Value {
        let id = self.submit(task_type, input).await;
        self.ended(&id).await
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have exited already, which is as good.
        let _gone = self.process.kill();
        let _reaped = self.process.wait();
    }
}

/// What a command has printed.
pub(crate) fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// Runs a command as a client of a server.
pub(crate) fn run(server: &Server, args: &[&str]) -> Output {
    server.command(args).output().unwrap()
}

/// Runs a command that must succeed, and returns what it printed.
pub(crate) fn done(server: &Server, args: &[&str]) -> String {
    let output = run(server, args);
    assert!(output.status.success(), "{args:?}: {}", said(&output));
    said(&output)
}

/// Runs a command that must succeed, and returns what it answered as JSON.
pub(crate) fn json(server: &Server, args: &[&str]) -> Value {
    let output = run(server, &[args, &["--json"]].concat());
    assert!(output.status.success(), "{args:?}: {}", said(&output));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// A file with these bytes; its path.
pub(crate) fn component(folder: &Path, name: &str, bytes: &[u8]) -> String {
    let file = folder.join(name);
    std::fs::write(&file, bytes).unwrap();
    file.to_str().unwrap().to_owned()
}
