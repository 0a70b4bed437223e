//! A Redis of the test's own.

use std::{
    net::{TcpListener, TcpStream},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use taskforge_broker::RedisConfig;

/// A server on a free port that keeps nothing on disk, until it is dropped.
pub struct Server {
    port: u16,
    arguments: &'static [&'static str],
    process: Option<Child>,
}

impl Server {
    pub fn start() -> Self {
        Self::with(&[])
    }

    /// A cluster of one, which serves all slots.
    pub fn start_cluster() -> Self {
        let server = Self::with(&["--cluster-enabled", "yes"]);
        let mut connection = server.connection();
        redis::cmd("CLUSTER")
            .arg("ADDSLOTSRANGE")
            .arg(0)
            .arg(16_383)
            .exec(&mut connection)
            .unwrap();
        until("the cluster is up", || {
            let info: String = redis::cmd("CLUSTER").arg("INFO").query(&mut connection).unwrap();
            info.contains("cluster_state:ok")
        });
        server
    }

    fn with(arguments: &'static [&'static str]) -> Self {
        // A cluster's bus listens 10,000 above.
        let port = loop {
            let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
            if port < 55_000 {
                break port;
            }
        };
        let mut server = Self { port, arguments, process: None };
        server.restart();
        server
    }

    /// Starts it, empty, where it was.
    pub fn restart(&mut self) {
        self.stop();
        let process = Command::new("redis-server")
            .args([
                "--port",
                &self.port.to_string(),
                "--bind",
                "127.0.0.1",
                "--save",
                "",
                "--appendonly",
                "no",
            ])
            .args(["--cluster-config-file", &format!("nodes-{}.conf", self.port)])
            .args(self.arguments)
            .current_dir(std::env::temp_dir())
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server is on the PATH");
        self.process = Some(process);
        let port = self.port;
        until("redis-server listens", || TcpStream::connect(("127.0.0.1", port)).is_ok());
    }

    /// Ends it, without a word to its clients.
    pub fn stop(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().ok();
            process.wait().ok();
        }
    }

    /// Makes it stand still, with its connections open, until [`Server::go_on`].
    pub fn stand_still(&self) {
        self.signal("-STOP");
    }

    pub fn go_on(&self) {
        self.signal("-CONT");
    }

    fn signal(&self, signal: &str) {
        let process = self.process.as_ref().expect("it runs");
        let sent = Command::new("kill").args([signal, &process.id().to_string()]).status();
        assert!(sent.unwrap().success());
    }

    pub fn flush(&self) {
        redis::cmd("FLUSHALL").exec(&mut self.connection()).unwrap();
    }

    pub fn connection(&self) -> redis::Connection {
        redis::Client::open(self.url()).unwrap().get_connection().unwrap()
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    pub fn config(&self) -> RedisConfig {
        RedisConfig::new(self.url())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
        std::fs::remove_file(std::env::temp_dir().join(format!("nodes-{}.conf", self.port))).ok();
    }
}

fn until(what: &str, condition: impl FnMut() -> bool) {
    let (mut condition, begin) = (condition, Instant::now());
    while !condition() {
        assert!(begin.elapsed() < Duration::from_secs(20), "it never happened that {what}");
        thread::sleep(Duration::from_millis(5));
    }
}
