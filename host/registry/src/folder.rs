//! A folder of components as a way to push: `NAME.wasm`, with its settings in `NAME.toml` and its
//! signature in `NAME.wasm.sig`.
//!
//! A settings file may hold a table `[manifest]` for a component that does not describe itself.

mod beside;
mod register;
mod seen;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    time::{Duration, Instant},
};

use taskforge_domain::TaskType;
use taskforge_runtime::LoadError;
use taskforge_store::StoreError;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use self::{
    register::FOLDER,
    seen::{LONGEST_PAUSE, Occasion, Seen},
};
use crate::{error::RegistryError, registry::Registry};

/// Between two looks.
const POLL: Duration = Duration::from_millis(500);

/// A folder whose components are registered.
pub struct Folder {
    registry: Registry,
    path: PathBuf,
    is_watched: bool,
    files: BTreeMap<PathBuf, Seen>,
    progress: watch::Sender<FolderProgress>,
}

/// How far a folder is with what it held at the start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FolderProgress {
    /// Its files are registered, one after the other.
    Looking,
    /// The database could not take some of them, which is tried again.
    Owed,
    /// Each was taken, or refused for good.
    Settled,
}

/// Why a file was not taken. The texts speak to its author.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// It, or the settings or the signature beside it, cannot be read.
    #[error("cannot read {file}: {reason}")]
    Unreadable {
        /// Which file.
        file: PathBuf,
        /// Why.
        reason: String,
    },
    /// Two components have one name.
    #[error("another file already handles {0}")]
    Twice(TaskType),
    /// It was pushed, and does not run in the place of the version that does: that takes a person's
    /// word.
    #[error("{refused} (`taskforge plugin activate {plugin} {version} --force`)")]
    NotActivated {
        /// Why.
        refused: Box<RegistryError>,
        /// The plugin that the file is.
        plugin: TaskType,
        /// The version that it is.
        version: String,
    },
    /// The registry refuses it.
    #[error(transparent)]
    Registry(#[from] RegistryError),
}

impl FolderError {
    /// Whether the same file may be taken later: it is the database that could not take it, or this
    /// host that failed, which may be the file's doing (a compiler that was killed, say).
    const fn may_pass(&self) -> bool {
        self.is_of_the_moment()
            || matches!(self, Self::Registry(RegistryError::Load(LoadError::Internal(_))))
    }

    /// Whether somebody may mend it. Nobody is expected to for a folder that is looked through once.
    const fn may_be_mended(&self) -> bool {
        matches!(self, Self::Unreadable { .. } | Self::Registry(RegistryError::Store(_)))
    }

    /// Whether the file is good as far as is known: it is the database that could not take it.
    const fn is_of_the_moment(&self) -> bool {
        matches!(
            self,
            Self::Registry(
                RegistryError::Store(StoreError::Unavailable(_)) | RegistryError::Contended(_)
            )
        )
    }
}

/// What a look at a file came to.
#[derive(Debug)]
pub struct Looked {
    /// The component's file.
    pub file: PathBuf,
    /// The plugin and the version that the file is, or why it is none.
    pub result: Result<(TaskType, String), FolderError>,
}

impl Looked {
    fn log(&self) {
        let file = self.file.display();
        match &self.result {
            Ok((plugin, version)) => {
                tracing::info!(task.type = %plugin, version, "{file} was taken");
            }
            Err(error) => tracing::error!(%error, "{file} was not taken"),
        }
    }
}

impl Folder {
    /// A folder that is looked through once, by each process of a fleet when it starts.
    #[must_use]
    pub fn new(registry: Registry, path: PathBuf) -> Self {
        Self {
            registry,
            path,
            is_watched: false,
            files: BTreeMap::new(),
            progress: watch::Sender::new(FolderProgress::Looking),
        }
    }

    /// How far it is with what was there at the start.
    #[must_use]
    pub fn progress(&self) -> watch::Receiver<FolderProgress> {
        self.progress.subscribe()
    }

    /// A folder that goes on being watched by [`Folder::run`]: the only one of its registry.
    #[must_use]
    pub fn watched(registry: Registry, path: PathBuf) -> Self {
        Self { is_watched: true, ..Self::new(registry, path) }
    }

