//! How a component comes in.

use taskforge_domain::{Manifest, PluginSettings, PluginVersion, RegisteredPlugin, TenantId};

use crate::review::Reviewed;

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
