//! PostgreSQL.

use std::{
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::OnceLock,
    time::{Duration, Instant},
};

use super::{Folder, free_port, signal, spawn};
use crate::{clock::HostClock, disk::SmallDisk};

/// A PostgreSQL server. Its superuser is `postgres`, without a password, on loopback only.
#[derive(Debug)]
pub struct Postgres {
    server: Option<Child>,
    port: u16,
    bin: PathBuf,
    user: Option<&'static str>,
    /// Before the folder, on which it is mounted.
    disk: Option<SmallDisk>,
    /// The clock of its host, where a test sets it.
    clock: Option<HostClock>,
    folder: Folder,
    durable: bool,
}

impl Postgres {
    /// Starts a server that writes as durably as in production.
    ///
    /// # Panics
    /// When the programs are not installed, or the server does not start.
    #[must_use]
    pub fn start() -> Self {
        Self::start_with(Folder::new("postgres"), None, None, true)
    }

    /// Starts a server whose data lie on a disk of so many mebibytes, which can be filled. `None`
    /// where this process may not mount one.
    ///
    /// # Panics
    /// As [`Postgres::start`].
    #[must_use]
    pub fn start_on_small_disk(mebibytes: u32) -> Option<Self> {
        let folder = Folder::new("postgres");
        let disk = SmallDisk::mount(folder.path(), mebibytes)?;
        Some(Self::start_with(folder, Some(disk), None, true))
    }

    /// Starts a server on a host whose clock can be set.
    ///
    /// # Panics
    /// As [`Postgres::start`].
    #[must_use]
    pub fn start_on(clock: HostClock) -> Self {
        Self::start_with(Folder::new("postgres"), None, Some(clock), true)
    }

    /// The clock of a server that was started on a host of its own.
    ///
    /// # Panics
    /// When it was not.
    #[must_use]
    pub const fn clock(&self) -> &HostClock {
        self.clock.as_ref().expect("it was started on a host of its own")
    }

    /// Starts a standby, and makes every commit wait until it is there too.
    ///
    /// # Panics
    /// When it does not follow within half a minute.
    #[must_use]
    pub fn start_standby(&self) -> Self {
        let folder = Folder::new("postgres");
        give(folder.path());
        let mut copy = as_user(self.user, &self.bin.join("pg_basebackup"));
        copy.args(["-h", "127.0.0.1", "-p", &self.port.to_string(), "-U", "postgres"])
            .args(["--write-recovery-conf", "--checkpoint=fast", "--no-sync", "-D"])
            .arg(folder.path().join("data"));
        assert!(copy.status().unwrap().success(), "pg_basebackup failed");
        let mut standby = Self {
            server: None,
            port: free_port(),
            bin: self.bin.clone(),
            user: self.user,
            disk: None,
            clock: None,
            folder,
            durable: true,
        };
        standby.resume();
        self.sql("postgres", "alter system set synchronous_standby_names = '*'");
        self.sql("postgres", "select pg_reload_conf()");
        let deadline = Instant::now() + Duration::from_secs(30);
        let following = "select count(*) from pg_stat_replication where sync_state = 'sync'";
        while self.sql("postgres", following) != "1" {
            assert!(Instant::now() < deadline, "the standby does not follow");
            std::thread::sleep(Duration::from_millis(20));
        }
        standby
    }

    /// Makes a standby the server that takes writes.
    ///
    /// # Panics
    /// When it does not become it within a minute.
    pub fn promote(&self) {
        let mut promote = as_user(self.user, &self.bin.join("pg_ctl"));
        promote.args(["promote", "-w", "-s", "-D"]).arg(self.folder.path().join("data"));
        assert!(promote.status().unwrap().success(), "pg_ctl promote failed");
    }

    /// The disk of a server that was started on a small one.
    ///
    /// # Panics
    /// When it was not.
    #[must_use]
    pub const fn disk(&self) -> &SmallDisk {
        self.disk.as_ref().expect("it was started on a small disk")
    }

