//! One file of a folder is pushed, and its version activated if that is for the folder to say.

use std::path::Path;

use taskforge_domain::{PluginEventKind, PluginVersion, TaskType};

use crate::{
    error::RegistryError,
    folder::{Folder, FolderError, beside, seen::Occasion},
    push::{Push, Pushed, SameVersion},
};

/// Who pushes and activates, as the record has it.
pub(super) const FOLDER: &str = "folder";
/// Events of a plugin that are looked through for who changed it last.
const EVENTS: u32 = 200;

impl Folder {
    pub(super) async fn register(
        &self,
        file: &Path,
        occasion: Occasion,
    ) -> Result<(TaskType, String), FolderError> {
        let bytes = std::fs::read(file).map_err(|error| beside::unreadable(file, &error))?;
        let (settings, manifest) = beside::settings(file)?;
        let push = Push {
            owner: None,
            manifest,
            settings: settings.clone(),
            signature: beside::signature(file)?,
            by: FOLDER.to_owned(),
            same_version: SameVersion::Suffix,
        };
        let pushed = self.registry.push(bytes, push).await?;
        let plugin = pushed.plugin.name.clone();
        let others = self.files.iter().filter(|(other, _)| other.as_path() != file);
        if others.into_iter().any(|(_, seen)| seen.plugin.as_ref() == Some(&plugin)) {
            return Err(FolderError::Twice(plugin));
        }
        let number = pushed.version.info.version.clone();
        let events = self.registry.events(&plugin, EVENTS).await?;
        let by_hand = |kinds: &[PluginEventKind], version: Option<&str>| {
            let mut about = events.iter().filter(|event| {
                kinds.contains(&event.kind)
                    && (version.is_none() || event.version.as_deref() == version)
            });
            about.next().is_some_and(|last| last.by != FOLDER)
        };
        let settings_are_ours = occasion != Occasion::Start
            || pushed.version.pushed_by == FOLDER
                && !by_hand(&[PluginEventKind::SettingsChanged], Some(&number));
        match settings {
            Some(settings) if !pushed.is_new && settings_are_ours => {
                self.registry.set_settings(&plugin, &number, settings, FOLDER).await?;
            }
            None if occasion == Occasion::Settings => {
                tracing::warn!(
                    task.type = %plugin,
                    "{}: no settings are beside it any more; {number} keeps those that it has",
                    file.display()
                );
            }
            _ => {
                if let Some(note) = pushed.settings_from.note(&plugin, &number) {
                    tracing::warn!(task.type = %plugin, "{}: {note}", file.display());
                }
            }
        }
        let decided =
            [PluginEventKind::Activated, PluginEventKind::RolledBack, PluginEventKind::Retired];
        let is_ours = match occasion {
            Occasion::Change => true,
            Occasion::Start | Occasion::Mended => !by_hand(&decided, None),
            Occasion::Settings => false,
        };
        if is_ours && self.is_to_run(&pushed, occasion).await? {
            let activated = self.registry.activate(&plugin, &number, false, FOLDER).await;
            activated.map_err(|error| not_activated(error, &plugin, &number))?;
        }
        Ok((plugin, number))
    }

    /// Whether a version of the folder is to become the one that runs, if that is for the folder to
    /// say.
    async fn is_to_run(&self, pushed: &Pushed, occasion: Occasion) -> Result<bool, RegistryError> {
        let Some(stable) = pushed.plugin.rollout.stable else {
            return Ok(true);
        };
        if self.is_watched || occasion == Occasion::Change {
            return Ok(true);
        }
        let versions = self.registry.versions(&pushed.plugin.name).await?;
        let running = versions.iter().find(|version| version.id == stable);
        Ok(running.is_none_or(|running| {
            let is_rebuilt = pushed.is_new && !is_newer(running, &pushed.version);
            is_rebuilt || is_newer(&pushed.version, running)
        }))
    }
}

fn is_newer(version: &PluginVersion, than: &PluginVersion) -> bool {
    let number = |version: &PluginVersion| semver::Version::parse(&version.info.version).ok();
    match (number(version), number(than)) {
        // Build metadata says nothing of what is newer.
        (Some(one), Some(other)) => one.cmp_precedence(&other).is_gt(),
        _ => false,
    }
}

/// Names the command that forces what the registry lets nobody do by mistake.
fn not_activated(error: RegistryError, plugin: &TaskType, version: &str) -> FolderError {
    match error {
        RegistryError::Breaking { .. } | RegistryError::GrantDropped { .. } => {
            FolderError::NotActivated {
                refused: Box::new(error),
                plugin: plugin.clone(),
                version: version.to_owned(),
            }
        }
        error => error.into(),
    }
}
