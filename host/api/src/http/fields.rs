//! The known fields of one object in a body, each read on its own, so that one answer names everything that is wrong.

use std::time::Duration;

use serde::{Deserialize, de::DeserializeOwned};
use serde_json::value::RawValue;
use taskforge_schema::MAX_ERRORS;
use utoipa::ToSchema;

use crate::{
    FieldError, Problem,
    http::json::{self, Members, join, shorten},
};

/// A duration: text such as `"1500ms"`, `"30s"`, `"2h 30m"`, or a number of seconds.
#[derive(ToSchema)]
#[schema(example = "30s")]
#[expect(dead_code, reason = "describes the field for OpenAPI")]
#[serde(untagged)]
pub(crate) enum DurationText {
    /// For people.
    Text(String),
    /// Seconds.
    Seconds(f64),
}

/// Reads a body that is one JSON object with these fields.
pub(crate) fn body<T>(
    body: &[u8],
    known: &[&'static str],
    read: impl FnOnce(&Fields<'_>, &mut Vec<FieldError>) -> Option<T>,
) -> Result<T, Problem> {
    let raw: &RawValue = serde_json::from_str(json::text(body)?).map_err(|e| json::malformed(&e))?;
    let mut errors = Vec::new();
    let fields = Fields::read(raw, "", known, &mut errors);
    let read = fields.and_then(|fields| read(&fields, &mut errors));
    finish(read, errors)
}

/// What was read, if nothing was wrong.
pub(crate) fn finish<T>(read: Option<T>, errors: Vec<FieldError>) -> Result<T, Problem> {
    match read {
        Some(read) if errors.is_empty() => Ok(read),
        _ => Err(Problem::validation(errors)),
    }
}

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
    /// Reads one field of a type that JSON has, if it is there and not null.
    pub(crate) fn simple<T: DeserializeOwned>(
        &self,
        name: &str,
        errors: &mut Vec<FieldError>,
        rule: &'static str,
    ) -> Option<T> {
        self.parse(name, errors, |raw| {
            serde_json::from_str(raw).map_err(|_| rule.to_owned())
        })
    }

    /// Reads one field that must be there.
    pub(crate) fn required<T>(
        &self,
        name: &str,
        errors: &mut Vec<FieldError>,
        read: impl FnOnce(&'t str) -> Result<T, String>,
    ) -> Option<T> {
        if self.get(name).is_none_or(|raw| raw.get() == "null") {
            errors.push(FieldError::at(self.pointer(name), "is required"));
            return None;
        }
        self.parse(name, errors, read)
    }
}

/// Reads a string that is an id, a name or the like.
pub(crate) fn parsed<T: std::str::FromStr<Err: ToString>>(raw: &str) -> Result<T, String> {
    let text: String = serde_json::from_str(raw).map_err(|_| "must be a string".to_owned())?;
    text.parse().map_err(|error: T::Err| error.to_string())
}

/// Reads an array of them; one alone may stand for itself.
pub(crate) fn several<T: std::str::FromStr<Err: ToString>>(raw: &str, max: usize) -> Result<Vec<T>, String> {
    if raw.starts_with('"') {
        return Ok(vec![parsed(raw)?]);
    }
    let items: Vec<&RawValue> =
        serde_json::from_str(raw).map_err(|_| "must be an array of strings".to_owned())?;
    if items.is_empty() || items.len() > max {
        return Err(format!("must hold 1 to {max} items, not {}", items.len()));
    }
    items.iter().map(|item| parsed(item.get())).collect()
}

/// Reads a duration, text for people or a number of seconds, rounded down to the microseconds that the store keeps.
pub(crate) fn duration(raw: &str, max: Duration, max_text: &str) -> Result<Duration, String> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Given {
        Seconds(f64),
        Text(String),
    }
    let given = match serde_json::from_str::<Given>(raw) {
        Ok(Given::Seconds(seconds)) => Duration::try_from_secs_f64(seconds).ok(),
        Ok(Given::Text(text)) => humantime::parse_duration(&text).ok(),
        Err(_) => None,
    };
    let given =
        given.ok_or("must be a duration such as \"500ms\", \"30s\" or \"2h\", or a number of seconds")?;
    if given > max {
        return Err(format!("must be at most {max_text}"));
    }
    Ok(Duration::from_micros(
        u64::try_from(given.as_micros()).unwrap_or(u64::MAX),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_text_or_seconds() {
        let read = |raw: &str| duration(raw, Duration::from_secs(60), "1 minute");
        assert_eq!(read("\"1500ms\""), Ok(Duration::from_millis(1500)));
        assert_eq!(read("0.25"), Ok(Duration::from_millis(250)));
        assert_eq!(read("60"), Ok(Duration::from_secs(60)));
        for bad in ["-1", "61", "1e300", "\"soon\"", "true", "[]", "\"\""] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }
}
