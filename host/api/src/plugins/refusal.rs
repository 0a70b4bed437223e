//! Why the registry refuses, as problems.

use taskforge_registry::{LoadError, RegistryError, SecretError};

use crate::{FieldError, Problem, ProblemKind, http::json::join};

/// The registry's texts speak to whoever asked; only those about this server's own faults stay
/// inside.
impl From<RegistryError> for Problem {
    fn from(error: RegistryError) -> Self {
        let kind = match error {
            RegistryError::Store(error) => return error.into(),
            RegistryError::Load(LoadError::Internal(_))
            | RegistryError::Secret(SecretError::NoRandomness) => {
                tracing::error!(%error, "the registry failed");
                return Self::internal();
            }
            RegistryError::Breaking { ref breaks, .. } => {
                let errors = breaks.iter();
                let errors = errors.map(|found| FieldError::at(&found.pointer, &found.detail));
                let problem = Self::new(ProblemKind::BreakingChange, sentence(&error));
                return problem.with_errors(errors.collect());
            }
            RegistryError::Invalid { field, reason } => {
                let pointer = match field.strip_prefix("config.") {
                    Some(name) => join("/config", name),
                    None => format!("/{}", field.replace('.', "/")),
                };
                return Self::validation(vec![FieldError::at(pointer, reason)]);
            }
            RegistryError::Load(LoadError::Limits(above)) => {
                let pointer = format!("/limits/{}", above.field);
                return Self::validation(vec![FieldError::at(pointer, above.to_string())]);
            }
            RegistryError::UnknownPlugin(_)
            | RegistryError::UnknownVersion { .. }
            | RegistryError::UnknownSecret { .. } => ProblemKind::NotFound,
            RegistryError::Quota { .. } => ProblemKind::Quota,
            RegistryError::NameTaken(_)
            | RegistryError::VersionTaken { .. }
            | RegistryError::VersionCollected { .. }
            | RegistryError::Downgrade { .. }
            | RegistryError::GrantDropped { .. }
            | RegistryError::State(_)
            | RegistryError::Contended(_)
            | RegistryError::Secret(_) => ProblemKind::PluginConflict,
            RegistryError::Signature(_) => ProblemKind::Signature,
            RegistryError::Load(_) => ProblemKind::Component,
        };
        Self::new(kind, sentence(&error))
    }
}

/// The text of an error as a sentence of its own.
fn sentence(error: &RegistryError) -> String {
    let text = error.to_string();
    // What begins with a plugin's name or a field keeps its beginning.
    match text.strip_prefix("there is") {
        Some(rest) => format!("There is{rest}."),
        None => text,
    }
}
