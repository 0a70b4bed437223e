//! A server on a port of its own, a client that speaks HTTP by hand, and a worker's part played
//! through the store.

use std::{
    collections::HashMap,
    io,
    net::SocketAddr,
    sync::{Arc, OnceLock},
    time::Duration,
};

use base64::{Engine, prelude::BASE64_STANDARD};
use serde_json::{Value, json};
use taskforge_api::{AlwaysReady, ApiConfig, Metrics, Readiness, ServeError, Services, bind};
use taskforge_broker::{Broker, LocalBroker, Signal, Want};
use taskforge_domain::{
    Attempt, ClaimedTask, Digest, Failure, FailureKind, Grants, Json, LaneLimits, Limits, LogLevel,
    LogLine, NewTask, Next, Outcome, PluginInfo, TaskId, TaskType, TenantId, Timestamp, Usage,
    WorkerId,
};
use taskforge_registry::{Catalog, Keyring, Parts, Registry, SignaturePolicy, catalog::active};
use taskforge_runtime::{OutboxMailer, Runtime, RuntimeConfig};
use taskforge_store::{
    ClaimBy, ClaimRequest, Commit, Completion, PluginStore, SqliteStore, Store, Term,
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

/// The longest that a test waits for anything: long enough for a busy machine, short enough to fail.
pub const TEST_DEADLINE: Duration = Duration::from_secs(20);

pub struct Api {
    pub address: SocketAddr,
    registry: Registry,
    pub store: Arc<SqliteStore>,
    pub broker: Arc<LocalBroker>,
    pub catalog: Arc<Catalog>,
    pub shutdown: CancellationToken,
    pub serving: JoinHandle<Result<(), ServeError>>,
    _dir: TempDir,
}

/// What a test wants different.
pub struct Setup {
    pub config: ApiConfig,
    pub ready: Arc<dyn Readiness>,
    /// Wraps the store that the server sees.
    pub wrap: Box<dyn FnOnce(Arc<SqliteStore>) -> Arc<dyn Store> + Send>,
    /// Stands in for the broker that the server sees.
    pub broker: Option<Arc<dyn Broker>>,
    /// Whose components are taken.
    pub signatures: SignaturePolicy,
}

impl Default for Setup {
    fn default() -> Self {
        let listen = SocketAddr::from(([127, 0, 0, 1], 0));
        Self {
            config: ApiConfig { listen, ..ApiConfig::default() },
            ready: Arc::new(AlwaysReady),
            wrap: Box::new(|store| store),
            broker: None,
            signatures: SignaturePolicy::default(),
        }
    }
}

/// The sandbox that pushed components are checked in. One for all tests: compiled code is shared,
/// and nothing else is kept.
fn runtime() -> Runtime {
    static RUNTIME: OnceLock<(Runtime, TempDir)> = OnceLock::new();
    let (runtime, _) = RUNTIME.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        let mailer =
            OutboxMailer::new(folder.path().join("outbox"), "test <test@localhost>").unwrap();
        let config = RuntimeConfig {
            cache_dir: Some(folder.path().join("cache")),
            max_instances: 8,
            ..RuntimeConfig::new(Arc::new(mailer))
        };
        (Runtime::new(config).unwrap(), folder)
    });
    runtime.clone()
}

impl Setup {
    pub fn config(change: impl FnOnce(&mut ApiConfig)) -> Self {
        let mut setup = Self::default();
        change(&mut setup.config);
        setup
    }

    pub async fn start(self) -> Api {
        let dir = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(&dir.path().join("tasks.db")).await.unwrap();
        let broker = Arc::new(LocalBroker::new());
        let catalog = Arc::new(Catalog::default());
        catalog.set_plugins(active(plugins()));
        let key = BASE64_STANDARD.encode([7; 32]);
        let registry = Registry::new(Parts {
            store: Arc::clone(&store) as Arc<dyn PluginStore>,
            broker: Arc::clone(&broker) as Arc<dyn Broker>,
            runtime: runtime(),
            keyring: Some(Arc::new(Keyring::parse(&key).unwrap())),
            signatures: Arc::new(self.signatures),
        });
        let services = Services {
            store: (self.wrap)(Arc::clone(&store)),
            broker: self.broker.unwrap_or_else(|| Arc::clone(&broker) as Arc<dyn Broker>),
            catalog: Arc::clone(&catalog),
            registry: registry.clone(),
            metrics: Metrics::install().unwrap(),
            ready: self.ready,
        };
        let server = bind(self.config).await.unwrap();
        let address = server.local_addr();
        let shutdown = CancellationToken::new();
        let serving = tokio::spawn(server.serve(services, shutdown.clone()));
        Api { address, registry, store, broker, catalog, shutdown, serving, _dir: dir }
    }
}

