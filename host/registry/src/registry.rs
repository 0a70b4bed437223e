//! The one way to change what is registered.

use std::sync::Arc;

use serde::Serialize;
use taskforge_broker::{Broker, Signal};
use taskforge_domain::{
    Clock, Digest, PluginEvent, PluginEventKind, PluginInfo, PluginSettings, PluginVersion,
    RegisteredPlugin, TaskType, Timestamp, VersionState,
};
use taskforge_runtime::Runtime;
use taskforge_store::{PluginStore, Quota, SealedSecret};
use utoipa::ToSchema;

use crate::{
    advice::Advice,
    catalog::Catalog,
    error::{RegistryError, RegistryResult},
    review::{Reviewed, review},
    secrets::{Keyring, SecretError},
    settings,
    signature::{SignatureError, SignaturePolicy, Vouched},
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
    pub(crate) quota: Quota,
}

/// How much may be stored, unless the operator says otherwise: 1,000 versions of a plugin, and 4
/// GiB of components of an owner, which is thirty of the largest.
pub const DEFAULT_QUOTA: Quota = Quota { versions: 1_000, bytes: 4 << 30 };

/// A secret, without what it says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = Secret)]
pub struct SecretInfo {
    /// The name that versions read it by.
    pub name: String,
    /// When it was set.
    #[schema(value_type = String, format = DateTime)]
    pub updated_at: Timestamp,
    /// Whether this server has the key that it was sealed with.
    pub can_open: bool,
}

impl Registry {
    /// A registry over these parts.
    #[must_use]
    pub const fn new(parts: Parts) -> Self {
        Self { parts, quota: DEFAULT_QUOTA }
    }

    /// The same with another bound of what may be stored.
    #[must_use]
    pub fn with_quota(self, quota: Quota) -> Self {
        Self { quota, ..self }
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
        let mut found = self.version(name, version).await?;
        if found.state == VersionState::Retired {
            return Ok(found);
        }
        let event = event(
            self.parts.store.clock(),
            PluginEventKind::Retired,
            Some(version),
            by,
            "may not run again".to_owned(),
        );
        let store = &self.parts.store;
        if !store.set_version_state(found.id, &VersionState::Retired, &event).await? {
            return Err(RegistryError::State(format!(
                "{name} {version} runs: activate another version first"
            )));
        }
        self.tell().await;
        found.state = VersionState::Retired;
        Ok(found)
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
        settings::check(&settings)?;
        self.parts.runtime.check_limits(&settings.limits)?;
        let plugin = self.plugin(name).await?;
        let found = self.version(name, version).await?;
        let before = found.info.settings();
        if before == settings {
            return Ok(found);
        }
        let changed_info = found.info.clone().with_settings(settings.clone());
        let signature = found.signature.as_deref();
        let policy = &self.parts.signatures;
        policy.check(name, plugin.owner.as_ref(), &changed_info, signature)?;
        let event = event(
            self.parts.store.clock(),
            PluginEventKind::SettingsChanged,
            Some(version),
            by,
            format!("{} changed", settings::differing(&before, &settings).join(", ")),
        );
        let store = &self.parts.store;
        if !store.set_settings(found.id, &settings, signature, &event).await? {
            // Collected, or signed otherwise, a moment ago.
            self.version(name, version).await?;
            return Err(RegistryError::Contended(name.clone()));
        }
        self.tell().await;
        Ok(PluginVersion { info: found.info.with_settings(settings), ..found })
    }

