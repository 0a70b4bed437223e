//! A fleet of real processes on servers of its own.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::{Value, json};
use taskforge_testing::{
    clock::HostClock,
    server::{Postgres, Redis, free_port},
    wait::wait_until,
};

use crate::{
    binary::taskforge,
    node::{Node, client},
};

/// The key of every fleet here.
pub(crate) const KEY: &str = "a-key-for-tests-0123456789";
/// The database's name.
pub(crate) const DATABASE: &str = "fleet";

/// Servers, and what it takes to start processes on them.
pub(crate) struct Bed {
    pub(crate) postgres: Postgres,
    pub(crate) redis: Option<Redis>,
    pub(crate) data: tempfile::TempDir,
    pub(crate) http: reqwest::Client,
    /// Where the API listens, so that one that is started again is found.
    pub(crate) api_port: u16,
    /// Where processes find the database; a test may put a proxy in between.
    pub(crate) database_url: String,
    pub(crate) redis_url: Option<String>,
    /// The clock of the host that its processes run on, where a test sets it.
    pub(crate) clock: Option<HostClock>,
}

impl Bed {
    /// A migrated database and a Redis.
    pub(crate) fn new() -> Self {
        Self::with_redis(Some(Redis::start()))
    }

    /// A migrated database and nothing else.
    pub(crate) fn without_redis() -> Self {
        Self::with_redis(None)
    }

    fn with_redis(redis: Option<Redis>) -> Self {
        Self::on(Postgres::start(), redis)
    }

    /// A fleet on these servers.
    pub(crate) fn on(postgres: Postgres, redis: Option<Redis>) -> Self {
        let database_url = postgres.create_database(DATABASE);
        let bed = Self {
            postgres,
            redis_url: redis.as_ref().map(Redis::url),
            redis,
            data: tempfile::tempdir().unwrap(),
            http: client(),
            api_port: free_port(),
            database_url,
            clock: None,
        };
        let migrated = bed.command("migrate").output().unwrap();
        let said = String::from_utf8_lossy(&migrated.stderr);
        assert!(migrated.status.success(), "{said}");
        bed
    }

    /// A role's command line, on this fleet's servers.
    pub(crate) fn command(&self, role: &str) -> Command {
        let mut command = taskforge();
        command.arg(role).env("DATABASE_URL", &self.database_url);
        command.env("TASKFORGE_DATA_DIR", self.data.path());
        if let (Some(url), false) = (&self.redis_url, role == "migrate") {
            command.env("REDIS_URL", url);
        }
        command.env("TASKFORGE_API_KEY", KEY);
        command.env("TASKFORGE_SERVER", self.url(""));
        command.env("TASKFORGE_PLUGINS", plugins(self.data.path()));
        command.env("TASKFORGE_ALLOW_PRIVATE", "127.0.0.0/8");
        if let Some(clock) = &self.clock {
            clock.apply(&mut command);
        }
        command
    }

    pub(crate) fn start_api(&self) -> Node {
        Node::start(&mut self.api_command())
    }

    pub(crate) fn api_command(&self) -> Command {
        let mut command = self.command("serve");
        command.args(["--listen", &format!("127.0.0.1:{}", self.api_port)]);
        command
    }

    pub(crate) fn start_worker(&self, arguments: &[&str]) -> Node {
        Node::start(&mut self.worker_command(arguments))
    }

    pub(crate) fn worker_command(&self, arguments: &[&str]) -> Command {
        let mut command = self.command("worker");
        command.args(["--admin-listen", "127.0.0.1:0"]).env("TASKFORGE_CONCURRENCY", "32");
        command.args(arguments);
        command
    }

    /// Where a path of the API is.
    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.api_port)
    }

    pub(crate) async fn send(
        &self,
        method: &str,
        path: &str,
        body: Option<&Value>,
    ) -> reqwest::Result<(u16, Value)> {
        let method = method.parse().unwrap();
        let mut request = self.http.request(method, self.url(path)).bearer_auth(KEY);
        if let Some(body) = body {
            request = request.json(body);
        }
        let response = request.send().await?;
        let status = response.status().as_u16();
        Ok((status, response.json().await?))
    }

    /// Sends a request that must succeed, and returns the answer.
    pub(crate) async fn ask(&self, method: &str, path: &str, body: Option<&Value>) -> Value {
        let (status, answer) = self.send(method, path, body).await.unwrap();
        assert!((200..300).contains(&status), "{method} {path}: {status} {answer}");
        answer
    }

    /// Pushes a component, with these parameters of the query.
    pub(crate) async fn push(&self, query: &str, component: Vec<u8>) -> (u16, Value) {
        let request = self
            .http
            .post(self.url(&format!("/plugins?{query}")))
            .bearer_auth(KEY)
            .header("content-type", "application/wasm")
            .body(component);
        let response = request.send().await.unwrap();
        let status = response.status().as_u16();
        (status, response.json().await.unwrap())
    }

    pub(crate) async fn submit(&self, task_type: &str, input: Value) -> String {
        let body = json!({ "task_type": task_type, "input": input });
        let task = self.ask("POST", "/tasks", Some(&body)).await;
        task["id"].as_str().unwrap().to_owned()
    }

    pub(crate) async fn task(&self, id: &str) -> Value {
        self.ask("GET", &format!("/tasks/{id}"), None).await
    }

    /// The task, once it has ended.
    pub(crate) async fn ended(&self, id: &str) -> Value {
        for _ in 0..12 {
            let task = self.ask("GET", &format!("/tasks/{id}?wait=10s"), None).await;
            if ["completed", "failed", "cancelled"].contains(&task["status"].as_str().unwrap()) {
                return task;
            }
        }
        panic!("task {id} did not end within 2 min");
    }

    pub(crate) async fn reaches(&self, id: &str, status: &str) {
        wait_until(&format!("task {id} is {status}"), async || {
            self.task(id).await["status"] == status
        })
        .await;
    }

    /// Asks the database. One row a line.
    pub(crate) fn sql(&self, sql: &str) -> String {
        self.postgres.sql(DATABASE, sql)
    }

    /// Asks the database for a number.
    pub(crate) fn count(&self, sql: &str) -> u64 {
        self.sql(sql).parse().unwrap_or_else(|_| panic!("{sql} gives no number"))
    }
}

/// A folder in this one with the built-in plugins, and the one that misbehaves on demand.
pub(crate) fn plugins(data: &Path) -> PathBuf {
    let folder = data.join("plugins");
    if !folder.exists() {
        let copying = data.join("plugins.new");
        std::fs::create_dir_all(&copying).unwrap();
        for name in ["fibonacci", "hostile"] {
            let component = taskforge_testing::guests::path(name);
            for file in [component.with_extension("toml"), component] {
                std::fs::copy(&file, copying.join(file.file_name().unwrap())).unwrap();
            }
        }
        std::fs::rename(copying, &folder).unwrap();
    }
    folder
}
