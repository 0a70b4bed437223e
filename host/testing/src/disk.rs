//! A disk that can be filled.

use std::{
    io::Write as _,
    path::{Path, PathBuf},
    process::Command,
};

/// A small file system in memory, mounted on a folder for as long as the value lives.
#[derive(Debug)]
pub struct SmallDisk(PathBuf);

impl SmallDisk {
    /// Mounts one of so many mebibytes on a folder that exists. `None` where this process may not
    /// mount any.
    #[must_use]
    pub fn mount(folder: &Path, mebibytes: u32) -> Option<Self> {
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={mebibytes}m"), "tmpfs"])
            .arg(folder)
            .output();
        if mounted.is_ok_and(|mounted| mounted.status.success()) {
            return Some(Self(folder.to_owned()));
        }
        eprintln!("skipped: this process may not mount a file system");
        None
    }

    /// Fills it to the last byte.
    ///
    /// # Panics
    /// When no file can be made on it.
    pub fn fill(&self) {
        let mut file =
            std::fs::File::options().create(true).append(true).open(self.filler()).unwrap();
        while file.write_all(&[0; 4096]).is_ok() {}
    }

    /// Frees what was filled.
    ///
    /// # Panics
    /// When it was not filled.
    pub fn empty(&self) {
        std::fs::remove_file(self.filler()).unwrap();
    }

    fn filler(&self) -> PathBuf {
        self.0.join("filler")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily, because a process may still be closing a file.
        Command::new("umount").arg("-l").arg(&self.0).status().ok();
    }
}