    /// Gives a stored version a signature, in the place of the one that it may have. What the
    /// version is does not change, and its settings must be within what the signature says.
    ///
    /// # Errors
    /// When there is no such version, or this host does not take the signature for it.
    pub async fn attach_signature(
        &self,
        name: &TaskType,
        version: &str,
        signature: &[u8],
        by: &str,
    ) -> RegistryResult<PluginVersion> {
        let plugin = self.plugin(name).await?;
        let found = self.version(name, version).await?;
        let policy = &self.parts.signatures;
        let vouched = policy.check(name, plugin.owner.as_ref(), &found.info, Some(signature))?;
        if found.signature.as_deref() == Some(signature) {
            return Ok(found);
        }
        let keys = vouched.map(|vouched| vouched.keys.join(", "));
        let event = event(
            self.parts.store.clock(),
            PluginEventKind::Signed,
            Some(version),
            by,
            match keys.filter(|keys| !keys.is_empty()) {
                Some(keys) => format!("with the key {keys}"),
                None => "with a key that this host does not know".to_owned(),
            },
        );
        let store = &self.parts.store;
        let expected = plugin.revision;
        if !store.set_signature(found.id, expected, signature, &event).await? {
            return Err(RegistryError::Contended(name.clone()));
        }
        self.tell().await;
        Ok(PluginVersion { signature: Some(signature.to_vec()), ..found })
    }

    /// Who vouches for a version, as this host sees it now. `None`: nobody does, and nobody has to.
    ///
    /// # Errors
    /// Why this host would not run it.
    pub fn vouched(
        &self,
        plugin: &RegisteredPlugin,
        version: &PluginVersion,
    ) -> Result<Option<Vouched>, SignatureError> {
        let signature = version.signature.as_deref();
        let (name, owner) = (&plugin.name, plugin.owner.as_ref());
        self.parts.signatures.check(name, owner, &version.info, signature)
    }