    /// Starts the server again if it has ended by itself, as whoever supervises it does.
    ///
    /// # Panics
    /// As [`Postgres::resume`].
    pub fn supervise(&mut self) {
        if !self.is_alive() {
            self.resume();
        }
    }

    fn is_alive(&mut self) -> bool {
        let server = self.server.as_mut();
        server.is_some_and(|server| server.try_wait().unwrap().is_none())
    }

    /// The server that the tests of this process share, each in a database of its own. It does not
    /// wait for the disk. A server named in `TASKFORGE_TEST_POSTGRES` is used instead.
    ///
    /// # Panics
    /// As [`Postgres::start`].
    pub fn shared() -> &'static SharedPostgres {
        static SHARED: OnceLock<SharedPostgres> = OnceLock::new();
        SHARED.get_or_init(|| match std::env::var("TASKFORGE_TEST_POSTGRES") {
            Ok(url) => SharedPostgres { url, _server: None },
            Err(_) => {
                let server = Self::start_with(Folder::new("postgres"), None, None, false);
                SharedPostgres { url: server.url("postgres"), _server: Some(server) }
            }
        })
    }

    fn start_with(
        folder: Folder,
        disk: Option<SmallDisk>,
        clock: Option<HostClock>,
        durable: bool,
    ) -> Self {
        let bin = programs();
        let user = user();
        let data = folder.path().join("data");
        give(folder.path());
        let mut initdb = as_user(user, &bin.join("initdb"));
        initdb
            .args([
                "--no-sync",
                "--auth=trust",
                "--username=postgres",
                "--encoding=UTF8",
                "--locale=C",
                "-D",
            ])
            .arg(&data)
            .stdout(Stdio::null());
        assert!(initdb.status().unwrap().success(), "initdb failed");
        let mut postgres =
            Self { server: None, port: free_port(), bin, user, disk, clock, folder, durable };
        postgres.resume();
        postgres
    }

    /// Starts the server again after a [`Postgres::stop`], on the same port and data.
    ///
    /// # Panics
    /// When it does not answer within half a minute.
    pub fn resume(&mut self) {
        let mut arguments: Vec<String> =
            ["-D", &self.folder.path().join("data").to_string_lossy()].map(str::to_owned).to_vec();
        let mut settings = vec![
            format!("port={}", self.port),
            "listen_addresses=127.0.0.1,::1".to_owned(),
            "unix_socket_directories=".to_owned(),
            "max_connections=200".to_owned(),
        ];
        if self.disk.is_some() {
            settings.extend(["max_wal_size=64MB", "min_wal_size=32MB"].map(str::to_owned));
        }
        if !self.durable {
            settings.extend(
                ["fsync=off", "synchronous_commit=off", "full_page_writes=off"].map(str::to_owned),
            );
        }
        for setting in settings {
            arguments.extend(["-c".to_owned(), setting]);
        }
        let log = self.folder.path().join("log");
        let mut program = self.bin.join("postgres");
        if let Some(clock) = &self.clock {
            let variables = clock.variables().map(|(name, value)| format!("{name}={value}"));
            let postgres = program.display().to_string();
            arguments.splice(0..0, variables.into_iter().chain([postgres]));
            program = "env".into();
        }
        self.server = Some(spawn(&program, &arguments, self.user, &log));
        let deadline = Instant::now() + Duration::from_secs(30);
        while !self.is_ready() {
            let log = || std::fs::read_to_string(&log).unwrap_or_default();
            assert!(Instant::now() < deadline, "PostgreSQL does not answer:\n{}", log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn is_ready(&self) -> bool {
        let port = self.port.to_string();
        Command::new(self.bin.join("pg_isready"))
            .args(["-q", "-h", "127.0.0.1", "-p", &port])
            .status()
            .unwrap()
            .success()
    }

    /// Stops the server as if the machine had lost its power: connections break, and the next start
    /// recovers from the log.
    ///
    /// # Panics
    /// When it is not running.
    pub fn stop(&mut self) {
        let mut server = self.server.take().expect("it runs");
        signal(server.id(), "QUIT");
        server.wait().unwrap();
    }

    /// Stops every process of the server where it is, as a machine that hangs does: connections
    /// stay, and nothing answers until [`Postgres::thaw`].
    ///
    /// # Panics
    /// When it is not running.
    pub fn freeze(&self) {
        self.tell_all("STOP");
    }

    /// Lets it go on.
    ///
    /// # Panics
    /// When it is not running.
    pub fn thaw(&self) {
        self.tell_all("CONT");
    }

    fn tell_all(&self, name: &str) {
        for pid in self.processes() {
            // A session that has just ended needs no signal.
            Command::new("kill")
                .args([format!("-{name}"), pid.to_string()])
                .stderr(Stdio::null())
                .status()
                .unwrap();
        }
    }

    /// The first process of the server, and those that it has started.
    fn processes(&self) -> Vec<u32> {
        let first = self.server.as_ref().expect("it runs").id();
        let mut found = vec![first];
        for entry in std::fs::read_dir("/proc").unwrap().filter_map(Result::ok) {
            let pid = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok());
            // After the name in parentheses: the state, and then the parent.
            let stat = std::fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
            let parent = stat
                .rsplit_once(") ")
                .and_then(|(_, rest)| rest.split(' ').nth(1)?.parse::<u32>().ok());
            if let (Some(pid), true) = (pid, parent == Some(first)) {
                found.push(pid);
            }
        }
        found
    }

    /// Where clients find a database of it.
    #[must_use]
    pub fn url(&self, database: &str) -> String {
        format!("postgres://postgres@127.0.0.1:{}/{database}", self.port)
    }

    /// The port that it listens on, also while it is stopped.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// Makes an empty database and returns where it is.
    ///
    /// # Panics
    /// When that fails.
    #[must_use]
    pub fn create_database(&self, name: &str) -> String {
        run(&self.url("postgres"), &format!("create database {name}"));
        self.url(name)
    }

    /// Runs SQL and returns what it printed, one row a line, columns between bars.
    ///
    /// # Panics
    /// When it fails.
    pub fn sql(&self, database: &str, sql: &str) -> String {
        run(&self.url(database), sql)
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        if self.is_alive() {
            self.thaw();
            self.stop();
        }
    }
}

/// See [`Postgres::shared`].
#[derive(Debug)]
pub struct SharedPostgres {
    url: String,
    _server: Option<Postgres>,
}

impl SharedPostgres {
    /// Where its maintenance database is.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }
}

fn run(url: &str, sql: &str) -> String {
    let output = Command::new(programs().join("psql"))
        .args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-c", sql, url])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{sql}: {said}");
    String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
}

