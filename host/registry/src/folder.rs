//! A folder of components as a way to push: `NAME.wasm`, with its settings in `NAME.toml` and its
//! signature in `NAME.wasm.sig`.
//!
//! A settings file may hold a table `[manifest]` for a component that does not describe itself.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    time::{Duration, Instant, SystemTime},
};

use taskforge_domain::{Manifest, PluginEventKind, PluginSettings, PluginVersion, TaskType};
use taskforge_runtime::LoadError;
use taskforge_store::StoreError;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{
    error::RegistryError,
    push::{Push, Pushed, SameVersion},
    registry::Registry,
};

/// Who pushes and activates, as the record has it.
const FOLDER: &str = "folder";
/// Between two looks.
const POLL: Duration = Duration::from_millis(500);
/// Between the first two tries of what the database did not take at the start, and the longest that
/// it becomes.
const PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// Events of a plugin that are looked through for who changed it last.
const EVENTS: u32 = 200;

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
    /// Whether the same file may be taken at the next look.
    fn may_pass(&self) -> bool {
        matches!(
            self,
            Self::Unreadable { .. }
                | Self::Registry(
                    RegistryError::Store(_)
                        | RegistryError::Contended(_)
                        | RegistryError::Load(LoadError::Internal(_))
                )
        )
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

    /// Whether this host failed, which may be the file's doing: a compiler that was killed, say.
    const fn is_the_hosts(&self) -> bool {
        matches!(self, Self::Registry(RegistryError::Load(LoadError::Internal(_))))
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

/// What is known of a component's file.
#[derive(Default)]
struct Seen {
    /// When and how large it, its settings and its signature were at the last look.
    stamp: Stamps,
    /// The same, when it was last taken or refused.
    taken: Option<Stamps>,
    /// The same, when it was there at the start and could not be taken then.
    owed: Option<Stamps>,
    /// It is the database that could not take what is owed. What failed here may fail for ever, and
    /// a process waits for it with nothing else.
    is_waited_for: bool,
    /// It was pushed and not activated, for want of a setting perhaps.
    is_not_activated: bool,
    /// The plugin that it is.
    plugin: Option<TaskType>,
    /// When a watched file that may yet be taken is tried again.
    again: Option<Again>,
}

/// Another try of a file.
#[derive(Clone, Copy)]
struct Again {
    at: Instant,
    /// The pause before it.
    pause: Duration,
    /// What it was tried for.
    occasion: Occasion,
}

/// Time of change and size of the files of a component; `None` of one that is not there.
type Stamps = [Option<(SystemTime, u64)>; 3];

/// When a file's version becomes the one that runs.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Occasion {
    /// The process starts.
    Start,
    /// Somebody has just put it there.
    Change,
    /// Somebody has changed what stands beside it.
    Settings,
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

    /// Registers what is there, tries again what the database could not take, and follows changes
    /// if the folder is watched, until `stop`. Each file that is refused is logged.
    pub async fn run(mut self, stop: CancellationToken) {
        if stop.run_until_cancelled(Box::pin(self.sync_once_readable())).await.is_none() {
            return;
        }
        match self.is_watched {
            true => self.watch(stop).await,
            false => self.settle(stop).await,
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
            let stamp = stamps(&file);
            let seen = self.files.entry(file.clone()).or_default();
            (seen.stamp, seen.taken) = (stamp, Some(stamp));
            tracing::info!(
                kilobytes = size(&file) / 1000,
                "{} is looked at, {number} of {count}; what is new is compiled",
                file.display()
            );
            let taken = self.take(file, Occasion::Start).await;
            if taken.result.is_err() {
                taken.log();
            }
            looked.push(taken);
        }
        self.see_whether_settled();
        Ok(looked)
    }

    /// Tries again what could not be taken at the start, until it is or `stop`.
    async fn settle(mut self, stop: CancellationToken) {
        let mut pause = PAUSE;
        loop {
            self.see_whether_settled();
            if self.owed().next().is_none()
                || stop.run_until_cancelled(tokio::time::sleep(pause)).await.is_none()
            {
                return;
            }
            pause = (2 * pause).min(LONGEST_PAUSE);
            let owed: Vec<_> = self.owed().cloned().collect();
            for file in owed {
                let looked = self.take(file, Occasion::Start).await;
                looked.log();
            }
        }
    }

    /// The files that were there at the start and could not be taken for now.
    fn owed(&self) -> impl Iterator<Item = &PathBuf> {
        let owed = self.files.iter().filter(|(_, seen)| seen.owed.is_some());
        owed.map(|(file, _)| file)
    }

    fn see_whether_settled(&self) {
        let waits = |seen: &Seen| seen.owed.is_some() && seen.is_waited_for;
        let reached = match self.files.values().any(waits) {
            true => FolderProgress::Owed,
            false => FolderProgress::Settled,
        };
        self.progress.send_if_modified(|progress| std::mem::replace(progress, reached) != reached);
    }

    /// Follows changes until `stop`: a new or changed component is pushed and activated once it was
    /// left alone for a moment, changed settings are set, and the plugin of a file that was removed
    /// is retired.
    async fn watch(mut self, stop: CancellationToken) {
        let mut interval = tokio::time::interval(POLL);
        interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut is_gone = false;
        while stop.run_until_cancelled(interval.tick()).await.is_some() {
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

    /// One look of a watched folder.
    async fn look(&mut self) -> Result<(), FolderError> {
        let files = self.components()?;
        for file in &files {
            let stamp = stamps(file);
            let seen = self.files.entry(file.clone()).or_default();
            // A file that is still being written has changed since the last look.
            let is_still = seen.stamp == stamp;
            seen.stamp = stamp;
            let is_due = seen.again.is_some_and(|again| again.at <= Instant::now());
            if !is_still || seen.taken == Some(stamp) && !is_due {
                continue;
            }
            let was_change = seen.again.is_some_and(|again| again.occasion == Occasion::Change);
            // Settings alone are no reason to run a version again that somebody has taken back.
            let is_new = seen.taken.is_none_or(|taken| taken.first() != stamp.first());
            seen.taken = Some(stamp);
            let occasion = match seen.owed {
                Some(owed) if owed == stamp => Occasion::Start,
                // What was missing may have been added.
                _ if is_new || was_change || seen.is_not_activated => Occasion::Change,
                _ => Occasion::Settings,
            };
            let looked = self.take(file.clone(), occasion).await;
            looked.log();
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
                    tracing::info!(task.type = %plugin, "{} is gone: the plugin is retired", file.display());
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
        if let Some(seen) = self.files.get_mut(&file) {
            (seen.owed, seen.is_not_activated) = (None, false);
            match &result {
                Ok((plugin, _)) => (seen.plugin, seen.again) = (Some(plugin.clone()), None),
                Err(error) => {
                    seen.is_waited_for = error.is_of_the_moment();
                    if (seen.is_waited_for || error.is_the_hosts()) && occasion == Occasion::Start {
                        seen.owed = seen.taken.or(Some(seen.stamp));
                    }
                    if let FolderError::NotActivated { plugin, .. } = error {
                        (seen.plugin, seen.is_not_activated) = (Some(plugin.clone()), true);
                    }
                    if error.may_pass() {
                        let pause = seen.again.map_or(PAUSE, |again| 2 * again.pause);
                        let pause = pause.min(LONGEST_PAUSE);
                        let at = Instant::now() + pause;
                        seen.again = Some(Again { at, pause, occasion });
                    } else {
                        seen.again = None;
                    }
                }
            }
        }
        Looked { file, result }
    }

    async fn register(
        &self,
        file: &Path,
        occasion: Occasion,
    ) -> Result<(TaskType, String), FolderError> {
        let bytes = std::fs::read(file).map_err(|error| unreadable(file, &error))?;
        let (settings, manifest) = settings_beside(file)?;
        let push = Push {
            owner: None,
            manifest,
            settings: settings.clone(),
            signature: signature_beside(file)?,
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
                    "{}: no settings are beside it any more; {number} keeps those that it has", file.display()
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
            Occasion::Start => !by_hand(&decided, None),
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

    fn components(&self) -> Result<Vec<PathBuf>, FolderError> {
        let entries =
            std::fs::read_dir(&self.path).map_err(|error| unreadable(&self.path, &error))?;
        let mut files: Vec<_> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
        files.retain(|file| file.extension().is_some_and(|ending| ending == "wasm"));
        // Small ones are compiled in a moment, and an interpreter takes half a minute.
        files.sort_by_cached_key(|file| (size(file), file.clone()));
        Ok(files)
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

/// The settings in the `.toml` file beside a component, and what it says of the component. A file
/// with nothing but a manifest says nothing of settings.
fn settings_beside(
    component: &Path,
) -> Result<(Option<PluginSettings>, Option<Manifest>), FolderError> {
    let file = component.with_extension("toml");
    let text = match std::fs::read_to_string(&file) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
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

fn signature_beside(component: &Path) -> Result<Option<Vec<u8>>, FolderError> {
    let file = signature_file(component);
    match std::fs::read(&file) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(unreadable(&file, &error)),
    }
}

fn signature_file(component: &Path) -> PathBuf {
    let mut file = component.as_os_str().to_owned();
    file.push(".sig");
    PathBuf::from(file)
}

fn unreadable(file: &Path, error: &dyn std::fmt::Display) -> FolderError {
    FolderError::Unreadable { file: file.to_owned(), reason: error.to_string() }
}

/// The size of a file, in bytes.
fn size(file: &Path) -> u64 {
    std::fs::metadata(file).map_or(0, |metadata| metadata.len())
}

fn stamps(component: &Path) -> Stamps {
    let stamp = |file: &Path| {
        let metadata = std::fs::metadata(file).ok()?;
        Some((metadata.modified().ok()?, metadata.len()))
    };
    [stamp(component), stamp(&component.with_extension("toml")), stamp(&signature_file(component))]
}
