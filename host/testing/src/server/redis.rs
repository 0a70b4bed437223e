//! Redis.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    net::TcpStream,
    path::Path,
    process::Child,
    time::{Duration, Instant},
};

use super::{Folder, free_port, signal, spawn};

/// A Redis server on loopback.
#[derive(Debug)]
pub struct Redis {
    server: Option<Child>,
    port: u16,
    folder: Folder,
    cluster: bool,
}

impl Redis {
    /// Starts a server that keeps everything in memory: a restart loses it all.
    ///
    /// # Panics
    /// When `redis-server` is not installed or does not start.
    #[must_use]
    pub fn start() -> Self {
        Self::start_with(false)
    }

    /// Starts a cluster that has one node.
    ///
    /// # Panics
    /// As [`Redis::start`].
    #[must_use]
    pub fn start_cluster() -> Self {
        let redis = Self::start_with(true);
        redis.command("cluster addslotsrange 0 16383");
        let deadline = Instant::now() + Duration::from_secs(30);
        while redis.command("cluster countkeysinslot 0").starts_with('-') || !redis.cluster_is_up()
        {
            assert!(Instant::now() < deadline, "the cluster does not come up");
            std::thread::sleep(Duration::from_millis(20));
        }
        redis
    }

    fn cluster_is_up(&self) -> bool {
        !self.command("get x").starts_with('-')
    }

    fn start_with(cluster: bool) -> Self {
        let mut redis = Self {
            server: None,
            // A cluster's bus listens 10,000 above.
            port: std::iter::repeat_with(free_port).find(|port| *port < 55_000).unwrap(),
            folder: Folder::new("redis"),
            cluster,
        };
        redis.resume();
        redis
    }

    /// Starts the server again after a [`Redis::stop`], on the same port, empty.
    ///
    /// # Panics
    /// When it does not answer within half a minute.
    pub fn resume(&mut self) {
        let mut arguments: Vec<String> =
            ["--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--port"]
                .map(str::to_owned)
                .to_vec();
        arguments.push(self.port.to_string());
        arguments.extend(["--dir".to_owned(), self.folder.path().to_string_lossy().into_owned()]);
        if self.cluster {
            arguments.extend(["--cluster-enabled".to_owned(), "yes".to_owned()]);
        }
        let log = self.folder.path().join("log");
        self.server = Some(spawn(Path::new("redis-server"), &arguments, None, &log));
        let deadline = Instant::now() + Duration::from_secs(30);
        while self.try_command("ping").as_deref() != Some("+PONG") {
            let log = || std::fs::read_to_string(&log).unwrap_or_default();
            assert!(
                Instant::now() < deadline,
                "redis-server does not answer (Debian: apt install redis-server):\n{}",
                log()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Kills the server.
    ///
    /// # Panics
    /// When it is not running.
    pub fn stop(&mut self) {
        let mut server = self.server.take().expect("it runs");
        signal(server.id(), "KILL");
        server.wait().unwrap();
    }

    /// Its process, for signals.
    ///
    /// # Panics
    /// When it is not running.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.server.as_ref().expect("it runs").id()
    }

    /// Where clients find it.
    #[must_use]
    pub fn url(&self) -> String {
        let scheme = if self.cluster { "redis-cluster" } else { "redis" };
        format!("{scheme}://127.0.0.1:{}", self.port)
    }

    /// The port that it listens on, also while it is stopped.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// Sends a command, words between spaces, and returns the first line of the answer as Redis
    /// writes it.
    ///
    /// # Panics
    /// When the server does not answer.
    pub fn command(&self, command: &str) -> String {
        self.try_command(command).expect("Redis answers")
    }

    fn try_command(&self, command: &str) -> Option<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(10))).ok()?;
        stream.write_all(format!("{command}\r\n").as_bytes()).ok()?;
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line).ok()?;
        Some(line.trim_end().to_owned())
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        if self.server.is_some() {
            self.stop();
        }
    }
}
