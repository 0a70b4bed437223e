//! Compiled code on disk, by digest and engine fingerprint.
//!
//! Compiling takes from 50 ms for a small Rust handler to half a minute for an interpreter; loading
//! compiled code takes milliseconds. But compiled code is machine code that runs outside any
//! sandbox, so only files that this host itself wrote are loaded: the folder is private to the
//! user, and each file carries a hash of its content and its name.
//!
//! A file is mapped into memory. Its pages are shared between the processes of a machine, loaded
//! when they are first used, and dropped by the kernel when memory is short. So a file never
//! changes once it has its name: it is written under another one and renamed.

use std::{
    fs::{self, File, FileTimes},
    io::{self, Read as _, SeekFrom, Write as _},
    os::unix::fs::{
        DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _,
    },
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use sha2::{Digest as _, Sha256};
use taskforge_domain::Digest;
use wasmtime::{Engine, component::Component};

/// The end of each file. The layout is the code, 32 bytes of SHA-256 over the file's name and the
/// code, and this mark. The code comes first, so that it begins with a page and can be mapped.
const MAGIC: &[u8; 8] = b"tfcode02";

/// Length of what follows the code.
const SEAL: u64 = 32 + MAGIC.len() as u64;

/// A draft of this age belongs to a process that has died.
const STALE: Duration = Duration::from_secs(3600);

/// A folder of compiled code.
#[derive(Debug)]
pub(crate) struct CodeCache {
    folder: PathBuf,
    fingerprint: String,
    capacity: u64,
}

/// A file that is being written. Removed when it is dropped, unless it became part of the cache.
#[derive(Debug)]
pub(crate) struct Draft {
    path: PathBuf,
}

impl Draft {
    /// Where to write the code.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(path = %self.path.display(), %error, "a draft of the code cache cannot be removed");
            }
            _ => {}
        }
    }
}

impl CodeCache {
    /// Opens the folder and makes it private to this user. It is kept to `capacity` bytes.
    ///
    /// # Errors
    /// When it cannot be made, or belongs to another user.
    pub(crate) fn open(folder: PathBuf, fingerprint: String, capacity: u64) -> io::Result<Self> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder)?;
        let metadata = fs::metadata(&folder)?;
        // The change of mode fails in another user's folder.
        if metadata.mode() & 0o077 != 0 {
            fs::set_permissions(&folder, fs::Permissions::from_mode(0o700))?;
        }
        Ok(Self { folder, fingerprint, capacity })
    }

    /// The fingerprint of the engine that the code is for.
    pub(crate) fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    fn name(&self, digest: &Digest) -> String {
        format!("{digest}-{}.code", self.fingerprint)
    }

    /// The compiled component, if this host compiled it before with this engine. A file that has
    /// changed since is ignored.
    pub(crate) fn load(&self, engine: &Engine, digest: &Digest) -> Option<Component> {
        self.find(engine, digest).unwrap_or_else(|error| {
            tracing::warn!(%digest, error = %format!("{error:#}"), "a file of the code cache does not suit this engine");
            None
        })
    }

    /// [`CodeCache::load`], with the reason why the engine refuses code that is there, for example
    /// a memory that is larger than the pool's.
    ///
    /// # Errors
    /// What the engine says.
    pub(crate) fn find(
        &self,
        engine: &Engine,
        digest: &Digest,
    ) -> wasmtime::Result<Option<Component>> {
        let name = self.name(digest);
        let path = self.folder.join(&name);
        match verified(&path, &name) {
            Ok(true) => map(engine, &path).map(Some),
            Ok(false) => {
                tracing::warn!(path = %path.display(), "a file of the code cache is damaged or foreign and was ignored");
                Ok(None)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "a file of the code cache cannot be read");
                Ok(None)
            }
        }
    }

    /// An empty file to write code into.
    ///
    /// # Errors
    /// When it cannot be made.
    pub(crate) fn draft(&self, digest: &Digest) -> io::Result<Draft> {
        // Each writer has a name of its own: two processes may compile the same component at once.
        let name = format!("{digest}-{:016x}.part", fastrand::u64(..));
        let path = self.folder.join(name);
        let mut options = fs::OpenOptions::new();
        options.write(true).create_new(true).mode(0o600).open(&path)?;
        Ok(Draft { path })
    }

    /// Adds a draft with code to the cache.
    ///
    /// # Errors
    /// When it cannot be read, written or renamed.
    pub(crate) fn adopt(&self, draft: &Draft, digest: &Digest) -> io::Result<()> {
        let name = self.name(digest);
        let mut file = fs::OpenOptions::new().read(true).append(true).open(&draft.path)?;
        let length = file.metadata()?.len();
        let sum = sum(&name, &mut file, length)?;
        file.write_all(&sum)?;
        file.write_all(MAGIC)?;
        // Not synced: the hash detects what a crash of the machine leaves of it.
        fs::rename(&draft.path, self.folder.join(&name))?;
        self.prune()
    }

    /// Removes the least recently used files until the rest fits, and drafts of processes that have
    /// died. Mapped code stays usable after its file is removed.
    fn prune(&self) -> io::Result<()> {
        let mut files = Vec::new();
        for entry in fs::read_dir(&self.folder)? {
            let path = entry?.path();
            let ending = path.extension().and_then(|ending| ending.to_str());
            // Another process may have removed it.
            let Ok(metadata) = fs::metadata(&path) else {
                continue;
            };
            let used = metadata.modified()?.max(metadata.accessed()?);
            match ending {
                Some("code") => files.push((used, metadata.len(), path)),
                Some("part") if used.elapsed().is_ok_and(|age| age > STALE) => remove(&path)?,
                _ => {}
            }
        }
        files.sort_unstable();
        let total: u64 = files.iter().map(|(_, size, _)| size).sum();
        let mut excess = total.saturating_sub(self.capacity);
        // The newest was just compiled, and stays however large it is.
        files.pop();
        for (_, size, path) in files {
            if excess == 0 {
                break;
            }
            remove(&path)?;
            excess = excess.saturating_sub(size);
        }
        Ok(())
    }
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Whether a file is whole and written by this cache. Marks it as used.
fn verified(path: &Path, name: &str) -> io::Result<bool> {
    let mut file = File::open(path)?;
    if !intact(&mut file, name)? {
        return Ok(false);
    }
    // Set explicitly, because most file systems are mounted so that reads do not.
    if let Err(error) = file.set_times(FileTimes::new().set_accessed(SystemTime::now())) {
        tracing::debug!(path = %path.display(), %error, "the time of use cannot be set");
    }
    Ok(true)
}

