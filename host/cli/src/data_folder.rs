//! The data folder, which is its user's own, with the key in it and the address that the key is
//! for.
//!
//! Who can read the folder can read every task, every mail and the key; who can write to it can
//! have code run. So it has mode 0700, and what a role makes in it no mode for others, whatever the
//! umask.

use std::{
    fs::{self, DirBuilder, Permissions},
    io::{ErrorKind, Write as _},
    net::SocketAddr,
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail, ensure};
use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use ring::rand::{SecureRandom as _, SystemRandom};
use rustix::fs::Mode;

/// The file with the key of `dev`.
const KEY: &str = "key";
/// The file with the URL at which a `dev` that runs on this folder listens.
const ADDRESS: &str = "address";
/// What mode bits give others than the user.
const OTHERS: u32 = 0o077;
/// What TaskForge puts into its folder. Of the database there are more files, such as
/// `taskforge.db-wal`.
const OURS: [&str; 5] = ["taskforge.db", "cache", "outbox", KEY, ADDRESS];

/// Makes the folder if there is none, and keeps others out of it. Everything that this process
/// makes from now on is its user's alone.
///
/// A folder that others may read becomes private if it has nothing but our files. Otherwise it may
/// be open on purpose, so this only warns.
pub(crate) fn prepare(folder: &Path) -> anyhow::Result<()> {
    rustix::process::umask(Mode::from_raw_mode(OTHERS));
    let shown = folder.display();
    let make = || -> std::io::Result<()> {
        if let Some(above) = folder.parent() {
            fs::create_dir_all(above)?;
        }
        match DirBuilder::new().mode(0o700).create(folder) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists && folder.is_dir() => Ok(()),
            made => made,
        }
    };
    make().with_context(|| format!("cannot make the data folder {shown}"))?;
    let mode = mode(folder).with_context(|| format!("cannot use the data folder {shown}"))?;
    if mode & OTHERS == 0 {
        return Ok(());
    }
    let closed = is_ours(folder, mode) && close(folder, mode);
    match closed {
        true => {
            tracing::warn!(folder = %shown, "the data folder was open to other users and is closed now");
        }
        false => tracing::warn!(
            folder = %shown, mode = %format!("{mode:o}"),
            "the data folder is open to other users: chmod 700 keeps them out"
        ),
    }
    Ok(())
}

fn mode(path: &Path) -> std::io::Result<u32> {
    Ok(fs::metadata(path)?.permissions().mode() & 0o7777)
}

fn close(path: &Path, mode: u32) -> bool {
    fs::set_permissions(path, Permissions::from_mode(mode & !OTHERS)).is_ok()
}

/// Whether a folder holds nothing that is not ours. One with the sticky bit is made for several
/// users.
fn is_ours(folder: &Path, mode: u32) -> bool {
    let Ok(mut entries) = fs::read_dir(folder) else {
        return false;
    };
    mode & 0o1000 == 0
        && entries.all(|entry| {
            entry.is_ok_and(|entry| {
                let name = entry.file_name();
                let name = name.to_string_lossy();
                OURS.contains(&&*name) || name.starts_with("taskforge.db")
            })
        })
}

/// Where the key of a data folder is.
pub(crate) fn key_file(folder: &Path) -> PathBuf {
    folder.join(KEY)
}

/// The key in a data folder, if there is one.
pub(crate) fn key(folder: &Path) -> anyhow::Result<Option<String>> {
    let file = key_file(folder);
    let shown = file.display();
    let found = match fs::symlink_metadata(&file) {
        Ok(found) => found,
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        Err(error) => return Err(error).with_context(|| format!("cannot read the key in {shown}")),
    };
    ensure!(found.is_file(), "{shown} is not a file with a key");
    let text =
        fs::read_to_string(&file).with_context(|| format!("cannot read the key in {shown}"))?;
    let key = text.trim();
    if taskforge_api::ApiKey::new(key).is_err() {
        bail!("{shown} holds no key: delete it, and `taskforge dev` makes a new one");
    }
    Ok(Some(key.to_owned()))
}

/// The key in a data folder, which is made if there is none.
pub(crate) fn key_or_new(folder: &Path) -> anyhow::Result<String> {
    let file = folder.join(KEY);
    if let Some(key) = key(folder)? {
        let mode = mode(&file)?;
        if mode & OTHERS != 0 && close(&file, mode) {
            tracing::warn!(
                file = %file.display(),
                "other users could read the key; delete the file to have a new one made"
            );
        }
        return Ok(key);
    }
    let key = new_key()?;
    let made =
        write(folder, &key).with_context(|| format!("cannot keep a key in {}", file.display()))?;
    match made {
        true => Ok(key),
        // Another process was quicker; its key is whole, because it came by one name change too.
        false => self::key(folder)?.with_context(|| format!("{} has gone", file.display())),
    }
}

/// Where the `dev` that runs on a data folder listens, if one has said so. A file of another user's
/// is not believed: it would lead this user's requests to whoever wrote it.
pub(crate) fn address(folder: &Path) -> anyhow::Result<Option<SocketAddr>> {
    let file = folder.join(ADDRESS);
    let shown = file.display();
    let found = match fs::symlink_metadata(&file) {
        Ok(found) => found,
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        Err(error) => {
            return Err(error).with_context(|| format!("cannot read the address in {shown}"));
        }
    };
    ensure!(found.is_file(), "{shown} is not a file with an address");
    ensure!(found.uid() == rustix::process::geteuid().as_raw(), "{shown} belongs to another user");
    let text =
        fs::read_to_string(&file).with_context(|| format!("cannot read the address in {shown}"))?;
    let address = text.trim().strip_prefix("http://").unwrap_or_default();
    address.parse::<SocketAddr>().map(Some).with_context(|| {
        format!("{shown} holds no address: the next start of `taskforge dev` mends it")
    })
}

