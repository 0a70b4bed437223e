//! Versions of a plugin as clients see them.

use serde::Serialize;
use taskforge_domain::{
    Digest, PluginVersion, RegisteredPlugin, Rollout, TaskType, TenantId, Timestamp, VersionState,
};
use taskforge_registry::{Pruned, Registry, Reviewed, Statement, signature};
use utoipa::ToSchema;

use crate::plugins::{described::StatementBody, view::Described};

/// A version of a plugin.
#[derive(Serialize, ToSchema)]
#[schema(as = PluginVersion)]
pub(crate) struct VersionView<'a> {
    /// The plugin.
    #[schema(value_type = String)]
    name: &'a TaskType,
    /// The tenant that the plugin belongs to; null: it is shared by all.
    #[schema(value_type = Option<String>, required)]
    owner: Option<&'a TenantId>,
    /// Semantic version.
    #[schema(value_type = String)]
    version: &'a str,
    /// `available`, `rolled_back` (it was on trial and taken back) or `retired` (it may not run
    /// again).
    state: &'static str,
    /// Why it was taken back.
    #[schema(required)]
    reason: Option<&'a str>,
    /// `stable` or `canary` where it runs; null where it does not.
    #[schema(required)]
    runs_as: Option<&'static str>,
    /// Whether it has a signature.
    signed: bool,
    /// Who signed it, and what they allow it; null where nobody did.
    #[schema(required)]
    signature: Option<SignatureView>,
    /// Who pushed it, as they said themselves.
    #[schema(value_type = String)]
    pushed_by: &'a str,
    /// When.
    #[schema(value_type = String, format = DateTime)]
    pushed_at: Timestamp,
    #[serde(flatten)]
    described: Described<'a>,
    /// What the component imports beside what it is granted.
    review: Vec<Reviewed>,
    /// What there is to know of its settings: that they are those of the version that ran, or that
    /// it was there already with others. Only in the answer to a push.
    #[serde(skip_serializing_if = "Option::is_none")]
    settings_note: Option<String>,
}

impl<'a> VersionView<'a> {
    pub(crate) fn new(
        plugin: &'a RegisteredPlugin,
        version: &'a PluginVersion,
        registry: &Registry,
    ) -> Self {
        let (state, reason) = match &version.state {
            VersionState::Available => ("available", None),
            VersionState::RolledBack { reason } => ("rolled_back", Some(reason.as_str())),
            VersionState::Retired => ("retired", None),
        };
        let Rollout { stable, canary, .. } = &plugin.rollout;
        let runs_as = match version.id {
            id if Some(id) == *stable => Some("stable"),
            id if canary.is_some_and(|canary| canary.version == id) => Some("canary"),
            _ => None,
        };
        Self {
            name: &plugin.name,
            owner: plugin.owner.as_ref(),
            version: &version.info.version,
            state,
            reason,
            runs_as,
            signed: version.signature.is_some(),
            signature: SignatureView::of(plugin, version, registry),
            pushed_by: &version.pushed_by,
            pushed_at: version.pushed_at,
            described: Described::from(&version.info),
            review: registry.review(&version.info),
            settings_note: None,
        }
    }

    /// The same with what there is to know of its settings.
    pub(crate) fn with_settings_note(self, note: Option<String>) -> Self {
        Self { settings_note: note, ..self }
    }
}

/// A signature of a version, as this server sees it now.
#[derive(Serialize, ToSchema)]
#[schema(as = Signature)]
pub(crate) struct SignatureView {
    /// The trusted keys that made it. None if it does not hold, or if this server neither requires
    /// signatures nor trusts any key.
    keys: Vec<String>,
    /// Why it does not hold here, if so: the version cannot be activated, and workers do not run
    /// it.
    #[schema(required)]
    problem: Option<String>,
    /// What it says. Null if it cannot be read.
    #[schema(value_type = Option<StatementBody>, required)]
    statement: Option<Statement>,
}

impl SignatureView {
    fn of(plugin: &RegisteredPlugin, version: &PluginVersion, registry: &Registry) -> Option<Self> {
        let text = version.signature.as_deref()?;
        Some(match registry.vouched(plugin, version) {
            Ok(vouched) => {
                let (keys, statement) =
                    vouched.map(|vouched| (vouched.keys, vouched.statement)).unzip();
                Self { keys: keys.unwrap_or_default(), problem: None, statement }
            }
            Err(error) => Self {
                keys: Vec::new(),
                problem: Some(error.to_string()),
                statement: signature::unverified(text).ok(),
            },
        })
    }
}

/// Versions that were deleted, or would be.
#[derive(Serialize, ToSchema)]
#[schema(as = PrunedVersions)]
pub(crate) struct PrunedView {
    /// Oldest first.
    versions: Vec<PrunedVersion>,
    /// Components that went with them: those of which no other version is made.
    components: u64,
}

/// A version that was deleted, or would be.
#[derive(Serialize, ToSchema)]
pub(crate) struct PrunedVersion {
    /// Its number, which stays taken.
    version: String,
    /// SHA-256 of its component, in hexadecimal.
    #[schema(value_type = String)]
    digest: Digest,
    /// Bytes of its component.
    size: u64,
}

impl From<Pruned> for PrunedView {
    fn from(pruned: Pruned) -> Self {
        let versions = pruned.versions.into_iter().map(|version| PrunedVersion {
            version: version.version,
            digest: version.digest,
            size: version.size,
        });
        Self { versions: versions.collect(), components: pruned.components }
    }
}

/// The versions of a plugin.
#[derive(Serialize, ToSchema)]
#[schema(as = PluginVersions)]
pub(crate) struct VersionList<'a> {
    /// Newest first.
    #[schema(value_type = Vec<VersionView<'_>>)]
    pub(crate) versions: Vec<VersionView<'a>>,
}
