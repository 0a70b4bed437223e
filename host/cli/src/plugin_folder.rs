//! Where the folder with plugins is, and their settings files.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use taskforge_domain::{Manifest, PluginSettings};

use crate::args::PluginFolderArgs;

/// The folder that the arguments name or that is in one of the usual places, and else an empty one
/// in the current folder, which is made: there may be plugins in it later.
pub(crate) fn locate_or_make(args: &PluginFolderArgs) -> anyhow::Result<PathBuf> {
    match locate(args) {
        Err(_) if args.plugins.is_none() => {
            let folder = PathBuf::from("plugins");
            std::fs::create_dir_all(&folder)
                .with_context(|| format!("cannot make the plugins folder {}", folder.display()))?;
            Ok(folder)
        }
        found => found,
    }
}

/// The folder that the arguments name, or the first of the usual places that exists.
pub(crate) fn locate(args: &PluginFolderArgs) -> anyhow::Result<PathBuf> {
    if let Some(folder) = &args.plugins {
        if !folder.is_dir() {
            bail!("the plugins folder {} does not exist", folder.display());
        }
        return Ok(folder.clone());
    }
    let executable = std::env::current_exe().ok();
    let beside = executable
        .iter()
        .flat_map(|exe| exe.ancestors().skip(1).take(2))
        .map(|dir| dir.join("plugins"));
    beside
        .chain([PathBuf::from("plugins")])
        .find(|folder| components(folder).is_ok_and(|files| !files.is_empty()))
        .context("no plugins folder was found: name one with --plugins, or build the built-in ones with `make plugins`")
}

/// What a settings file says: of a version, and of a component that does not describe itself (its
/// table `[manifest]`).
#[derive(Default)]
pub(crate) struct Beside {
    /// `None`: there is no file, or nothing but a manifest in it.
    pub(crate) settings: Option<PluginSettings>,
    pub(crate) manifest: Option<Manifest>,
}

/// The settings file that is named, or the `.toml` file beside a component, if there is one.
pub(crate) fn settings_of(component: &Path, named: Option<&Path>) -> anyhow::Result<Beside> {
    let beside = component.with_extension("toml");
    match named {
        Some(file) => read_settings(file),
        None if beside.exists() => read_settings(&beside),
        None => Ok(Beside::default()),
    }
}

/// Reads a settings file.
pub(crate) fn read_settings(file: &Path) -> anyhow::Result<Beside> {
    let text =
        std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    let wrong = || format!("cannot use the settings in {}", file.display());
    let mut table: toml::Table = toml::from_str(&text).with_context(wrong)?;
    let manifest = table.remove("manifest").map(|manifest| {
        let manifest = serde_json::to_value(manifest)?;
        serde_json::from_value(manifest)
    });
    let manifest: Option<Manifest> = manifest.transpose().with_context(wrong)?;
    let says_nothing = manifest.is_some() && table.is_empty();
    Ok(Beside {
        settings: match says_nothing {
            true => None,
            false => Some(table.try_into().with_context(wrong)?),
        },
        manifest,
    })
}

fn components(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let entries =
        std::fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    let mut files: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    files.retain(|file| file.extension().is_some_and(|ending| ending == "wasm"));
    files.sort();
    Ok(files)
}
