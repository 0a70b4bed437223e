//! How a component comes in: signature, checks, compilation, and only then the store.

use std::sync::Arc;

use sha2::{Digest as _, Sha256};
use taskforge_domain::{
    Digest, Manifest, PluginEvent, PluginEventKind, PluginInfo, PluginSettings, PluginVersion,
    RegisteredPlugin, TaskType, TenantId, VersionId, VersionState,
};
use taskforge_schema::Schema;
use taskforge_store::{Added, QuotaKind};

use crate::{
    error::{RegistryError, RegistryResult},
    registry::Registry,
    review::{Reviewed, review},
    settings,
    signature::SignatureError,
};

/// What comes with a component.
#[derive(Debug, Clone)]
pub struct Push {
    /// The tenant whose plugin it is; `None`: it is shared.
    pub owner: Option<TenantId>,
    /// What a component says of itself that cannot say it. Of one that exports the handler
    /// interface it must agree with what that says.
    pub manifest: Option<Manifest>,
    /// What the version may use and reach. `None`: the same as the version that runs now, or the
    /// defaults if none does. Of a version that is there already the settings stay as they are.
    pub settings: Option<PluginSettings>,
    /// The text of a signature, as [`signature::sign`](crate::signature::sign) makes it.
    pub signature: Option<Vec<u8>>,
    /// Who pushes, for people.
    pub by: String,
    /// What to do when the version is there with other bytes.
    pub same_version: SameVersion,
}

/// What to do when a version is there with other bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SameVersion {
    /// Refuse: the author is to raise the version.
    #[default]
    Refuse,
    /// Tell the two apart by build metadata: `1.2.0+sha.0123abcd`. For a folder whose components
    /// are rebuilt again and again. What is signed is refused all the same: its number is what its
    /// signature says.
    Suffix,
}

/// Where the settings of a pushed version come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SettingsFrom {
    /// They are its own: those that came with it, or the defaults.
    Own,
    /// None came with it, and it has those of this version, which runs.
    Running(String),
    /// It was there already, and keeps its own. Those that came differ in these parts of them.
    Before(Vec<&'static str>),
}

impl SettingsFrom {
    /// What whoever pushed a version has to be told of its settings.
    #[must_use]
    pub fn note(&self, plugin: &TaskType, version: &str) -> Option<String> {
        match self {
            Self::Own => None,
            Self::Running(running) => Some(format!(
                "no settings were given: {version} has those of {running}, which runs"
            )),
            Self::Before(parts) => Some(format!(
                "{version} was there already and keeps its settings. Those that were given differ \
                 in {}: `taskforge plugin settings {plugin} {version} FILE` sets them",
                parts.join(", ")
            )),
        }
    }
}

/// A component that is registered.
#[derive(Debug, Clone)]
pub struct Pushed {
    /// The version, as it is stored.
    pub version: PluginVersion,
    /// The plugin.
    pub plugin: RegisteredPlugin,
    /// Whether this push stored it; `false` if it was there already, byte for byte.
    pub is_new: bool,
    /// What it imports beside what it is granted.
    pub review: Vec<Reviewed>,
    /// Where its settings come from.
    pub settings_from: SettingsFrom,
}

