//! PgBouncer, between clients and a PostgreSQL server.

use std::{
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Child, Command},
    time::{Duration, Instant},
};

use super::{Folder, free_port, postgres, signal, spawn};

/// A pooler on loopback that logs everybody in as `postgres`.
#[derive(Debug)]
pub struct PgBouncer {
    server: Option<Child>,
    program: PathBuf,
    port: u16,
    folder: Folder,
}

impl PgBouncer {
    /// Starts one before the server at this port, with a `pool_mode`. `None` where it is not
    /// installed.
    ///
    /// # Panics
    /// When it does not start, or is not installed where `CI` is set.
    #[must_use]
    pub fn start(server: u16, pool_mode: &str) -> Option<Self> {
        let Some(program) = program() else {
            assert!(
                std::env::var_os("CI").is_none(),
                "pgbouncer is missing (Debian: apt install pgbouncer)"
            );
            eprintln!("skipped: pgbouncer is not installed");
            return None;
        };
        let (folder, port) = (Folder::new("pgbouncer"), free_port());
        let path = folder.path().display();
        let settings = format!(
            "[databases]\n\
             * = host=127.0.0.1 port={server} user=postgres\n\
             [pgbouncer]\n\
             listen_addr = 127.0.0.1\n\
             listen_port = {port}\n\
             unix_socket_dir =\n\
             auth_type = any\n\
             pool_mode = {pool_mode}\n\
             default_pool_size = 60\n\
             max_client_conn = 200\n\
             pidfile = {path}/pid\n"
        );
        std::fs::write(folder.path().join("pgbouncer.ini"), settings).unwrap();
        postgres::give(folder.path());
        let mut pooler = Self { server: None, program, port, folder };
        pooler.resume();
        Some(pooler)
    }

    /// Starts it again after a [`PgBouncer::stop`], on the same port.
    ///
    /// # Panics
    /// When it does not listen within half a minute.
    pub fn resume(&mut self) {
        let file = self.folder.path().join("pgbouncer.ini");
        let arguments = [file.to_string_lossy().into_owned()];
        let log = self.folder.path().join("log");
        // It refuses to start beside the file of one that was killed.
        std::fs::remove_file(self.folder.path().join("pid")).ok();
        self.server = Some(spawn(&self.program, &arguments, postgres::user(), &log));
        let deadline = Instant::now() + Duration::from_secs(30);
        while TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            let said = || std::fs::read_to_string(&log).unwrap_or_default();
            assert!(Instant::now() < deadline, "pgbouncer does not listen:\n{}", said());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Kills it.
    ///
    /// # Panics
    /// When it is not running.
    pub fn stop(&mut self) {
        let mut server = self.server.take().expect("it runs");
        signal(server.id(), "KILL");
        server.wait().unwrap();
    }

    /// Where clients find a database through it.
    #[must_use]
    pub fn url(&self, database: &str) -> String {
        format!("postgres://postgres@127.0.0.1:{}/{database}", self.port)
    }

    /// The port that it listens on.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }
}

impl Drop for PgBouncer {
    fn drop(&mut self) {
        if self.server.is_some() {
            self.stop();
        }
    }
}

/// Distributions put it where only administrators look.
fn program() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain([Path::new("/usr/sbin").to_owned()])
        .map(|folder| folder.join("pgbouncer"))
        .find(|program| Command::new(program).arg("--version").output().is_ok())
}
