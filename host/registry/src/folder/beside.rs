//! The files of a component: itself, its settings and its signature.

use std::{
    fmt, fs,
    io::ErrorKind,
    path::{Path, PathBuf},
    time::SystemTime,
};

use taskforge_domain::{Manifest, PluginSettings};

use crate::folder::FolderError;

/// Time of change and size of the files of a component; `None` of one that is not there.
pub(super) type Stamps = [Option<(SystemTime, u64)>; 3];

/// The settings in the `.toml` file beside a component, and what it says of the component. A file
/// with nothing but a manifest says nothing of settings.
pub(super) fn settings(
    component: &Path,
) -> Result<(Option<PluginSettings>, Option<Manifest>), FolderError> {
    let file = component.with_extension("toml");
    let text = match fs::read_to_string(&file) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            return Ok((None, None));
        }
        Err(error) => return Err(unreadable(&file, &error)),
    };
    let mut table: toml::Table =
        toml::from_str(&text).map_err(|error| unreadable(&file, &error))?;
    let manifest = table.remove("manifest");
    let manifest = manifest.map(|manifest| {
        let manifest = serde_json::to_value(manifest).map_err(|error| unreadable(&file, &error))?;
        serde_json::from_value(manifest).map_err(|error| unreadable(&file, &error))
    });
    let manifest = manifest.transpose()?;
    if manifest.is_some() && table.is_empty() {
        return Ok((None, manifest));
    }
    let settings = table.try_into().map_err(|error| unreadable(&file, &error))?;
    Ok((Some(settings), manifest))
}

pub(super) fn signature(component: &Path) -> Result<Option<Vec<u8>>, FolderError> {
    let file = signature_file(component);
    match fs::read(&file) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(unreadable(&file, &error)),
    }
}

fn signature_file(component: &Path) -> PathBuf {
    let mut file = component.as_os_str().to_owned();
    file.push(".sig");
    PathBuf::from(file)
}

pub(super) fn unreadable(file: &Path, error: &dyn fmt::Display) -> FolderError {
    FolderError::Unreadable { file: file.to_owned(), reason: error.to_string() }
}

/// The size of a file, in bytes.
pub(super) fn size(file: &Path) -> u64 {
    fs::metadata(file).map_or(0, |metadata| metadata.len())
}

pub(super) fn stamps(component: &Path) -> Stamps {
    let stamp = |file: &Path| {
        let metadata = fs::metadata(file).ok()?;
        Some((metadata.modified().ok()?, metadata.len()))
    };
    [stamp(component), stamp(&component.with_extension("toml")), stamp(&signature_file(component))]
}
