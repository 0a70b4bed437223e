//! Whether settings make sense, before anything goes by them.

use taskforge_domain::PluginSettings;

use crate::error::{RegistryError, RegistryResult};

/// Bytes of one configuration value or secret.
pub(crate) const MAX_VALUE: usize = 64 << 10;
/// Configuration values and secrets of one version.
const MAX_VALUES: usize = 200;
/// Bytes of a name.
const MAX_NAME: usize = 255;

/// Checks what the sandbox does not: it has its own word about how much memory and how many
/// instances it has room for.
pub(crate) fn check(settings: &PluginSettings) -> RegistryResult<()> {
    let limits = &settings.limits;
    for (field, is_nothing) in [
        ("limits.fuel", limits.fuel == 0),
        ("limits.memory", limits.memory == 0),
        ("limits.deadline", limits.deadline.is_zero()),
    ] {
        if is_nothing {
            return Err(RegistryError::invalid(field, "nothing runs with 0"));
        }
    }
    if limits.concurrency == Some(0) {
        let reason = "nothing runs with 0: pause the plugin instead";
        return Err(RegistryError::invalid("limits.concurrency", reason));
    }
    let grants = settings.grants.check();
    grants.map_err(|error| RegistryError::invalid(format!("grants.{}", error.field), error.why))?;
    if settings.config.len() + settings.grants.secrets.len() > MAX_VALUES {
        let reason = format!("a version reads at most {MAX_VALUES} values and secrets");
        return Err(RegistryError::invalid("config", reason));
    }
    for (name, value) in &settings.config {
        check_name("config", name)?;
        check_value(&format!("config.{name}"), value)?;
    }
    for name in &settings.grants.secrets {
        check_name("grants.secrets", name)?;
        // The guest reads both by the same name, and would see only one of them.
        if settings.config.contains_key(name) {
            let reason =
                format!("{name:?} is the name of a value in config too: rename one of them");
            return Err(RegistryError::invalid("grants.secrets", reason));
        }
    }
    Ok(())
}

/// Which parts of the settings differ. Values are not told: a record of it is for everybody who may
/// read the plugin, and is kept for ever.
pub(crate) fn differing(before: &PluginSettings, after: &PluginSettings) -> Vec<&'static str> {
    let parts = [
        ("limits", before.limits != after.limits),
        ("grants", before.grants != after.grants),
        ("config", before.config != after.config),
    ];
    let differing = parts.into_iter().filter(|(_, differ)| *differ);
    differing.map(|(name, _)| name).collect()
}

/// Whether a name may be that of a configuration value or a secret.
pub(crate) fn check_name(field: &str, name: &str) -> RegistryResult<()> {
    let is_name = (1..=MAX_NAME).contains(&name.len()) && !name.chars().any(char::is_control);
    if is_name && name.trim() == name {
        return Ok(());
    }
    if is_name {
        let reason = format!("{name:?} begins or ends with a blank: write {:?}", name.trim());
        return Err(RegistryError::invalid(field, reason));
    }
    let reason = format!("a name has 1 to {MAX_NAME} bytes and no control characters");
    Err(RegistryError::invalid(field, reason))
}

/// Whether a value is short enough. It is not repeated: it may be a secret.
pub(crate) fn check_value(field: &str, value: &str) -> RegistryResult<()> {
    if value.len() <= MAX_VALUE {
        return Ok(());
    }
    let reason = format!("a value has at most {MAX_VALUE} bytes, this one {}", value.len());
    Err(RegistryError::invalid(field, reason))
}
