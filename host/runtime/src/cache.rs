//! Compiled code on disk, by digest and engine fingerprint.
//!
//! Compiling takes from 50 ms for a small Rust handler to half a minute for an interpreter; loading compiled code
//! takes milliseconds. But compiled code is machine code that the process will run outside any sandbox, so only files
//! that this host itself wrote are ever loaded: the folder is private to the user, and each file carries the sum of
//! its content.

use std::{
    fs,
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use sha2::{Digest as _, Sha256};
use taskforge_domain::Digest;
use wasmtime::{Engine, component::Component};

/// Marks a file as ours, and its layout: this, 32 bytes of SHA-256 over the rest, the rest.
const MAGIC: &[u8; 8] = b"tfcode01";

/// Files kept. A component's code is a few times its size; operators who load more versions than this compile the
/// oldest again.
const MAX_FILES: usize = 200;

/// A folder of compiled code.
#[derive(Debug)]
pub(crate) struct CodeCache {
    folder: PathBuf,
    fingerprint: String,
}

impl CodeCache {
    /// Opens the folder and makes it private to this user.
    ///
    /// # Errors
    /// When it cannot be made, or belongs to somebody else.
    pub(crate) fn open(folder: PathBuf, fingerprint: String) -> io::Result<Self> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&folder)?;
        let metadata = fs::metadata(&folder)?;
        // Somebody else's folder refuses the change of mode.
        if metadata.mode() & 0o077 != 0 {
            fs::set_permissions(&folder, fs::Permissions::from_mode(0o700))?;
        }
        Ok(Self { folder, fingerprint })
    }

    fn path(&self, digest: &Digest) -> PathBuf {
        self.folder.join(format!("{digest}-{}.code", self.fingerprint))
    }

    /// The compiled component, if this host compiled it before with this engine. A file that is not as it was written
    /// is ignored.
    pub(crate) fn load(&self, engine: &Engine, digest: &Digest) -> Option<Component> {
        let path = self.path(digest);
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "a file of the code cache cannot be read");
                return None;
            }
        };
        let Some(code) = intact(&bytes) else {
            tracing::warn!(path = %path.display(), "a file of the code cache is damaged or foreign and was ignored");
            return None;
        };
        deserialize(engine, code, &path)
    }

    /// Keeps compiled code for the next start. A failure costs only that start's time, so it is logged and no error.
    pub(crate) fn store(&self, digest: &Digest, component: &Component) {
        let path = self.path(digest);
        let stored = component
            .serialize()
            .map_err(io::Error::other)
            .and_then(|code| self.write(&path, &code));
        if let Err(error) = stored {
            tracing::warn!(path = %path.display(), %error, "compiled code could not be cached");
        }
    }

    fn write(&self, path: &Path, code: &[u8]) -> io::Result<()> {
        // A name of its own for each writer: two processes may compile the same component at once.
        let draft = path.with_extension(format!("{:016x}.part", fastrand::u64(..)));
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&draft)?;
        file.write_all(MAGIC)?;
        file.write_all(&Sha256::digest(code))?;
        file.write_all(code)?;
        file.sync_all()?;
        fs::rename(&draft, path)?;
        self.prune()
    }

    fn prune(&self) -> io::Result<()> {
        let mut files = Vec::new();
        for entry in fs::read_dir(&self.folder)? {
            let entry = entry?;
            files.push((entry.metadata()?.modified()?, entry.path()));
        }
        files.sort_unstable();
        let excess = files.len().saturating_sub(MAX_FILES);
        files
            .iter()
            .take(excess)
            .try_for_each(|(_, path)| fs::remove_file(path))
    }
}

/// The code in a file, if the file is whole and ours.
fn intact(bytes: &[u8]) -> Option<&[u8]> {
    let (sum, code) = bytes.strip_prefix(MAGIC)?.split_at_checked(32)?;
    (Sha256::digest(code).as_slice() == sum).then_some(code)
}

#[allow(unsafe_code)]
fn deserialize(engine: &Engine, code: &[u8], path: &Path) -> Option<Component> {
    // SAFETY: the engine demands that the bytes are unchanged output of its own `serialize`. They come from a folder
    // that only this user can write, under a name that only `store` gives, and their sum is the one that `store`
    // wrote. The engine itself checks version, target and settings.
    match unsafe { Component::deserialize(engine, code) } {
        Ok(component) => Some(component),
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "a file of the code cache was made by another engine");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_whole_file_of_ours_is_intact() {
        let code = b"machine code";
        let mut file = MAGIC.to_vec();
        file.extend_from_slice(&Sha256::digest(code));
        file.extend_from_slice(code);
        assert_eq!(intact(&file), Some(&code[..]));
        for length in 0..file.len() {
            assert_eq!(intact(&file[..length]), None, "{length}");
        }
        for index in 0..file.len() {
            let mut changed = file.clone();
            changed[index] ^= 1;
            assert_eq!(intact(&changed), None, "{index}");
        }
    }
}