    /// Registers what is there, tries again what could not be taken for now, and follows changes if
    /// the folder is watched, until `stop`: a new or changed component is pushed and activated once
    /// it was left alone for a moment, changed settings are set, and the plugin of a file that was
    /// removed is retired. Each file that is refused is logged.
    pub async fn run(mut self, stop: CancellationToken) {
        if stop.run_until_cancelled(Box::pin(self.sync_once_readable())).await.is_none() {
            return;
        }
        let mut interval = tokio::time::interval(POLL);
        interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut is_gone = false;
        while (self.is_watched || self.files.values().any(Seen::is_retried))
            && stop.run_until_cancelled(interval.tick()).await.is_some()
        {
            match self.look().await {
                Ok(()) => is_gone = false,
                Err(error) if is_gone => tracing::debug!(%error, "the plugins folder is away"),
                Err(error) => {
                    is_gone = true;
                    tracing::warn!(%error, "the plugins folder is away; what runs goes on");
                }
            }
        }
    }

    async fn sync_once_readable(&mut self) {
        while let Err(error) = self.sync().await {
            tracing::error!(%error, "the plugins folder cannot be read; it is tried again");
            tokio::time::sleep(LONGEST_PAUSE).await;
        }
    }

    /// Registers what is there. One file that is refused does not stop the others, and what the
    /// database could not take is left to [`Folder::run`].
    ///
    /// What an operator activated or set by hand stays. A folder that is looked through by many
    /// processes activates only what is newer than what runs: in a fleet that is being upgraded, a
    /// process that still has the old files must not bring back the old versions.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub async fn sync(&mut self) -> Result<Vec<Looked>, FolderError> {
        let mut looked = Vec::new();
        let files = self.components()?;
        let count = files.len();
        for (number, file) in (1..).zip(files) {
            let seen = self.files.entry(file.clone()).or_default();
            let occasion = seen.at_start(beside::stamps(&file));
            tracing::info!(
                kilobytes = beside::size(&file) / 1000,
                "{} is looked at, {number} of {count}; what is new is compiled",
                file.display()
            );
            let taken = self.take(file, occasion).await;
            if taken.result.is_err() {
                taken.log();
            }
            looked.push(taken);
        }
        self.see_whether_settled();
        Ok(looked)
    }

    fn see_whether_settled(&self) {
        let reached = match self.files.values().any(Seen::is_waited_for) {
            true => FolderProgress::Owed,
            false => FolderProgress::Settled,
        };
        self.progress.send_if_modified(|progress| std::mem::replace(progress, reached) != reached);
    }

    /// Tries what is to be tried now, and notices what is gone if the folder is watched.
    async fn look(&mut self) -> Result<(), FolderError> {
        let files = match self.is_watched {
            true => self.components()?,
            false => self.files.keys().cloned().collect(),
        };
        for file in &files {
            let seen = self.files.entry(file.clone()).or_default();
            let occasion = match self.is_watched {
                true => seen.occasion(beside::stamps(file), Instant::now()),
                false => seen.occasion_of_retry(Instant::now()),
            };
            if let Some(occasion) = occasion {
                self.take(file.clone(), occasion).await.log();
            }
        }
        let there: BTreeSet<_> = files.into_iter().collect();
        let gone: Vec<_> =
            self.files.keys().filter(|file| !there.contains(*file)).cloned().collect();
        for file in gone {
            let plugin = self.files.remove(&file).and_then(|seen| seen.plugin);
            // Renamed, perhaps: another file has it now.
            let Some(plugin) = plugin.filter(|plugin| !self.has(plugin)) else {
                continue;
            };
            match self.registry.retire(&plugin, FOLDER).await {
                Ok(_) => {
                    tracing::info!(
                        task.type = %plugin,
                        "{} is gone: the plugin is retired",
                        file.display()
                    );
                }
                Err(error) => {
                    tracing::error!(task.type = %plugin, "the plugin was not retired: {error}");
                }
            }
        }
        self.see_whether_settled();
        Ok(())
    }

    fn has(&self, plugin: &TaskType) -> bool {
        self.files.values().any(|seen| seen.plugin.as_ref() == Some(plugin))
    }

    async fn take(&mut self, file: PathBuf, occasion: Occasion) -> Looked {
        let result = self.register(&file, occasion).await;
        let seen = self.files.entry(file.clone()).or_default();
        match &result {
            Ok((plugin, _)) => seen.taken(plugin.clone()),
            Err(error) => {
                let may_pass = error.may_pass() || self.is_watched && error.may_be_mended();
                seen.failed(occasion, error, may_pass, Instant::now());
            }
        }
        Looked { file, result }
    }

    fn components(&self) -> Result<Vec<PathBuf>, FolderError> {
        let entries = std::fs::read_dir(&self.path)
            .map_err(|error| beside::unreadable(&self.path, &error))?;
        let mut files: Vec<_> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
        files.retain(|file| file.extension().is_some_and(|ending| ending == "wasm"));
        // Small ones are compiled in a moment, and an interpreter takes half a minute.
        files.sort_by_cached_key(|file| (beside::size(file), file.clone()));
        Ok(files)
    }
}