impl Registry {
    /// Checks a component, compiles it and stores it, available and not yet running. The only way
    /// in, for the API, the command line and the folder. The same bytes under the same version
    /// again are no error and change nothing.
    ///
    /// # Errors
    /// When the component, its schemas, its settings or its signature are refused, the name is
    /// another's, or the version is there with other bytes.
    pub async fn push(&self, component: Vec<u8>, push: Push) -> RegistryResult<Pushed> {
        let Push { owner, manifest, settings, signature, by, same_version } = push;
        if let Some(settings) = &settings {
            settings::check(settings)?;
        }
        let component = Arc::new(component);
        // First: a stranger's bytes are not worth a compilation where only signed ones are taken.
        // What they call themselves is not known yet.
        let called = match &manifest {
            Some(manifest) => manifest.name.clone(),
            None => TaskType::new("component")
                .map_err(|error| RegistryError::State(error.to_string()))?,
        };
        let whose = owner.as_ref();
        self.check_source(&called, whose, &component, signature.as_deref()).await?;
        let (info, inherited_from) =
            self.load(&component, settings.clone(), manifest.as_ref(), whose).await?;
        let policy = &self.parts.signatures;
        let vouched = policy.check(&info.name, whose, &info, signature.as_deref());
        vouched.map_err(|error| match (error, &inherited_from) {
            (SignatureError::Beyond(mut excess), Some(running)) => {
                excess.what =
                    format!("{} (of the settings of {running}, as none were given)", excess.what);
                SignatureError::Beyond(excess)
            }
            (error, _) => error,
        })?;
        check_schemas(&info).await?;

        let mut version = PluginVersion {
            id: VersionId::generate(),
            info,
            signature,
            state: VersionState::Available,
            pushed_by: by,
            pushed_at: self.parts.store.clock().now(),
        };
        let from = inherited_from.as_deref();
        let mut added = self.add(whose, &version, &component, from).await?;
        let is_numbered_anew = same_version == SameVersion::Suffix && version.signature.is_none();
        // The same bytes again are no other version, also after they were collected: what was
        // retired stays so.
        let is_other = match &added {
            Added::Different(_) => true,
            Added::Collected { digest, .. } => *digest != version.info.digest,
            _ => false,
        };
        if is_numbered_anew && is_other {
            version.info.version = with_digest(&version.info);
            added = self.add(whose, &version, &component, from).await?;
        }
        let (version, is_new) = match added {
            Added::Stored => (version, true),
            Added::AlreadyThere(there) => (*there, false),
            Added::NameTaken(_) => return Err(RegistryError::NameTaken(version.info.name)),
            Added::OverQuota { kind, used } => {
                return Err(self.over_quota(kind, used, &version.info));
            }
            Added::Collected { retired, .. } => {
                return Err(RegistryError::VersionCollected {
                    why: if retired { "was retired" } else { "with other bytes" },
                    plugin: version.info.name,
                    version: version.info.version,
                });
            }
            Added::Different(there) => {
                return Err(RegistryError::VersionTaken {
                    difference: difference(&there, &version),
                    plugin: version.info.name,
                    version: version.info.version,
                });
            }
        };
        if is_new {
            tracing::info!(
                plugin = %version.info.name,
                version = version.info.version,
                digest = %version.info.digest,
                by = version.pushed_by, "a version was pushed"
            );
            self.tell().await;
        }
        let settings_from = match (settings, inherited_from) {
            (None, Some(running)) if is_new => SettingsFrom::Running(running),
            (Some(given), _) if given != version.info.settings() => {
                SettingsFrom::Before(settings::differing(&version.info.settings(), &given))
            }
            _ => SettingsFrom::Own,
        };
        Ok(Pushed {
            plugin: self.plugin(&version.info.name).await?,
            review: review(&version.info),
            version,
            is_new,
            settings_from,
        })
    }

    /// Compiles a component and has it describe itself. Without settings a version that is there
    /// already has its own, and a new one gets those of the version that runs, whose number is
    /// returned.
    async fn load(
        &self,
        component: &[u8],
        settings: Option<PluginSettings>,
        manifest: Option<&Manifest>,
        owner: Option<&TenantId>,
    ) -> RegistryResult<(PluginInfo, Option<String>)> {
        let runtime = &self.parts.runtime;
        let load = async |settings| {
            let loaded = runtime.load_as(component.to_vec(), settings, manifest).await?;
            Ok::<_, RegistryError>(loaded.info().clone())
        };
        if let Some(settings) = settings {
            return Ok((load(settings).await?, None));
        }
        // Whose settings it gets is not known before it has said its name, and an interpreter needs
        // more than the defaults to say it.
        let most =
            PluginSettings { limits: runtime.ceilings().clone(), ..PluginSettings::default() };
        let info = load(most).await?;
        if let Some(there) = self.stored(&info, owner).await? {
            return Ok((info.with_settings(there.info.settings()), None));
        }
        match self.running(&info.name, owner).await? {
            // Within the limits that it will have.
            Some(running) => Ok((load(running.info.settings()).await?, Some(running.info.version))),
            None => Ok((load(PluginSettings::default()).await?, None)),
        }
    }

    /// The version that is these very bytes under the same number, of a plugin of this owner.
    async fn stored(
        &self,
        info: &PluginInfo,
        owner: Option<&TenantId>,
    ) -> RegistryResult<Option<PluginVersion>> {
        let store = &self.parts.store;
        let plugin = store.plugin(&info.name).await?;
        if plugin.is_none_or(|plugin| plugin.owner.as_ref() != owner) {
            return Ok(None);
        }
        let versions = store.plugin_versions(&info.name).await?;
        Ok(versions
            .into_iter()
            .find(|there| there.info.version == info.version && there.info.digest == info.digest))
    }

