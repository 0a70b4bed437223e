//! How a component comes in: signature, checks, compilation, and only then the store.

use std::sync::Arc;

use taskforge_domain::{
    Manifest, PluginEvent, PluginEventKind, PluginInfo, PluginSettings, PluginVersion, RegisteredPlugin,
    TaskType, TenantId, Timestamp, VersionId, VersionState,
};
use taskforge_schema::Schema;
use taskforge_store::Added;

use crate::{
    error::{RegistryError, RegistryResult},
    registry::Registry,
    review::{Reviewed, review},
    settings,
};

/// What comes with a component.
#[derive(Debug, Clone)]
pub struct Push {
    /// The tenant whose plugin it is; `None`: it is shared.
    pub owner: Option<TenantId>,
    /// What a component says of itself that cannot say it. Of one that exports the handler interface it must agree with what that says.
    pub manifest: Option<Manifest>,
    /// What the version may use and reach. Of a version that is there already the settings stay as they are.
    pub settings: PluginSettings,
    /// Detached ed25519 signature over the component's bytes: 64 bytes.
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
    /// Tell the two apart by build metadata: `1.2.0+sha.0123abcd`. For a folder whose components are rebuilt again and again.
    Suffix,
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
}

impl Registry {
    /// Checks a component, compiles it and stores it, available and not yet running. The only way in, for the API, the command line and the
    /// folder. The same bytes under the same version again are no error and change nothing.
    ///
    /// # Errors
    /// When the component, its schemas, its settings or its signature are refused, the name is another's, or the version is there with other
    /// bytes.
    pub async fn push(&self, component: Vec<u8>, push: Push) -> RegistryResult<Pushed> {
        let Push {
            owner,
            manifest,
            settings,
            signature,
            by,
            same_version,
        } = push;
        settings::check(&settings)?;
        let component = Arc::new(component);
        // First: a stranger's bytes are not worth a compilation where only signed ones are taken. What they call themselves is not known yet.
        let called = match &manifest {
            Some(manifest) => manifest.name.clone(),
            None => TaskType::new("component").map_err(|error| RegistryError::State(error.to_string()))?,
        };
        let policy = &self.parts.signatures;
        policy.check(&called, owner.as_ref(), &component, signature.as_deref())?;
        let load = self
            .parts
            .runtime
            .load_as(component.to_vec(), settings, manifest.as_ref());
        let loaded = load.await?;
        let info = loaded.info().clone();
        drop(loaded);
        let whose = owner.as_ref();
        check_schemas(&info).await?;

        let mut version = PluginVersion {
            id: VersionId::generate(),
            info,
            signature,
            state: VersionState::Available,
            pushed_by: by,
            pushed_at: Timestamp::now(),
        };
        let mut added = self.add(whose, &version, &component).await?;
        if let (Added::Different(_), SameVersion::Suffix) = (&added, same_version) {
            version.info.version = with_digest(&version.info);
            added = self.add(whose, &version, &component).await?;
        }
        let (version, is_new) = match added {
            Added::Stored => (version, true),
            Added::AlreadyThere(there) => (*there, false),
            Added::NameTaken(_) => return Err(RegistryError::NameTaken(version.info.name)),
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
                plugin = %version.info.name, version = version.info.version, digest = %version.info.digest,
                by = version.pushed_by, "a version was pushed"
            );
            self.tell().await;
        }
        Ok(Pushed {
            plugin: self.plugin(&version.info.name).await?,
            review: review(&version.info),
            version,
            is_new,
        })
    }

    async fn add(
        &self,
        owner: Option<&TenantId>,
        version: &PluginVersion,
        component: &[u8],
    ) -> RegistryResult<Added> {
        let event = PluginEvent {
            at: version.pushed_at,
            kind: PluginEventKind::Pushed,
            version: Some(version.info.version.clone()),
            by: version.pushed_by.clone(),
            detail: format!("digest {}, {} bytes", version.info.digest, version.info.size),
        };
        let store = &self.parts.store;
        Ok(store.add_version(owner, version, component, &event).await?)
    }
}

/// Whether inputs and outputs can be checked against what the component says of them. Off the async threads: a stranger's schema may take a
/// while to be compiled.
async fn check_schemas(info: &PluginInfo) -> RegistryResult<()> {
    for (field, schema) in [
        ("input_schema", &info.input_schema),
        ("output_schema", &info.output_schema),
    ] {
        let schema = schema.clone();
        let compiled = tokio::task::spawn_blocking(move || Schema::compile(schema.as_str()).map(drop)).await;
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
        "other bytes"
    } else if old.shape != info.shape {
        "another shape of handler"
    } else if old.input_schema != info.input_schema || old.output_schema != info.output_schema {
        "other schemas"
    } else {
        "another signature"
    }
}