    /// Seals a secret of a plugin. Versions whose `grants.secrets` name it read the new value
    /// within seconds.
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
        settings::check_name("secret", secret)?;
        if value.is_empty() {
            let reason = "is empty: a plugin would find nothing where it looks for its secret";
            return Err(RegistryError::invalid("value", reason));
        }
        settings::check_value("value", value)?;
        let keyring = self.parts.keyring.as_ref().ok_or(SecretError::NoKey)?;
        // A secret that was there before its plugin would be read by whoever takes the name.
        self.plugin(name).await?;
        let event = event(
            self.parts.store.clock(),
            PluginEventKind::SecretSet,
            None,
            by,
            secret.to_owned(),
        );
        let sealed = SealedSecret {
            name: secret.to_owned(),
            sealed: keyring.seal(name, secret, value)?,
            updated_at: event.at,
        };
        self.parts.store.set_secret(name, &sealed, &event).await?;
        self.tell().await;
        Ok(())
    }

    /// Deletes a secret.
    ///
    /// # Errors
    /// When there is none.
    pub async fn delete_secret(
        &self,
        name: &TaskType,
        secret: &str,
        by: &str,
    ) -> RegistryResult<()> {
        self.plugin(name).await?;
        let event = event(
            self.parts.store.clock(),
            PluginEventKind::SecretDeleted,
            None,
            by,
            secret.to_owned(),
        );
        if !self.parts.store.delete_secret(name, secret, &event).await? {
            return Err(RegistryError::UnknownSecret {
                plugin: name.clone(),
                secret: shorten(secret),
            });
        }
        self.tell().await;
        Ok(())
    }

    /// The secrets of a plugin, without what they say.
    ///
    /// # Errors
    /// When there is no such plugin.
    pub async fn secrets(&self, name: &TaskType) -> RegistryResult<Vec<SecretInfo>> {
        self.plugin(name).await?;
        let keyring = self.parts.keyring.as_ref();
        let secrets = self.parts.store.secrets(name).await?.into_iter();
        let info = secrets.map(|secret| SecretInfo {
            can_open: keyring.is_some_and(|keys| keys.can_open(&secret.sealed)),
            name: secret.name,
            updated_at: secret.updated_at,
        });
        Ok(info.collect())
    }

    /// A plugin.
    ///
    /// # Errors
    /// When there is none of this name.
    pub async fn plugin(&self, name: &TaskType) -> RegistryResult<RegisteredPlugin> {
        let found = self.parts.store.plugin(name).await?;
        found.ok_or_else(|| RegistryError::UnknownPlugin(name.clone()))
    }

    /// Has this process know what the registry says now. After a change through this process, so
    /// that whoever made it may rely on it at once; all others learn of it by themselves.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn refresh(&self, catalog: &Catalog) -> RegistryResult<()> {
        Ok(catalog.refresh(&*self.parts.store).await?)
    }

    /// The versions of a plugin, newest first.
    ///
    /// # Errors
    /// When there is no such plugin.
    pub async fn versions(&self, name: &TaskType) -> RegistryResult<Vec<PluginVersion>> {
        self.plugin(name).await?;
        Ok(self.parts.store.plugin_versions(name).await?)
    }

    /// One version of a plugin.
    ///
    /// # Errors
    /// When there is no such plugin or version.
    pub async fn version(&self, name: &TaskType, version: &str) -> RegistryResult<PluginVersion> {
        let mut versions = self.versions(name).await?.into_iter();
        let found = versions.find(|found| found.info.version == version);
        found.ok_or_else(|| unknown_version(name, version))
    }

    /// The bytes of a component. `None`: the registry has none of this digest.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn component(&self, digest: &Digest) -> RegistryResult<Option<Vec<u8>>> {
        Ok(self.parts.store.component(digest).await?)
    }

    /// What happened to a plugin, newest first.
    ///
    /// # Errors
    /// When there is no such plugin.
    pub async fn events(&self, name: &TaskType, limit: u32) -> RegistryResult<Vec<PluginEvent>> {
        self.plugin(name).await?;
        Ok(self.parts.store.plugin_events(name, limit).await?)
    }

    /// What the attempts of a version used, and limits that would fit. `None`: the version that
    /// runs.
    ///
    /// # Errors
    /// When there is no such plugin or version, or none runs.
    pub async fn advise(&self, name: &TaskType, version: Option<&str>) -> RegistryResult<Advice> {
        let plugin = self.plugin(name).await?;
        let versions = self.parts.store.plugin_versions(name).await?;
        let found = match version {
            Some(version) => versions.iter().find(|found| found.info.version == version),
            None => versions.iter().find(|found| Some(found.id) == plugin.rollout.stable),
        };
        let found = found.ok_or_else(|| match version {
            Some(version) => unknown_version(name, version),
            None => RegistryError::State(format!("no version of {name} runs yet: name one")),
        })?;
        let used = self.parts.store.usage(found.id, None).await?;
        Ok(Advice::from_usage(&found.info.version, &used, &found.info.limits))
    }

    /// What a version imports beside what it is granted.
    #[must_use]
    pub fn review(&self, info: &PluginInfo) -> Vec<Reviewed> {
        review(info)
    }

    /// Tells every process that something has changed. One that misses the signal looks within a
    /// second.
    pub(crate) async fn tell(&self) {
        if let Err(error) = self.parts.broker.publish(&[Signal::Plugins]).await {
            tracing::debug!(%error, "the change of the registry was not announced");
        }
    }
}

/// An event of now, which is the store's: what became active is compared with the ids of tasks,
/// which tell the store's time.
pub(crate) fn event(
    clock: &Clock,
    kind: PluginEventKind,
    version: Option<&str>,
    by: &str,
    detail: String,
) -> PluginEvent {
    PluginEvent {
        at: clock.now(),
        kind,
        version: version.map(str::to_owned),
        by: by.to_owned(),
        detail,
    }
}

pub(crate) fn unknown_version(plugin: &TaskType, version: &str) -> RegistryError {
    RegistryError::UnknownVersion { plugin: plugin.clone(), version: shorten(version) }
}

/// A name that a client made up, short enough for a sentence.
fn shorten(text: &str) -> String {
    taskforge_schema::text::shorten(text, 100).into_owned()
}
