//! One process of a fleet.

use std::{
    io::{BufRead as _, BufReader},
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};

use serde_json::Value;
use taskforge_testing::server::signal;

/// A process that listens for HTTP; killed when dropped.
pub(crate) struct Node {
    process: Child,
    pub(crate) url: String,
}

impl Node {
    /// Starts a process, and returns once it has said where it listens: as its API, or else for its
    /// operators.
    pub(crate) fn start(command: &mut Command) -> Self {
        Self::try_start(command).expect("the process said where it listens")
    }

    /// `None` if it ended before it said where.
    pub(crate) fn try_start(command: &mut Command) -> Option<Self> {
        let mut process = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let url = lines.by_ref().map_while(Result::ok).find_map(|line| {
            let line = line.trim();
            let address = line.strip_prefix("API").or_else(|| line.strip_prefix("admin"))?;
            Some(address.trim().to_owned())
        });
        // Nobody reads the rest; the thread ends with the process.
        std::thread::spawn(move || lines.map_while(Result::ok).for_each(drop));
        let node = Self { process, url: url.clone().unwrap_or_default() };
        url.map(|_| node)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.id()
    }

    pub(crate) fn signal(&self, name: &str) {
        signal(self.process.id(), name);
    }

    /// SIGKILL: no handler runs, nothing is flushed.
    pub(crate) fn kill(mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    pub(crate) async fn wait_for_exit(&mut self) -> ExitStatus {
        for _ in 0..1_200 {
            if let Some(status) = self.process.try_wait().unwrap() {
                return status;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("the process did not exit within a minute");
    }

    /// Whether it runs.
    pub(crate) fn is_alive(&mut self) -> bool {
        self.process.try_wait().unwrap().is_none()
    }

    /// What `/readyz` says, with its status; `None` if nobody answers.
    pub(crate) async fn readyz(&self) -> Option<(u16, Value)> {
        let response = client().get(format!("{}/readyz", self.url)).send().await.ok()?;
        Some((response.status().as_u16(), response.json().await.ok()?))
    }

    /// Descriptors that it holds.
    pub(crate) fn descriptors(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.pid())).map_or(0, Iterator::count)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // It may have exited already, which is as good. A stopped process is killed too.
        let _gone = self.process.kill();
        let _reaped = self.process.wait();
    }
}

/// A client that waits for nothing long.
pub(crate) fn client() -> reqwest::Client {
    // The binary installs one for itself; this is for the test's own client.
    let _already_there = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(40)).build().unwrap()
}
