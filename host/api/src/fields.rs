//! The known fields of one object in a body, each read on its own.

use serde_json::value::RawValue;

use crate::{
    FieldError,
    json::{Members, join, shorten},
    schema::MAX_ERRORS,
};

/// The known fields of one object.
pub(crate) struct Fields<'t> {
    pointer: &'t str,
    members: Vec<(&'static str, &'t RawValue)>,
}

impl<'t> Fields<'t> {
    /// Reads an object; unknown fields and fields given twice are errors.
    pub(crate) fn read(
        raw: &'t RawValue,
        pointer: &'t str,
        known: &[&'static str],
        errors: &mut Vec<FieldError>,
    ) -> Option<Self> {
        // The text has parsed as JSON before, so it can only fail here by not being an object, or by a key that is not Unicode.
        let Members(given) = match serde_json::from_str(raw.get()) {
            Ok(members) => members,
            Err(error) if raw.get().starts_with('{') => {
                errors.push(FieldError::at(pointer, error.to_string()));
                return None;
            }
            Err(_) => {
                errors.push(FieldError::at(pointer, "must be a JSON object"));
                return None;
            }
        };
        let mut members: Vec<(&'static str, &'t RawValue)> = Vec::with_capacity(given.len().min(known.len()));
        for (name, value) in given {
            if errors.len() >= MAX_ERRORS {
                return None;
            }
            match known.iter().find(|field| **field == name) {
                None => {
                    let detail = format!("is not a field; known are {}", known.join(", "));
                    errors.push(FieldError::at(join(pointer, &name), detail));
                }
                Some(field) if members.iter().any(|(other, _)| other == field) => {
                    errors.push(FieldError::at(join(pointer, &name), "is given twice"));
                }
                Some(field) => members.push((field, value)),
            }
        }
        Some(Self { pointer, members })
    }

    /// The text of one field, if it is there.
    pub(crate) fn get(&self, name: &str) -> Option<&'t RawValue> {
        self.members
            .iter()
            .find(|(field, _)| *field == name)
            .map(|(_, value)| *value)
    }

    /// The JSON pointer of a field.
    pub(crate) fn pointer(&self, name: &str) -> String {
        join(self.pointer, name)
    }

    /// Reads one field, if it is there and not null.
    pub(crate) fn parse<T>(
        &self,
        name: &str,
        errors: &mut Vec<FieldError>,
        read: impl FnOnce(&'t str) -> Result<T, String>,
    ) -> Option<T> {
        let raw = self.get(name)?.get();
        if raw == "null" && name != "task_type" {
            return None;
        }
        match read(raw) {
            Ok(value) => Some(value),
            Err(detail) => {
                errors.push(FieldError::at(self.pointer(name), shorten(&detail, 500)));
                None
            }
        }
    }
}