pub fn plugins() -> Vec<PluginInfo> {
    let fibonacci = json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema", "type": "object",
        "required": ["n"], "additionalProperties": false,
        "properties": {"n": {"type": "integer", "minimum": 0, "maximum": 1_000_000}},
    });
    vec![plugin("fibonacci", fibonacci), plugin("echo", json!(true))]
}

pub fn plugin(name: &str, input_schema: Value) -> PluginInfo {
    PluginInfo {
        name: TaskType::new(name).unwrap(),
        version: "1.2.3".into(),
        shape: taskforge_domain::Shape::Handler,
        digest: Digest::from_bytes([7; 32]),
        summary: format!("The {name} plugin"),
        input_schema: Json::from(input_schema),
        output_schema: Json::from(json!({"type": "object"})),
        capabilities: vec!["progress".into()],
        imports: vec!["taskforge:plugin/progress@0.1.0".into()],
        exports: vec!["taskforge:plugin/handler@0.1.0".into()],
        size: 92_000,
        limits: Limits::default(),
        grants: Grants::default(),
        config: std::collections::BTreeMap::new(),
    }
}

#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: HashMap<String, String>,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }

    /// Asserts that this is a whole and correct problem document of this type, and returns it.
    #[track_caller]
    pub fn problem(&self, status: u16, kind: &str) -> Value {
        assert_eq!(self.status, status, "{self:?}");
        assert_eq!(self.header("content-type"), "application/problem+json");
        let problem = self.json();
        assert_eq!(problem["type"], format!("urn:taskforge:problem:{kind}"), "{problem}");
        assert_eq!(problem["status"], status);
        assert!(!problem["title"].as_str().unwrap().is_empty());
        assert!(!problem["detail"].as_str().unwrap().is_empty());
        assert_eq!(problem["instance"], self.header("x-request-id"));
        problem
    }

    /// The pointers of a validation problem.
    #[track_caller]
    pub fn pointers(&self) -> Vec<String> {
        let problem = self.problem(422, "validation");
        let errors = problem["errors"].as_array().unwrap();
        errors.iter().map(|error| error["pointer"].as_str().unwrap().to_owned()).collect()
    }

    pub fn parse(raw: &[u8]) -> Option<Self> {
        let end = raw.windows(4).position(|window| window == b"\r\n\r\n")?;
        let head = std::str::from_utf8(&raw[..end]).ok()?;
        let mut lines = head.split("\r\n");
        let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
        let headers = lines
            .filter_map(|line| line.split_once(": "))
            .map(|(k, v)| (k.to_ascii_lowercase(), v.to_owned()));
        Some(Self { status, headers: headers.collect(), body: raw[end + 4..].to_vec() })
    }
}

impl Api {
    pub async fn start() -> Self {
        Setup::default().start().await
    }

    /// The registry behind the server, for what no client can do.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    pub async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// Sends bytes as they are, half-closes nothing, and reads until the server closes.
    pub async fn raw(&self, request: &[u8]) -> io::Result<Vec<u8>> {
        let mut stream = self.connect().await;
        let (mut read, mut write) = stream.split();
        let mut answer = Vec::new();
        let exchange = async {
            // A server may answer and close before it has read everything.
            let (_, read) = tokio::join!(write.write_all(request), read.read_to_end(&mut answer));
            read
        };
        tokio::time::timeout(TEST_DEADLINE, exchange)
            .await
            .expect("the server neither answered nor closed")?;
        Ok(answer)
    }

    pub async fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Answer {
        let mut all = vec![("connection", "close")];
        all.extend(headers);
        self.send_kept(method, path, &all, body).await
    }

