//! JSON objects in requests, each described once: for the OpenAPI document, and for whoever reads
//! it.
//!
//! Every field is read on its own, so that one answer names everything that is wrong, each by its
//! JSON pointer.

use std::{fmt::Display, str::FromStr, time::Duration};

use serde::{Deserialize, de::DeserializeOwned};
use serde_json::value::RawValue;
use taskforge_domain::Timestamp;
use taskforge_schema::MAX_ERRORS;
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{ObjectBuilder, RefOr, Schema, schema::Type},
};

use crate::{
    FieldError, Problem,
    http::json::{self, Members, join, shorten},
};

/// Describes an object: a struct with documented fields, and after each `=` how it is read from its
/// text, a function that returns the value or says what is wrong with it. A field that may be left
/// out or null is an `Option`. One without `=` is an `Option<&'t RawValue>`, the text as it came,
/// null too. Other fields, and fields given twice, are refused.
macro_rules! object {
    (
        $(#[$about:meta])*
        $vis:vis struct $name:ident $(<$lifetime:lifetime>)? {
            $($(#[$attribute:meta])* $field:ident: $type:ty $(= $read:expr)?,)+
        }
    ) => {
        #[derive(Debug, utoipa::ToSchema)]
        $(#[$about])*
        #[serde(deny_unknown_fields)]
        $vis struct $name $(<$lifetime>)? {
            $($(#[$attribute])* $vis $field: $type,)+
        }

        impl<'t> $crate::http::fields::Object<'t> for $name $(<$lifetime>)? {
            const FIELDS: &'static [&'static str] = &[$(stringify!($field)),+];

            #[allow(unused_variables, reason = "of an object that is kept as text")]
            fn read_fields(
                fields: &$crate::http::fields::Fields<'t>,
                errors: &mut Vec<$crate::FieldError>,
            ) -> Option<Self> {
                $(let $field: Option<$type> =
                    $crate::http::fields::object!(@ fields, errors, $field $(= $read)?);)+
                Some(Self { $($field: $field?,)+ })
            }
        }
    };
    (@ $fields:ident, $errors:ident, $field:ident) => {
        Some($fields.get(stringify!($field)))
    };
    (@ $fields:ident, $errors:ident, $field:ident = $read:expr) => {
        $fields.read_field(stringify!($field), $errors, $read)
    };
}
pub(crate) use object;

/// What [`object!`] describes.
pub(crate) trait Object<'t>: Sized {
    /// The names of its fields.
    const FIELDS: &'static [&'static str];

    /// Reads its fields; adds what is wrong to `errors`. Whoever gets it looks at those too.
    fn read_fields(fields: &Fields<'t>, errors: &mut Vec<FieldError>) -> Option<Self>;

    /// Reads it where it stands at a pointer.
    fn read(raw: &'t RawValue, pointer: &str, errors: &mut Vec<FieldError>) -> Option<Self> {
        let fields = Fields::read(raw, pointer, Self::FIELDS, errors)?;
        Self::read_fields(&fields, errors)
    }

    /// Reads a body that is one.
    fn from_body(body: &'t [u8]) -> Result<Self, Problem> {
        let mut errors = Vec::new();
        let read = Self::read(json::raw(body)?, "", &mut errors);
        finish(read, errors)
    }
}

/// What was read, if nothing was wrong.
pub(crate) fn finish<T>(read: Option<T>, errors: Vec<FieldError>) -> Result<T, Problem> {
    match read {
        Some(read) if errors.is_empty() => Ok(read),
        _ => Err(Problem::validation(errors)),
    }
}

/// A field that is read as a `T`: it must be there, unless it is an `Option`.
pub(crate) trait Field<T>: Sized {
    /// What stands for it where it is left out or null. `None`: it is required.
    fn absent() -> Option<Self>;
    /// What was read.
    fn given(value: T) -> Self;
}

impl<T> Field<T> for T {
    fn absent() -> Option<Self> {
        None
    }

    fn given(value: T) -> Self {
        value
    }
}

impl<T> Field<T> for Option<T> {
    fn absent() -> Option<Self> {
        Some(None)
    }

    fn given(value: T) -> Self {
        Some(value)
    }
}

/// What is wrong with a field, as its reader says it.
pub(crate) trait Fault {
    /// The same of the field at this pointer.
    fn at(self, pointer: String) -> FieldError;
}

impl Fault for String {
    fn at(self, pointer: String) -> FieldError {
        FieldError::at(pointer, shorten(&self, 500))
    }
}

impl Fault for FieldError {
    fn at(self, pointer: String) -> FieldError {
        self.below(&pointer)
    }
}

/// The known fields of one object.
pub(crate) struct Fields<'t> {
    pointer: String,
    members: Vec<(&'static str, &'t RawValue)>,
}

impl<'t> Fields<'t> {
    /// Reads an object; unknown fields and fields given twice are errors.
    fn read(
        raw: &'t RawValue,
        pointer: &str,
        known: &[&'static str],
        errors: &mut Vec<FieldError>,
    ) -> Option<Self> {
        // The text has parsed as JSON before, so it can only fail here by not being an object, or
        // by a key that is not Unicode.
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
        let mut members: Vec<(&'static str, &'t RawValue)> =
            Vec::with_capacity(given.len().min(known.len()));
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
        Some(Self { pointer: pointer.to_owned(), members })
    }

    /// The text of one field, if it is there.
    pub(crate) fn get(&self, name: &str) -> Option<&'t RawValue> {
        self.members.iter().find(|(field, _)| *field == name).map(|(_, value)| *value)
    }

    /// Reads one field. One that is wrong counts as absent, so that the others are read too.
    pub(crate) fn read_field<T, F: Field<T>, E: Fault>(
        &self,
        name: &str,
        errors: &mut Vec<FieldError>,
        read: impl FnOnce(&'t str) -> Result<T, E>,
    ) -> Option<F> {
        let pointer = || join(&self.pointer, name);
        let given = self.get(name).map(RawValue::get).filter(|raw| *raw != "null");
        match given.map(read) {
            Some(Ok(value)) => return Some(F::given(value)),
            Some(Err(fault)) => errors.push(fault.at(pointer())),
            None if F::absent().is_some() => {}
            None => errors.push(FieldError::at(pointer(), "is required")),
        }
        F::absent()
    }
}

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

/// `true`, and nothing else: that every one is meant.
pub(crate) struct True;

impl PartialSchema for True {
    fn schema() -> RefOr<Schema> {
        let only_true = ObjectBuilder::new().schema_type(Type::Boolean).enum_values(Some([true]));
        only_true.description(Some("Every one.")).into()
    }
}

impl ToSchema for True {}

/// Reads it.
pub(crate) fn only_true(raw: &str) -> Result<bool, String> {
    match raw {
        "true" => Ok(true),
        _ => Err("must be true".to_owned()),
    }
}

/// Reads a string that is an id, a name or the like.
pub(crate) fn parsed<T: FromStr<Err: ToString>>(raw: &str) -> Result<T, String> {
    let text: String = serde_json::from_str(raw).map_err(|_| "must be a string".to_owned())?;
    text.parse().map_err(|error: T::Err| error.to_string())
}

/// Reads a value of a type that JSON has, or says the rule that it breaks.
pub(crate) fn typed<T: DeserializeOwned>(rule: &str) -> impl FnOnce(&str) -> Result<T, String> {
    move |raw| serde_json::from_str(raw).map_err(|_| rule.to_owned())
}

/// Reads `true` or `false`.
pub(crate) fn flag(raw: &str) -> Result<bool, String> {
    typed("must be true or false")(raw)
}

/// Reads a whole number in a range.
pub(crate) fn whole<T>(min: T, max: T) -> impl FnOnce(&str) -> Result<T, String>
where
    T: DeserializeOwned + PartialOrd + Display,
{
    move |raw| {
        let number = serde_json::from_str(raw).ok();
        let number = number.filter(|number| (&min..=&max).contains(&number));
        number.ok_or_else(|| format!("must be a whole number from {min} to {max}"))
    }
}

/// Reads an array of at most `max` ids, names or the like; one alone may stand for itself.
pub(crate) fn several<T: FromStr<Err: ToString>>(
    max: usize,
) -> impl FnOnce(&str) -> Result<Vec<T>, String> {
    move |raw| {
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
}

/// Reads a time.
pub(crate) fn time(raw: &str) -> Result<Timestamp, String> {
    parsed(raw)
        .map_err(|_| "must be a time in RFC 3339, such as \"2030-01-31T08:00:00Z\"".to_owned())
}

/// Reads a duration, text for people or a number of seconds, rounded down to the microseconds that
/// the store keeps.
pub(crate) fn duration(
    max: Duration,
    max_text: &str,
) -> impl FnOnce(&str) -> Result<Duration, String> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Given {
        Seconds(f64),
        Text(String),
    }
    move |raw| {
        let given = match serde_json::from_str::<Given>(raw) {
            Ok(Given::Seconds(seconds)) => Duration::try_from_secs_f64(seconds).ok(),
            Ok(Given::Text(text)) => humantime::parse_duration(&text).ok(),
            Err(_) => None,
        };
        let given = given.ok_or(
            "must be a duration such as \"500ms\", \"30s\" or \"2h\", or a number of seconds",
        )?;
        if given > max {
            return Err(format!("must be at most {max_text}"));
        }
        let micros = u64::try_from(given.as_micros()).unwrap_or(u64::MAX);
        Ok(Duration::from_micros(micros))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_text_or_seconds() {
        let read = |raw: &str| duration(Duration::from_secs(60), "1 minute")(raw);
        assert_eq!(read("\"1500ms\""), Ok(Duration::from_millis(1500)));
        assert_eq!(read("0.25"), Ok(Duration::from_millis(250)));
        assert_eq!(read("60"), Ok(Duration::from_secs(60)));
        for bad in ["-1", "61", "1e300", "\"soon\"", "true", "[]", "\"\""] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }
}
