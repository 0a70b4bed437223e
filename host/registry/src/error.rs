//! Why the registry refuses.

use taskforge_domain::{Excess, TaskType};
use taskforge_runtime::LoadError;
use taskforge_schema::Break;
use taskforge_store::StoreError;

use crate::{secrets::SecretError, signature::SignatureError};

/// The result of an operation of the registry.
pub type RegistryResult<T> = Result<T, RegistryError>;

/// Why an operation of the registry failed. Nothing has changed then. The texts speak to whoever
/// asked for it.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// No plugin has this name.
    #[error("there is no plugin {0}")]
    UnknownPlugin(TaskType),
    /// The plugin has no such version.
    #[error("{plugin} has no version {version}")]
    UnknownVersion {
        /// The plugin.
        plugin: TaskType,
        /// As it was asked for.
        version: String,
    },
    /// The plugin has no such secret.
    #[error("{plugin} has no secret {secret}")]
    UnknownSecret {
        /// The plugin.
        plugin: TaskType,
        /// Its name.
        secret: String,
    },
    /// The name belongs to another tenant, or to all. It is not said to whom.
    #[error("the name {0} is taken: choose another one")]
    NameTaken(TaskType),
    /// A version never changes.
    #[error("version {version} of {plugin} is there with {difference}")]
    VersionTaken {
        /// The plugin.
        plugin: TaskType,
        /// The version.
        version: String,
        /// In what the two differ, and what to do: `other bytes; raise the version`, for example.
        difference: &'static str,
    },
    /// The new version refuses inputs that the running one takes.
    #[error(
        "{plugin} {to} refuses inputs that {from} takes: {}; force it if no client sends them",
        list(.breaks)
    )]
    Breaking {
        /// The plugin.
        plugin: TaskType,
        /// The version that runs.
        from: String,
        /// The version that was to run.
        to: String,
        /// Which fields, and how.
        breaks: Vec<Break>,
    },
    /// The new version imports what the running one is granted, and is not granted it.
    #[error(
        "{plugin} {to} imports what {from} is granted and it is not: {grant}. Grant it (`taskforge \
         plugin settings`), or force it if no task uses it"
    )]
    GrantDropped {
        /// The plugin.
        plugin: TaskType,
        /// The version that runs.
        from: String,
        /// The version that was to run.
        to: String,
        /// What it lacks.
        grant: Excess,
    },
    /// The number was that of a version that was collected.
    #[error(
        "version {version} of {plugin} was there before, {why}, and was collected; raise the \
         version"
    )]
    VersionCollected {
        /// The plugin.
        plugin: TaskType,
        /// The version.
        version: String,
        /// `with other bytes`, or `was retired`.
        why: &'static str,
    },
    /// It would be more than is allowed.
    #[error(
        "{what} would be more than the quota allows: {used} of {limit} are in use{more}; {advice}"
    )]
    Quota {
        /// What there would be too much of: `versions of work`.
        what: String,
        /// How much there is.
        used: u64,
        /// How much there may be.
        limit: u64,
        /// How much more was to come, where that is not one: `, and this one has 5`.
        more: String,
        /// What to do.
        advice: &'static str,
    },
    /// An older version than one that was live, without an operator's word.
    #[error(
        "{plugin} {version} is older than {highest}, which was live: it takes an operator's word \
         to go back (`--allow-downgrade`, or \"allow_downgrade\": true)"
    )]
    Downgrade {
        /// The plugin.
        plugin: TaskType,
        /// The version that was to run.
        version: String,
        /// The highest that ever ran.
        highest: String,
    },
    /// What was asked for does not fit the state of the plugin: nothing to roll back to, a retired
    /// version, no canary.
    #[error("{0}")]
    State(String),
    /// Others changed the plugin at the same time, again and again.
    #[error("{0} is being changed by others; try again")]
    Contended(TaskType),
    /// The signature is missing, or not one that this host trusts.
    #[error(transparent)]
    Signature(#[from] SignatureError),
    /// The component is not one that this host can run.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// Something else that was given makes no sense.
    #[error("{field}: {reason}")]
    Invalid {
        /// What: `input_schema`, `settings.config`, `percent`, …
        field: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A secret cannot be sealed or opened here.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl RegistryError {
    pub(crate) fn invalid(field: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Invalid { field: field.into(), reason: reason.into() }
    }
}

/// More fields than this help nobody in a sentence.
const MOST: usize = 5;

fn list(breaks: &[Break]) -> String {
    let mut texts: Vec<_> = breaks
        .iter()
        .take(MOST)
        .map(|found| match found.pointer.as_str() {
            "" => found.detail.clone(),
            pointer => format!("{pointer}: {}", found.detail),
        })
        .collect();
    if breaks.len() > MOST {
        texts.push(format!("and {} more", breaks.len() - MOST));
    }
    texts.join("; ")
}
