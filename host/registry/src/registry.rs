//! The one way to change what is registered.

use std::sync::Arc;

use taskforge_broker::Broker;
use taskforge_domain::{
    CanaryGuard, Digest, PluginEvent, PluginInfo, PluginSettings, PluginVersion, RegisteredPlugin, TaskType,
    Timestamp,
};
use taskforge_runtime::Runtime;
use taskforge_store::{PluginStore, RegistrySnapshot};

use crate::{
    advice::Advice,
    error::RegistryResult,
    push::{Push, Pushed},
    review::Reviewed,
    secrets::Keyring,
    signature::SignaturePolicy,
};

/// What a registry works with.
#[derive(Clone)]
pub struct Parts {
    /// Where everything is kept.
    pub store: Arc<dyn PluginStore>,
    /// Tells the other processes.
    pub broker: Arc<dyn Broker>,
    /// Checks and compiles what is pushed.
    pub runtime: Runtime,
    /// Seals secrets. `None`: none can be set.
    pub keyring: Option<Arc<Keyring>>,
    /// Whose components are taken.
    pub signatures: Arc<SignaturePolicy>,
}

/// The registry, as those who change it see it. A cheap handle.
///
/// `by` is who does it, for the record; `version` is the version's number as people write it.
#[derive(Clone)]
pub struct Registry {
    pub(crate) parts: Parts,
}

/// A secret, without what it says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretInfo {
    /// The name that a guest reads it by.
    pub name: String,
    /// When it was set.
    pub updated_at: Timestamp,
    /// Whether this process has the key that it was sealed with.
    pub can_open: bool,
}

impl Registry {
    /// A registry over these parts.
    #[must_use]
    pub const fn new(parts: Parts) -> Self {
        Self { parts }
    }

    /// Checks a component, compiles it and stores it, available and not yet running. The only way in, for the API, the command line and the
    /// folder. The same bytes under the same version again are no error and change nothing.
    ///
    /// # Errors
    /// When the component, its schemas, its settings or its signature are refused, the name is another's, or the version is there with other
    /// bytes.
    pub async fn push(&self, component: Vec<u8>, push: Push) -> RegistryResult<Pushed> {
        todo!()
    }

    /// Lets a version run all tasks. Ends a canary. A retired plugin takes tasks again.
    ///
    /// # Errors
    /// When there is no such version, it is retired, or it refuses inputs that the running one takes, unless `force`d.
    pub async fn activate(
        &self,
        name: &TaskType,
        version: &str,
        force: bool,
        by: &str,
    ) -> RegistryResult<RegisteredPlugin> {
        todo!()
    }

    /// Lets the version before run again; ends a canary. Once more undoes it.
    ///
    /// # Errors
    /// When there is none, or it is retired.
    pub async fn rollback(&self, name: &TaskType, by: &str) -> RegistryResult<RegisteredPlugin> {
        todo!()
    }

    /// Puts a version on trial beside the stable one, or changes a running trial.
    ///
    /// # Errors
    /// As [`Registry::activate`], and when nothing runs yet, the version is the one that runs, or a number is out of range.
    pub async fn canary(
        &self,
        name: &TaskType,
        version: &str,
        percent: u8,
        guard: CanaryGuard,
        force: bool,
        by: &str,
    ) -> RegistryResult<RegisteredPlugin> {
        todo!()
    }

    /// Takes the version on trial back. It stays available.
    ///
    /// # Errors
    /// When none is on trial.
    pub async fn stop_canary(&self, name: &TaskType, by: &str) -> RegistryResult<RegisteredPlugin> {
        todo!()
    }

    /// Lets tasks wait. They are accepted, and attempts that run go on.
    ///
    /// # Errors
    /// When there is no such plugin.
    pub async fn pause(&self, name: &TaskType, by: &str) -> RegistryResult<RegisteredPlugin> {
        todo!()
    }

    /// Lets tasks run again.
    ///
    /// # Errors
    /// When there is no such plugin.
    pub async fn resume(&self, name: &TaskType, by: &str) -> RegistryResult<RegisteredPlugin> {
        todo!()
    }

    /// Accepts no more tasks; what was accepted still runs. Activating a version undoes it.
    ///
    /// # Errors
    /// When there is no such plugin.
    pub async fn retire(&self, name: &TaskType, by: &str) -> RegistryResult<RegisteredPlugin> {
        todo!()
    }

    /// Says of a version that it may not run again.
    ///
    /// # Errors
    /// When there is no such version, or it runs.
    pub async fn retire_version(
        &self,
        name: &TaskType,
        version: &str,
        by: &str,
    ) -> RegistryResult<PluginVersion> {
        todo!()
    }

    /// Sets what a version may use and reach. A running one goes by it within seconds.
    ///
    /// # Errors
    /// When there is no such version, or the settings make no sense on this host.
    pub async fn set_settings(
        &self,
        name: &TaskType,
        version: &str,
        settings: PluginSettings,
        by: &str,
    ) -> RegistryResult<PluginVersion> {
        todo!()
    }

    /// Seals a secret of a plugin. Versions whose `grants.secrets` name it read the new value within seconds.
    ///
    /// # Errors
    /// When there is no such plugin, the name or the value is too long, or this process has no key.
    pub async fn set_secret(
        &self,
        name: &TaskType,
        secret: &str,
        value: &str,
        by: &str,
    ) -> RegistryResult<()> {
        todo!()
    }

    /// Deletes a secret.
    ///
    /// # Errors
    /// When there is none.
    pub async fn delete_secret(&self, name: &TaskType, secret: &str, by: &str) -> RegistryResult<()> {
        todo!()
    }

    /// The secrets of a plugin, without what they say.
    ///
    /// # Errors
    /// When there is no such plugin.
    pub async fn secrets(&self, name: &TaskType) -> RegistryResult<Vec<SecretInfo>> {
        todo!()
    }

    /// A plugin.
    ///
    /// # Errors
    /// When there is none of this name.
    pub async fn plugin(&self, name: &TaskType) -> RegistryResult<RegisteredPlugin> {
        todo!()
    }

    /// Every plugin, with the versions that run.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn plugins(&self) -> RegistryResult<RegistrySnapshot> {
        todo!()
    }

    /// The versions of a plugin, newest first.
    ///
    /// # Errors
    /// When there is no such plugin.
    pub async fn versions(&self, name: &TaskType) -> RegistryResult<Vec<PluginVersion>> {
        todo!()
    }

    /// One version of a plugin.
    ///
    /// # Errors
    /// When there is no such plugin or version.
    pub async fn version(&self, name: &TaskType, version: &str) -> RegistryResult<PluginVersion> {
        todo!()
    }

    /// The bytes of a component. `None`: the registry has none of this digest.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn component(&self, digest: &Digest) -> RegistryResult<Option<Vec<u8>>> {
        todo!()
    }

    /// What happened to a plugin, newest first.
    ///
    /// # Errors
    /// When there is no such plugin.
    pub async fn events(&self, name: &TaskType, limit: u32) -> RegistryResult<Vec<PluginEvent>> {
        todo!()
    }

    /// What the attempts of a version used, and limits that would fit. `None`: the version that runs.
    ///
    /// # Errors
    /// When there is no such plugin or version.
    pub async fn advise(&self, name: &TaskType, version: Option<&str>) -> RegistryResult<Advice> {
        todo!()
    }

    /// What a version imports beside what it is granted.
    #[must_use]
    pub fn review(&self, info: &PluginInfo) -> Vec<Reviewed> {
        crate::review::review(info)
    }
}
