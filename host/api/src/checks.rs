//! What clients are told of the types that they name and of values that do not fit a schema.

use taskforge_domain::{Json, TaskType, TenantId};
use taskforge_registry::{Handler, KnownTypes};
use taskforge_schema::{Fault, MAX_ERRORS, Schema};

use crate::FieldError;

/// Types that are named to somebody who names one that is not there.
const NAMED: usize = 20;

/// Checks a value of `size` bytes against a schema; adds what is wrong with it.
pub(crate) fn check(
    schema: &Schema,
    value: &serde_json::Value,
    size: usize,
    pointer: &str,
    errors: &mut Vec<FieldError>,
) {
    let mut faults = Vec::new();
    schema.check(value, size, pointer, &mut faults);
    let room = MAX_ERRORS.saturating_sub(errors.len()).max(1);
    errors.extend(faults.into_iter().take(room).map(FieldError::from));
}

/// What is wrong with an input, whichever version may run it.
pub(crate) fn faults(handler: Handler<'_>, input: &Json) -> Vec<FieldError> {
    let (tree, size) = (input.to_value(), input.as_str().len());
    let mut faults = Vec::new();
    for schema in handler.inputs() {
        let mut found = Vec::new();
        check(schema, &tree, size, "/input", &mut found);
        found.retain(|fault| !faults.contains(fault));
        faults.extend(found);
    }
    faults
}

/// Says that a tenant knows no such type, and which it does.
pub(crate) fn unknown(known: &KnownTypes, tenant: &TenantId, name: &TaskType) -> String {
    let all = known.all().into_iter().filter(|(_, handler)| handler.is_for(tenant));
    let mut names: Vec<_> = all.take(NAMED + 1).map(|(name, _)| name.as_str()).collect();
    if let Some(last) = names.get_mut(NAMED) {
        *last = "…";
    }
    match names.as_slice() {
        [] => format!("no plugin is named {name:?}; none is loaded"),
        names => format!("no plugin is named {name:?}; known are {}", names.join(", ")),
    }
}

impl From<Fault> for FieldError {
    fn from(fault: Fault) -> Self {
        Self::at(fault.pointer, fault.detail)
    }
}