/// Writes where `dev` listens, in one step and with mode 0600, in place of what an earlier process
/// wrote.
pub(crate) fn keep_address(folder: &Path, address: SocketAddr) -> anyhow::Result<()> {
    let mut draft = tempfile::Builder::new().prefix("address.").tempfile_in(folder)?;
    writeln!(draft, "http://{address}")?;
    draft.persist(folder.join(ADDRESS))?;
    Ok(())
}

/// Removes the address of a `dev` that ends, unless another one has written its own.
pub(crate) fn forget_address(folder: &Path, ours: SocketAddr) {
    if !matches!(address(folder), Ok(Some(address)) if address == ours) {
        return;
    }
    if let Err(error) = fs::remove_file(folder.join(ADDRESS)) {
        tracing::debug!(%error, "the address stays in the data folder");
    }
}

/// A key that nobody can guess: 256 random bits.
pub(crate) fn new_key() -> anyhow::Result<String> {
    let mut bytes = [0; 32];
    let filled = SystemRandom::new().fill(&mut bytes);
    ensure!(filled.is_ok(), "no key can be made: the system gives no random numbers");
    Ok(BASE64_URL_SAFE_NO_PAD.encode(bytes))
}

/// Writes the key under its name, in one step and with mode 0600, unless there is one.
fn write(folder: &Path, key: &str) -> anyhow::Result<bool> {
    let mut draft = tempfile::Builder::new().prefix("key.").tempfile_in(folder)?;
    writeln!(draft, "{key}")?;
    draft.as_file().sync_all()?;
    match draft.persist_noclobber(folder.join(KEY)) {
        Ok(_) => Ok(true),
        Err(error) if error.error.kind() == ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(error.error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_made_once_and_is_its_users_alone() {
        let above = tempfile::tempdir().unwrap();
        let folder = above.path().join("data");
        prepare(&folder).unwrap();
        assert_eq!(mode(&folder).unwrap(), 0o700);
        assert_eq!(key(&folder).unwrap(), None);
        let made = key_or_new(&folder).unwrap();
        assert_eq!(made.len(), 43);
        assert_eq!(mode(&folder.join(KEY)).unwrap(), 0o600);
        assert_eq!(key_or_new(&folder).unwrap(), made);
        fs::set_permissions(folder.join(KEY), Permissions::from_mode(0o644)).unwrap();
        assert_eq!(key_or_new(&folder).unwrap(), made);
        assert_eq!(mode(&folder.join(KEY)).unwrap(), 0o600);
        let left = fs::read_dir(&folder).unwrap().count();
        assert_eq!(left, 1, "no draft is left");
    }

    #[test]
    fn an_address_is_its_users_alone_and_goes_with_its_process() {
        let folder = tempfile::tempdir().unwrap();
        let (one, other) = ("127.0.0.1:8001".parse().unwrap(), "[::1]:8002".parse().unwrap());
        assert_eq!(address(folder.path()).unwrap(), None);
        keep_address(folder.path(), one).unwrap();
        keep_address(folder.path(), other).unwrap();
        assert_eq!(address(folder.path()).unwrap(), Some(other));
        assert_eq!(mode(&folder.path().join(ADDRESS)).unwrap(), 0o600);
        forget_address(folder.path(), one);
        assert_eq!(address(folder.path()).unwrap(), Some(other));
        forget_address(folder.path(), other);
        assert_eq!(address(folder.path()).unwrap(), None);
        fs::write(folder.path().join(ADDRESS), "elsewhere.example:80").unwrap();
        let error = address(folder.path()).unwrap_err().to_string();
        assert!(error.contains("holds no address"), "{error}");
    }

    #[test]
    fn what_is_no_key_is_named_and_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(KEY), "short").unwrap();
        let error = key_or_new(folder.path()).unwrap_err().to_string();
        assert!(error.contains("holds no key"), "{error}");
        fs::remove_file(folder.path().join(KEY)).unwrap();
        std::os::unix::fs::symlink("/etc/hostname", folder.path().join(KEY)).unwrap();
        let error = key_or_new(folder.path()).unwrap_err().to_string();
        assert!(error.contains("not a file"), "{error}");
    }

    #[test]
    fn only_a_folder_of_ours_is_closed() {
        let open = |names: &[&str], bits: u32| {
            let folder = tempfile::tempdir().unwrap();
            for name in names {
                fs::write(folder.path().join(name), "").unwrap();
            }
            fs::set_permissions(folder.path(), Permissions::from_mode(bits)).unwrap();
            prepare(folder.path()).unwrap();
            mode(folder.path()).unwrap()
        };
        assert_eq!(open(&[], 0o755), 0o700);
        assert_eq!(open(&["taskforge.db", "taskforge.db-wal", "cache"], 0o775), 0o700);
        assert_eq!(open(&["taskforge.db", "letters.txt"], 0o755), 0o755);
        assert_eq!(open(&["keynote.pdf"], 0o755), 0o755);
        assert_eq!(open(&[], 0o1777), 0o1777);
    }
}
