//! One change of a rollout, made from what was read and written only if the plugin is still as it
//! was read; else it is read again. So of two operators at once none undoes unseen what the other
//! did.

use std::time::Duration;

use taskforge_domain::{
    PluginEvent, PluginVersion, RegisteredPlugin, Rollout, TaskType, VersionId, VersionState,
};
use taskforge_schema::breaks;
use taskforge_store::{PluginStore, RolloutChange};

use crate::{
    error::{RegistryError, RegistryResult},
    registry::unknown_version,
    review::dropped,
};

/// How often a change is tried before it is said that others are at it.
const TRIES: u32 = 8;

/// What is to change, made from what was read.
pub(crate) struct Change {
    pub(crate) rollout: Rollout,
    pub(crate) states: Vec<(VersionId, VersionState)>,
    pub(crate) event: PluginEvent,
}

/// A plugin and its versions, as they were read.
pub(crate) struct Seen {
    pub(crate) plugin: RegisteredPlugin,
    pub(crate) versions: Vec<PluginVersion>,
}

/// Whether a version is older than another. What cannot be compared is taken for older.
fn is_older(version: &str, other: &str) -> bool {
    match (semver::Version::parse(version), semver::Version::parse(other)) {
        (Ok(version), Ok(other)) => version.cmp_precedence(&other).is_lt(),
        _ => version != other,
    }
}

impl Seen {
    pub(crate) fn version(&self, id: VersionId) -> Option<&PluginVersion> {
        self.versions.iter().find(|version| version.id == id)
    }

    /// A version as people call it.
    pub(crate) fn number(&self, id: VersionId) -> String {
        self.version(id).map_or_else(|| id.to_string(), |version| version.info.version.clone())
    }

    /// A version that may run.
    pub(super) fn available(&self, number: &str) -> RegistryResult<&PluginVersion> {
        let name = &self.plugin.name;
        let found = self.versions.iter().find(|version| version.info.version == number);
        let found = found.ok_or_else(|| unknown_version(name, number))?;
        match found.state {
            VersionState::Retired => Err(RegistryError::State(format!(
                "{name} {number} is retired and may not run again"
            ))),
            _ => Ok(found),
        }
    }

    /// The highest version that was ever live, if it is higher than this one.
    ///
    /// Build metadata says nothing of which is older.
    pub(super) fn higher(&self, new: &PluginVersion) -> Option<&str> {
        self.was_live()
            .filter(|live| is_older(&new.info.version, live))
            .reduce(|one, other| if is_older(one, other) { other } else { one })
    }

    /// The highest version on record, and those that the rollout names: a plugin may have been
    /// rolled back before there was a record.
    fn was_live(&self) -> impl Iterator<Item = &str> {
        let rollout = &self.plugin.rollout;
        let named = [rollout.stable, rollout.previous].into_iter().flatten();
        let named = named.filter_map(|id| self.version(id));
        let named = named.map(|version| version.info.version.as_str());
        rollout.highest.as_deref().into_iter().chain(named)
    }

    /// The highest version that was ever live, once this one is.
    pub(super) fn highest_with(&self, new: &PluginVersion) -> Option<String> {
        let number = &new.info.version;
        Some(self.higher(new).unwrap_or(number).to_owned())
    }

    /// Refuses a version that refuses inputs which the running one takes.
    pub(super) fn check_inputs(&self, new: &PluginVersion) -> RegistryResult<()> {
        let stable = self.plugin.rollout.stable.and_then(|id| self.version(id));
        let Some(old) = stable.filter(|old| old.id != new.id) else {
            return Ok(());
        };
        let found = breaks(&old.info.input_schema.to_value(), &new.info.input_schema.to_value());
        if found.is_empty() {
            return Ok(());
        }
        Err(RegistryError::Breaking {
            plugin: self.plugin.name.clone(),
            from: old.info.version.clone(),
            to: new.info.version.clone(),
            breaks: found,
        })
    }

    /// Refuses a version that imports what the running one is granted and it is not: every task
    /// that uses it would fail for good.
    pub(super) fn check_grants(&self, new: &PluginVersion) -> RegistryResult<()> {
        let stable = self.plugin.rollout.stable.and_then(|id| self.version(id));
        let Some(old) = stable.filter(|old| old.id != new.id) else {
            return Ok(());
        };
        match dropped(&old.info, &new.info) {
            None => Ok(()),
            Some(grant) => Err(RegistryError::GrantDropped {
                plugin: self.plugin.name.clone(),
                from: old.info.version.clone(),
                to: new.info.version.clone(),
                grant,
            }),
        }
    }
}

/// Changes a rollout; says how it is then, and whether anything has changed.
pub(crate) async fn change(
    store: &dyn PluginStore,
    name: &TaskType,
    decide: impl Fn(&Seen) -> RegistryResult<Option<Change>> + Send + Sync,
) -> RegistryResult<(RegisteredPlugin, bool)> {
    for tries in 0..TRIES {
        let plugin = store.plugin(name).await?;
        let plugin = plugin.ok_or_else(|| RegistryError::UnknownPlugin(name.clone()))?;
        let versions = store.plugin_versions(name).await?;
        let seen = Seen { plugin, versions };
        let Some(Change { mut rollout, states, event }) = decide(&seen)? else {
            return Ok((seen.plugin, false));
        };
        let Seen { plugin, .. } = seen;
        if !plugin.rollout.running().eq(rollout.running()) {
            rollout.phase = plugin.rollout.phase + 1;
            rollout.since = Some(event.at);
        }
        let change = RolloutChange {
            plugin: name.clone(),
            expected: plugin.revision,
            rollout,
            states,
            event,
        };
        if let Some(revision) = store.change_rollout(&change).await? {
            let RolloutChange { rollout, event, .. } = change;
            tracing::info!(
                plugin = %name,
                version = event.version,
                by = event.by,
                "{}: {}",
                event.kind,
                event.detail
            );
            let plugin = RegisteredPlugin { revision, rollout, ..plugin };
            return Ok((plugin, true));
        }
        tokio::time::sleep(Duration::from_millis(5) * tries).await;
    }
    Err(RegistryError::Contended(name.clone()))
}
