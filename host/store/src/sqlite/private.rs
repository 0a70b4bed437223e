//! Files and folders that nobody but their user may read: 0600 and 0700, whatever the umask.

use std::{
    fs::{DirBuilder, File, OpenOptions},
    io::{self, ErrorKind},
    path::Path,
};

/// Makes a folder, and those above it. One that is there keeps its mode: it may be somebody's.
pub(super) fn folder(path: &Path) -> io::Result<()> {
    let mut builder = DirBuilder::new();
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.recursive(true).create(path)
}

/// Opens a file, which is made if there is none and closed to others if it was open to them.
pub(super) fn file(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let file = options.read(true).write(true).create(true).truncate(false).open(path)?;
    close_to_others(&file)?;
    Ok(file)
}

/// Closes a file of the database to others, and makes it if it is to be there.
pub(super) fn database_file(path: &Path, make: bool) -> io::Result<()> {
    match File::open(path) {
        Ok(file) => close_to_others(&file),
        Err(error) if error.kind() == ErrorKind::NotFound && make => file(path).map(drop),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

#[cfg(unix)]
fn close_to_others(file: &File) -> io::Result<()> {
    use std::{fs::Permissions, os::unix::fs::PermissionsExt as _};
    let mode = file.metadata()?.permissions().mode();
    if mode & 0o077 == 0 {
        return Ok(());
    }
    match file.set_permissions(Permissions::from_mode(mode & 0o700)) {
        // Another user's file, which we may use all the same.
        Err(error) if error.kind() == ErrorKind::PermissionDenied => {
            tracing::warn!(mode = %format!("{mode:o}"), "a file of the database is open to other users");
            Ok(())
        }
        closed => closed,
    }
}

#[cfg(not(unix))]
fn close_to_others(_: &File) -> io::Result<()> {
    Ok(())
}
