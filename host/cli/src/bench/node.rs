//! The processes.

use std::{process::Stdio, time::Duration};

use anyhow::{Context as _, bail};
use serde::Serialize;
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::{Child, Command},
};

/// How long a process may take to start, compiling its plugins included.
const START: Duration = Duration::from_secs(120);

/// A role of this very binary.
pub(super) fn command(role: &str) -> anyhow::Result<Command> {
    let mut command =
        Command::new(std::env::current_exe().context("this program cannot be found")?);
    command.arg("--log").arg("warn").arg(role);
    Ok(command)
}

/// A process of the fleet. It ends with this one.
pub(super) struct Node {
    process: Child,
    pub(super) url: String,
    /// Until it has said where it listens.
    lines: Option<tokio::io::Lines<BufReader<tokio::process::ChildStdout>>>,
}

impl Node {
    /// Starts a process and returns once it has said where it listens.
    pub(super) fn start(mut command: Command) -> anyhow::Result<Self> {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true);
        // A terminal's Ctrl-C ends this process, which ends those.
        command.process_group(0);
        let mut process = command.spawn().context("a process of the fleet cannot be started")?;
        let stdout = process.stdout.take().context("it was given an output")?;
        let node =
            Self { process, url: String::new(), lines: Some(BufReader::new(stdout).lines()) };
        tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(node.ready()))
    }

    async fn ready(mut self) -> anyhow::Result<Self> {
        let mut lines = self.lines.take().context("it has not been read")?;
        let said = async {
            while let Some(line) = lines.next_line().await? {
                let line = line.trim();
                let address = line.strip_prefix("API").or_else(|| line.strip_prefix("admin"));
                if let Some(address) = address {
                    return anyhow::Ok(address.trim().to_owned());
                }
            }
            bail!("a process of the fleet ended at once; its log says why")
        };
        self.url = tokio::time::timeout(START, said)
            .await
            .context("a process of the fleet does not start")??;
        // Read on, so that it never waits for a reader.
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        Ok(self)
    }

    /// Resident memory in bytes.
    pub(super) fn resident(&self) -> anyhow::Result<u64> {
        let status = self.proc("status")?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
        Ok(kib.context("the system does not say what memory a process has")? * 1024)
    }

    /// Processor time so far.
    pub(super) fn processor_time(&self) -> anyhow::Result<Duration> {
        Ok(Duration::from_millis(10 * self.ticks()?))
    }

    /// Processor time so far, in ticks of 10 ms.
    fn ticks(&self) -> anyhow::Result<u64> {
        let stat = self.proc("stat")?;
        // The name, between parentheses, may hold anything.
        let (_, fields) = stat.rsplit_once(") ").context("no stat")?;
        let field = |n: usize| fields.split(' ').nth(n)?.parse::<u64>().ok();
        Ok(field(11).context("no user time")? + field(12).context("no system time")?)
    }

    fn proc(&self, file: &str) -> anyhow::Result<String> {
        let pid = self.process.id().context("a process of the fleet has ended")?;
        Ok(std::fs::read_to_string(format!("/proc/{pid}/{file}"))?)
    }

    /// Watches a process that has nothing to do.
    pub(super) async fn idle(&self, time: Duration) -> anyhow::Result<Idle> {
        let before = self.ticks()?;
        tokio::time::sleep(time).await;
        let ticks = self.ticks()? - before;
        Ok(Idle {
            resident_mib: super::report::mib(self.resident()?),
            // Ticks are few.
            #[allow(clippy::cast_precision_loss)]
            percent_of_a_core: ticks as f64 / time.as_secs_f64(),
        })
    }

    /// Asks the process to end, and waits for that.
    pub(super) async fn stop(mut self) -> anyhow::Result<()> {
        let pid = self.process.id().context("a process of the fleet has ended")?;
        let asked = Command::new("kill").arg(pid.to_string()).status().await?;
        let status = self.process.wait().await?;
        if !asked.success() || !status.success() {
            bail!("a process of the fleet ended with {status}");
        }
        Ok(())
    }
}

/// A worker that has nothing to do.
#[derive(Debug, Serialize)]
pub(super) struct Idle {
    pub(super) resident_mib: f64,
    pub(super) percent_of_a_core: f64,
}