    /// The same without a wish that the connection be closed: the server must do that by itself.
    pub async fn send_kept(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Answer {
        let mut request = format!("{method} {path} HTTP/1.1\r\nhost: localhost\r\n");
        if !body.is_empty() || method == "POST" || method == "PUT" {
            request.push_str(&format!("content-length: {}\r\n", body.len()));
        }
        for (name, value) in headers {
            request.push_str(&format!("{name}: {value}\r\n"));
        }
        let mut request = request.into_bytes();
        request.extend_from_slice(b"\r\n");
        request.extend_from_slice(body);
        let raw = self.raw(&request).await.unwrap();
        Answer::parse(&raw)
            .unwrap_or_else(|| panic!("no answer: {:?}", String::from_utf8_lossy(&raw)))
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.send("GET", path, &[], b"").await
    }

    pub async fn put(&self, path: &str, body: &Value) -> Answer {
        let json = [("content-type", "application/json")];
        self.send("PUT", path, &json, body.to_string().as_bytes()).await
    }

    pub async fn delete(&self, path: &str) -> Answer {
        self.send("DELETE", path, &[], b"").await
    }

    pub async fn post(&self, path: &str, body: &Value) -> Answer {
        self.post_text(path, &body.to_string()).await
    }

    pub async fn post_text(&self, path: &str, body: &str) -> Answer {
        self.send("POST", path, &[("content-type", "application/json")], body.as_bytes()).await
    }

    /// Pushes a component: alone, or with what is JSON in a form. The rest goes into the query.
    pub async fn push(&self, with: &[(&str, &str)], component: &[u8]) -> Answer {
        let is_part =
            |(name, _): &&(&str, &str)| ["settings", "manifest", "signature"].contains(name);
        let (parts, pairs): (Vec<_>, Vec<_>) = with.iter().partition(is_part);
        let query = query(&pairs);
        if parts.is_empty() {
            let wasm = [("content-type", "application/wasm"), ("x-operator", "tester")];
            let path = format!("/plugins?{query}");
            return self.send("POST", &path, &wasm, component).await;
        }
        let parts = parts.into_iter().map(|(name, text)| (*name, text.as_bytes()));
        let parts: Vec<_> = parts.chain([("component", component)]).collect();
        self.push_form(&query, &parts).await
    }

    /// Pushes a form of these parts.
    pub async fn push_form(&self, query: &str, parts: &[(&str, &[u8])]) -> Answer {
        let boundary = "a-boundary-that-stands-in-no-part";
        let mut form = Vec::new();
        for (name, bytes) in parts {
            let head =
                format!("--{boundary}\r\ncontent-disposition: form-data; name=\"{name}\"\r\n\r\n");
            form.extend_from_slice(head.as_bytes());
            form.extend_from_slice(bytes);
            form.extend_from_slice(b"\r\n");
        }
        form.extend_from_slice(format!("--{boundary}--\r\n").as_bytes());
        let content_type = format!("multipart/form-data; boundary={boundary}");
        let headers = [("content-type", &*content_type), ("x-operator", "tester")];
        self.send("POST", &format!("/plugins?{query}"), &headers, &form).await
    }

    /// Enqueues a task and returns its id.
    pub async fn create(&self, body: Value) -> TaskId {
        let answer = self.post("/tasks", &body).await;
        assert_eq!(answer.status, 201, "{answer:?}");
        id(&answer.json())
    }

    pub async fn fibonacci(&self) -> TaskId {
        self.create(json!({"task_type": "fibonacci", "input": {"n": 10}})).await
    }

    /// Claims a task as a worker does.
    pub async fn claim(&self, id: TaskId) -> (WorkerId, ClaimedTask) {
        let worker = WorkerId::generate();
        let by = ClaimBy::Ids(&[id]);
        let claimed = self.store.claim(ClaimRequest { worker, by, now: now() }).await.unwrap();
        (worker, claimed.tasks.into_iter().next().expect("the task can be claimed"))
    }

    /// Ends an attempt as a worker does, signal included.
    pub async fn end(&self, worker: WorkerId, task: &ClaimedTask, outcome: Outcome, next: Next) {
        let attempt = attempt(worker, task, outcome);
        let commits = self.store.complete(&[Completion { attempt, next }]).await.unwrap();
        assert_eq!(commits, [Commit::Committed]);
        if next == Next::Complete || next == Next::DeadLetter {
            self.broker.publish(&[Signal::Finished(task.id)]).await.unwrap();
        }
    }

    /// Fails a new task for good, and returns its id.
    pub async fn dead_letter(&self, body: Value, kind: FailureKind, message: &str) -> TaskId {
        let id = self.create(body).await;
        let (worker, task) = self.claim(id).await;
        let failure = Outcome::Failed(Failure::new(kind, message));
        self.end(worker, &task, failure, Next::DeadLetter).await;
        id
    }

    /// Fails so many new `echo` tasks for good, past the API.
    pub async fn dead_letters(&self, count: usize) {
        let (tenant, echo) = (TenantId::default(), TaskType::new("echo").unwrap());
        let task = || NewTask::new(tenant.clone(), echo.clone(), Json::from(json!({})), now());
        let tasks: Vec<NewTask> = std::iter::repeat_with(task).take(count).collect();
        self.store.enqueue(&tasks).await.unwrap();
        let ids: Vec<TaskId> = tasks.iter().map(|task| task.id).collect();
        let worker = WorkerId::generate();
        let request = ClaimRequest { worker, by: ClaimBy::Ids(&ids), now: now() };
        let claimed = self.store.claim(request).await.unwrap().tasks;
        let failed = |task: &ClaimedTask| Completion {
            attempt: attempt(
                worker,
                task,
                Outcome::Failed(Failure::new(FailureKind::Trap, "unreachable")),
            ),
            next: Next::DeadLetter,
        };
        let completions: Vec<Completion> = claimed.iter().map(failed).collect();
        let commits = self.store.complete(&completions).await.unwrap();
        assert_eq!(commits, vec![Commit::Committed; count]);
    }

    /// Takes what hints of these types there are, after at least one has come.
    pub async fn hints(&self, types: &[&str]) -> Vec<TaskId> {
        let types: Vec<TaskType> = types.iter().map(|name| TaskType::new(name).unwrap()).collect();
        let want =
            Want { types: &types, lanes: LaneLimits::none(), max: 100_000, wait: TEST_DEADLINE };
        let popped = self.broker.pop(want).await.unwrap();
        popped.hints.iter().map(|hint| hint.id).collect()
    }

    /// Takes so many hints, as they come.
    pub async fn drain(&self, types: &[&str], count: usize) -> Vec<TaskId> {
        let mut hints = Vec::new();
        while hints.len() < count {
            hints.extend(self.hints(types).await);
        }
        assert_eq!(hints.len(), count);
        hints
    }

    /// The term of a sweeper that leads now.
    pub async fn term(&self) -> Term {
        let led = self.store.lead(WorkerId::generate(), now(), TEST_DEADLINE).await;
        led.unwrap().expect("nobody else leads")
    }

    pub async fn complete(&self, id: TaskId) {
        let (worker, task) = self.claim(id).await;
        self.end(
            worker,
            &task,
            Outcome::Completed(Json::from(json!({"result": 55}))),
            Next::Complete,
        )
        .await;
    }
}

/// A query string with every value escaped.
fn query(pairs: &[&(&str, &str)]) -> String {
    let mut query = String::new();
    for (name, value) in pairs {
        query.push_str(&format!("{}{name}=", if query.is_empty() { "" } else { "&" }));
        for byte in value.bytes() {
            match byte {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'.' | b'-' => {
                    query.push(char::from(byte));
                }
                byte => query.push_str(&format!("%{byte:02X}")),
            }
        }
    }
    query
}

fn attempt(worker: WorkerId, task: &ClaimedTask, outcome: Outcome) -> Attempt {
    Attempt {
        task: task.id,
        run_lease: task.run_lease,
        number: task.attempt,
        worker,
        plugin_version: "1.2.3".into(),
        plugin_digest: Digest::from_bytes([7; 32]),
        started_at: task.started_at,
        finished_at: now(),
        outcome,
        usage: Usage {
            fuel: 12_345,
            peak_memory: 1 << 20,
            wall_micros: 1500,
            host_calls: 2,
            ..Usage::default()
        },
        logs: vec![LogLine {
            at: task.started_at,
            level: LogLevel::Warn,
            message: "hello from the guest".into(),
        }],
    }
}

pub fn now() -> Timestamp {
    Timestamp::from_microsecond(Timestamp::now().as_microsecond()).unwrap()
}

#[track_caller]
pub fn id(task: &Value) -> TaskId {
    task["id"].as_str().unwrap().parse().unwrap()
}