fn as_user(user: Option<&str>, program: &Path) -> Command {
    let Some(user) = user else {
        return Command::new(program);
    };
    let mut command = Command::new("setpriv");
    command.args(["--reuid", user, "--regid", user, "--clear-groups", "--"]).arg(program);
    command
}

/// The user that servers run as which refuse to run as root, if this process does.
pub(super) fn user() -> Option<&'static str> {
    is_root().then_some("postgres")
}

/// Gives a folder to that user.
pub(super) fn give(folder: &Path) {
    if let Some(user) = user() {
        let done = Command::new("chown").arg("-R").arg(user).arg(folder).status().unwrap();
        assert!(done.success(), "there is no user {user} to run servers as");
    }
}

fn is_root() -> bool {
    std::fs::metadata("/proc/self")
        .is_ok_and(|process| std::os::unix::fs::MetadataExt::uid(&process) == 0)
}

/// The folder of PostgreSQL's programs: the newest that is installed where distributions put them,
/// or that of the search path.
fn programs() -> PathBuf {
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten();
    let newest = versions
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let version: u32 = entry.file_name().to_str()?.parse().ok()?;
            let bin = entry.path().join("bin");
            bin.join("initdb").exists().then_some((version, bin))
        })
        .max();
    let on_path = || {
        let path = std::env::var_os("PATH")?;
        std::env::split_paths(&path).find(|dir| dir.join("initdb").exists())
    };
    newest
        .map(|(_, bin)| bin)
        .or_else(on_path)
        .expect("PostgreSQL's server programs are missing (Debian: apt install postgresql)")
}
