//! A version as both databases keep it: what has no column type of its own is JSON text.

use serde::Serialize;
use taskforge_domain::{PluginSettings, PluginVersion, VersionState};

use crate::{StoreError, StoreResult};

/// The lists of a version, and its settings.
pub(crate) struct Columns {
    pub(crate) capabilities: String,
    pub(crate) imports: String,
    pub(crate) exports: String,
    pub(crate) settings: SettingsColumns,
}

impl Columns {
    pub(crate) fn of(version: &PluginVersion) -> StoreResult<Self> {
        let info = &version.info;
        Ok(Self {
            capabilities: text(&info.capabilities)?,
            imports: text(&info.imports)?,
            exports: text(&info.exports)?,
            settings: SettingsColumns::of(&info.settings())?,
        })
    }
}

/// The settings of a version.
pub(crate) struct SettingsColumns {
    pub(crate) limits: String,
    pub(crate) grants: String,
    pub(crate) config: String,
}

impl SettingsColumns {
    pub(crate) fn of(settings: &PluginSettings) -> StoreResult<Self> {
        Ok(Self {
            limits: text(&settings.limits)?,
            grants: text(&settings.grants)?,
            config: text(&settings.config)?,
        })
    }
}

fn text(value: &impl Serialize) -> StoreResult<String> {
    serde_json::to_string(value)
        .map_err(|error| StoreError::Refused(format!("a setting that has no JSON text: {error}")))
}

/// Whether two versions of one number are the same version.
pub(crate) fn is_same(one: &PluginVersion, other: &PluginVersion) -> bool {
    one.info.digest == other.info.digest
        && one.info.shape == other.info.shape
        && one.info.input_schema == other.info.input_schema
        && one.info.output_schema == other.info.output_schema
        && one.signature == other.signature
}

/// A state's name and its reason.
pub(crate) fn state(state: &VersionState) -> (&'static str, Option<&str>) {
    match state {
        VersionState::Available => ("available", None),
        VersionState::RolledBack { reason } => ("rolled_back", Some(reason)),
        VersionState::Retired => (RETIRED, None),
    }
}

/// The state that nothing leads out of.
pub(crate) const RETIRED: &str = "retired";

/// The state of a name and a reason. `None`: there is no such state.
pub(crate) fn read_state(name: &str, reason: Option<String>) -> Option<VersionState> {
    match (name, reason) {
        ("available", None) => Some(VersionState::Available),
        ("rolled_back", Some(reason)) => Some(VersionState::RolledBack { reason }),
        (RETIRED, None) => Some(VersionState::Retired),
        _ => None,
    }
}
