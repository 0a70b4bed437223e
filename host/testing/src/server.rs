//! Database servers of a test's own: started on a free port, killed and restarted at will, gone
//! with the test.
//!
//! | file | the server |
//! |---|---|
//! | [`postgres`] | PostgreSQL, which refuses to run as root and is given another user then |
//! | [`pgbouncer`] | PgBouncer before a PostgreSQL |
//! | [`redis`] | Redis, with or without persistence, or as a cluster of one |

pub mod pgbouncer;
pub mod postgres;
pub mod redis;

use std::{
    io,
    net::TcpListener,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc,
};

pub use self::{pgbouncer::PgBouncer, postgres::Postgres, redis::Redis};

/// A port that nobody listens on now.
#[must_use]
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// A folder under the temporary files that goes with the value.
#[derive(Debug)]
pub(crate) struct Folder(PathBuf);

impl Folder {
    pub(crate) fn new(what: &str) -> Self {
        remove_abandoned(what);
        let unique = format!("{}{what}-{}-{}", PREFIX, std::process::id(), free_port());
        let path = std::env::temp_dir().join(unique);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // A leftover among the temporary files is no reason to fail a test.
        std::fs::remove_dir_all(&self.0).ok();
    }
}

const PREFIX: &str = "taskforge-test-";

/// Removes the folders of test processes that were killed.
fn remove_abandoned(what: &str) {
    let Ok(entries) = std::fs::read_dir(std::env::temp_dir()) else {
        return;
    };
    for entry in entries.filter_map(Result::ok) {
        let name = entry.file_name().to_string_lossy().into_owned();
        let owner = name
            .strip_prefix(PREFIX)
            .and_then(|rest| rest.strip_prefix(what))
            .and_then(|rest| rest.split('-').nth(1)?.parse::<u32>().ok());
        if owner.is_some_and(|pid| !Path::new("/proc").join(pid.to_string()).exists()) {
            std::fs::remove_dir_all(entry.path()).ok();
        }
    }
}

/// Starts a server that ends when this process does, however it ends.
///
/// The kernel sends the signal when the *thread* that started the server is gone, and tests run on
/// threads that come and go; so it is started by one that stays.
pub(crate) fn spawn(program: &Path, arguments: &[String], user: Option<&str>, log: &Path) -> Child {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "INT"]);
    if let Some(user) = user {
        command.args(["--reuid", user, "--regid", user, "--clear-groups"]);
    }
    let log = std::fs::File::options().create(true).append(true).open(log).unwrap();
    command
        .arg("--")
        .arg(program)
        .args(arguments)
        // Of its own, so that Ctrl-C at a test run does not reach it before the test.
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log);
    let (sender, started) = mpsc::channel::<io::Result<Child>>();
    std::thread::spawn(move || {
        sender.send(command.spawn()).ok();
        loop {
            std::thread::park();
        }
    });
    started
        .recv()
        .unwrap()
        .unwrap_or_else(|error| panic!("setpriv (util-linux) cannot be started: {error}"))
}

/// Sends a signal by its name.
pub fn signal(pid: u32, name: &str) {
    let done = Command::new("kill")
        .args([format!("-{name}"), pid.to_string()])
        .stderr(Stdio::null())
        .status()
        .unwrap();
    assert!(done.success(), "kill -{name} {pid}");
}