fn intact(file: &mut (impl io::Read + io::Seek), name: &str) -> io::Result<bool> {
    let length = file.seek(SeekFrom::End(0))?;
    let Some(code) = length.checked_sub(SEAL) else {
        return Ok(false);
    };
    file.rewind()?;
    let sum = sum(name, file, code)?;
    let mut seal = Vec::new();
    file.read_to_end(&mut seal)?;
    Ok(seal.strip_suffix(MAGIC).is_some_and(|said| said == sum))
}

/// The hash over a name and the next `length` bytes.
fn sum(name: &str, file: &mut impl io::Read, length: u64) -> io::Result<[u8; 32]> {
    let mut hasher = Sha256::new();
    hasher.update(name);
    let mut rest = file.take(length);
    let mut buffer = vec![0; 64 << 10];
    loop {
        match rest.read(&mut buffer)? {
            0 => return Ok(hasher.finalize().into()),
            read => hasher.update(&buffer[..read]),
        }
    }
}

#[allow(unsafe_code)]
fn map(engine: &Engine, path: &Path) -> wasmtime::Result<Component> {
    // SAFETY: the engine demands that the file is unchanged output of its own compiler, and stays
    // so while it is mapped. It lies in a folder that only this user can write, under a name that
    // only `adopt` gives, its hash is the one that `adopt` wrote, and nothing here writes to a file
    // that has its name. The engine itself checks version, target and settings.
    unsafe { Component::deserialize_file(engine, path) }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    fn sealed(name: &str, code: &[u8]) -> Vec<u8> {
        let sum = sum(name, &mut &code[..], code.len() as u64).unwrap();
        [code, &sum, MAGIC].concat()
    }

    #[test]
    fn only_a_whole_file_of_ours_is_intact() {
        let file = sealed("a.code", b"machine code");
        let intact = |bytes: &[u8], name| intact(&mut Cursor::new(bytes), name).unwrap();
        assert!(intact(&file, "a.code"));
        assert!(!intact(&file, "b.code"), "another plugin's file was renamed to this one's");
        for length in 0..file.len() {
            assert!(!intact(&file[..length], "a.code"), "{length}");
        }
        for index in 0..file.len() {
            let mut changed = file.clone();
            changed[index] ^= 1;
            assert!(!intact(&changed, "a.code"), "{index}");
        }
        assert!(!intact(&[&file[..], b"more"].concat(), "a.code"));
    }

    #[test]
    fn what_was_not_used_for_longest_goes_first() {
        let folder = tempfile::tempdir().unwrap();
        let cache =
            CodeCache::open(folder.path().to_path_buf(), "engine".to_owned(), 3000).unwrap();
        let digest = |index| Digest::from_bytes([index; 32]);
        let path = |index| folder.path().join(cache.name(&digest(index)));
        let age = |index, seconds| {
            let then = SystemTime::now() - Duration::from_secs(seconds);
            let times = FileTimes::new().set_accessed(then).set_modified(then);
            File::open(path(index)).unwrap().set_times(times).unwrap();
        };
        let keep = |index| {
            let draft = cache.draft(&digest(index)).unwrap();
            fs::write(draft.path(), [index; 900]).unwrap();
            cache.adopt(&draft, &digest(index)).unwrap();
        };
        fs::write(folder.path().join("notes.txt"), [0; 9000]).unwrap();
        for index in 1..=3 {
            keep(index);
            age(index, 1000 - u64::from(index) * 100);
        }
        assert!(verified(&path(1), &cache.name(&digest(1))).unwrap(), "used again");
        keep(4);
        let left: Vec<_> = (1..=4).filter(|index| path(*index).exists()).collect();
        assert_eq!(left, [1, 3, 4]);
        assert!(folder.path().join("notes.txt").exists(), "what is not the cache's was left alone");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 4, "no draft was left");
    }
}