    /// The version that runs, of a plugin of this owner.
    async fn running(
        &self,
        name: &TaskType,
        owner: Option<&TenantId>,
    ) -> RegistryResult<Option<PluginVersion>> {
        let store = &self.parts.store;
        let plugin = store.plugin(name).await?;
        let own = plugin.filter(|plugin| plugin.owner.as_ref() == owner);
        let Some(stable) = own.and_then(|plugin| plugin.rollout.stable) else {
            return Ok(None);
        };
        Ok(store.versions_by_id(&[stable]).await?.pop())
    }

    async fn add(
        &self,
        owner: Option<&TenantId>,
        version: &PluginVersion,
        component: &[u8],
        settings_of: Option<&str>,
    ) -> RegistryResult<Added> {
        let settings = settings_of.map(|running| format!(", settings of {running}"));
        let event = PluginEvent {
            at: version.pushed_at,
            kind: PluginEventKind::Pushed,
            version: Some(version.info.version.clone()),
            by: version.pushed_by.clone(),
            detail: format!(
                "digest {}, {} bytes{}",
                version.info.digest,
                version.info.size,
                settings.unwrap_or_default()
            ),
        };
        let store = &self.parts.store;
        let added = store.add_version(owner, version, component, self.quota, &event);
        Ok(added.await?)
    }

    /// Off the async threads: a component may have many megabytes.
    async fn check_source(
        &self,
        called: &TaskType,
        owner: Option<&TenantId>,
        component: &Arc<Vec<u8>>,
        signature: Option<&[u8]>,
    ) -> RegistryResult<()> {
        let policy = &self.parts.signatures;
        let digest = match signature {
            None => Digest::from_bytes([0; 32]),
            Some(_) => {
                let component = Arc::clone(component);
                let digest =
                    tokio::task::spawn_blocking(move || Sha256::digest(&*component).into());
                let failed = |_| RegistryError::State("the component was not read".to_owned());
                Digest::from_bytes(digest.await.map_err(failed)?)
            }
        };
        Ok(policy.check_source(called, owner, &digest, signature)?)
    }

    fn over_quota(&self, kind: QuotaKind, used: u64, info: &PluginInfo) -> RegistryError {
        let (what, limit, more) = match kind {
            QuotaKind::Versions => {
                (format!("versions of {}", info.name), self.quota.versions, String::new())
            }
            QuotaKind::Bytes => (
                "bytes of components of one owner".to_owned(),
                self.quota.bytes,
                format!(", and this one has {}", info.size),
            ),
        };
        RegistryError::Quota {
            what,
            used,
            limit,
            more,
            advice: "`taskforge plugin prune` deletes versions that nothing refers to",
        }
    }
}

/// Whether inputs and outputs can be checked against what the component says of them. Off the async
/// threads: a stranger's schema may take a while to be compiled.
async fn check_schemas(info: &PluginInfo) -> RegistryResult<()> {
    for (field, schema) in
        [("input_schema", &info.input_schema), ("output_schema", &info.output_schema)]
    {
        let schema = schema.clone();
        let compiled =
            tokio::task::spawn_blocking(move || Schema::compile(schema.as_str()).map(drop)).await;
        let compiled = compiled.unwrap_or_else(|_| Err("it cannot be compiled".to_owned()));
        compiled.map_err(|reason| RegistryError::invalid(field, reason))?;
    }
    Ok(())
}

/// The version's number, told apart by its bytes.
fn with_digest(info: &PluginInfo) -> String {
    let digest = info.digest.to_string();
    let between = if info.version.contains('+') { '.' } else { '+' };
    format!("{}{between}sha.{}", info.version, &digest[..8])
}

fn difference(there: &PluginVersion, new: &PluginVersion) -> &'static str {
    let (old, info) = (&there.info, &new.info);
    if old.digest != info.digest {
        "other bytes; raise the version"
    } else if old.shape != info.shape {
        "another shape of handler; raise the version"
    } else if old.input_schema != info.input_schema || old.output_schema != info.output_schema {
        "other schemas; raise the version"
    } else {
        "another signature; `taskforge plugin attach` gives a stored version one"
    }
}
