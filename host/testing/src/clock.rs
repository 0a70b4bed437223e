//! A host whose clock is set while its processes run.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use crate::server::Folder;

/// The clock of a host: processes that are started with it see the time that it is set to. Their
/// monotonic clock goes on as it does on a real host.
#[derive(Debug)]
pub struct HostClock {
    folder: Folder,
    library: PathBuf,
}

impl HostClock {
    /// A clock that is correct at first. `None` where libfaketime is not installed, which is an error
    /// where `CI` is set.
    ///
    /// # Panics
    /// When it is not installed and `CI` is set.
    #[must_use]
    pub fn new() -> Option<Self> {
        let Some(library) = library() else {
            assert!(
                std::env::var_os("CI").is_none(),
                "libfaketime is missing (Debian: apt install faketime)"
            );
            eprintln!("skipped: libfaketime is missing (Debian: apt install faketime)");
            return None;
        };
        let clock = Self { folder: Folder::new("clock"), library };
        clock.set(0);
        Some(clock)
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("time")
    }

    /// Sets it to so many seconds after the correct time, or before it.
    ///
    /// # Panics
    /// When that fails.
    pub fn set(&self, seconds: i64) {
        // Replaced as a whole: a process may be reading it.
        let new = self.folder.path().join("time.new");
        std::fs::write(&new, format!("{seconds:+}\n")).unwrap();
        std::fs::rename(&new, self.file()).unwrap();
    }

    /// Makes a process use it.
    pub fn apply(&self, command: &mut Command) {
        command.envs(self.variables());
    }

    /// The variables of a process that uses it.
    pub(crate) fn variables(&self) -> [(&'static str, String); 5] {
        [
            ("LD_PRELOAD", self.library.display().to_string()),
            ("FAKETIME_TIMESTAMP_FILE", self.file().display().to_string()),
            ("FAKETIME_NO_CACHE", "1".to_owned()),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
            ("DONT_FAKE_MONOTONIC", "1".to_owned()),
        ]
    }
}

/// The one for programs with threads, where distributions put it.
fn library() -> Option<PathBuf> {
    let folders = std::fs::read_dir("/usr/lib").ok()?.filter_map(Result::ok);
    let mut folders: Vec<_> = folders.map(|entry| entry.path()).collect();
    folders.push("/usr/local/lib".into());
    folders
        .iter()
        .map(|folder| folder.join("faketime/libfaketimeMT.so.1"))
        .find(|library| Path::exists(library))
}
