//! Reading JSON text strictly, and without rewriting it.
//!
//! A client's input is kept as the text that came, so numbers of any length and the order of keys
//! survive. What makes two readers understand one text differently is refused: a key given twice, a
//! string that is not Unicode, a number beyond every range. Otherwise the schema could be checked
//! against one reading and the handler be given another.

use std::{borrow::Cow, fmt, str};

use serde::{
    Deserialize, Deserializer,
    de::{DeserializeOwned, DeserializeSeed, Error as _, MapAccess, SeqAccess, Visitor},
};
use serde_json::{Map, Number, Value, value::RawValue};
use serde_path_to_error::Segment;

use taskforge_domain::json::{MAX_DEPTH, too_deep};
pub(crate) use taskforge_schema::text::{join, shorten};

use crate::{FieldError, Problem, ProblemKind};

/// Checks that a text is JSON that every reader takes.
///
/// # Errors
/// Says of the text that it is not UTF-8, empty, nested too deeply, or not valid, and where.
pub(crate) fn checked(text: &[u8]) -> Result<&RawValue, String> {
    let text = str::from_utf8(text).map_err(|error| {
        let at = error.valid_up_to();
        format!("is not UTF-8: byte {at} is not part of a character")
    })?;
    if text.trim_ascii().is_empty() {
        return Err("is empty; it must be a JSON object".to_owned());
    }
    if let Some(at) = too_deep(text) {
        let (line, column) = position(text, at);
        return Err(format!("nests deeper than {MAX_DEPTH} levels at line {line} column {column}"));
    }
    // The parser's text carries line and column, and nothing of ours.
    serde_json::from_str(text).map_err(|error| format!("is not valid JSON: {error}"))
}

/// The same of a body.
pub(crate) fn raw(body: &[u8]) -> Result<&RawValue, Problem> {
    checked(body)
        .map_err(|rule| Problem::new(ProblemKind::MalformedBody, format!("The body {rule}.")))
}

fn position(text: &str, at: usize) -> (usize, usize) {
    let before = &text.as_bytes()[..at];
    let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
    let column = before.iter().rev().take_while(|byte| **byte != b'\n').count() + 1;
    (line, column)
}

/// The members of one JSON object, in the order given, each value still as text.
#[derive(Debug)]
pub(crate) struct Members<'t>(pub(crate) Vec<(Cow<'t, str>, &'t RawValue)>);

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Pairs;
        impl<'de> Visitor<'de> for Pairs {
            type Value = Members<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some(Key(key)) = map.next_key()? {
                    members.push((key, map.next_value()?));
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(Pairs)
    }
}

/// A key, borrowed from the text unless it is written with escapes.
#[derive(Deserialize)]
struct Key<'t>(#[serde(borrow)] Cow<'t, str>);

/// Parses text that the grammar has passed into a tree.
///
/// # Errors
/// When readers would not agree on it: a key given twice, a lone surrogate, a number out of range.
/// The text says what and where.
pub(crate) fn tree(text: &str) -> Result<Value, serde_json::Error> {
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let value = Strict.deserialize(&mut deserializer)?;
    deserializer.end()?;
    Ok(value)
}

/// Builds a tree and refuses a key given twice.
#[derive(Clone, Copy)]
struct Strict;

impl<'de> DeserializeSeed<'de> for Strict {
    type Value = Value;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Value, E> {
        Number::from_f64(value).map(Value::Number).ok_or_else(|| E::custom("number out of range"))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element_seed(self)? {
            items.push(item);
        }
        Ok(Value::Array(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut members = Map::new();
        while let Some(key) = map.next_key::<String>()? {
            let value = map.next_value_seed(self)?;
            if members.contains_key(&key) {
                return Err(A::Error::custom(format_args!(
                    "the key {:?} is given twice",
                    shorten(&key, 100)
                )));
            }
            members.insert(key, value);
        }
        Ok(Value::Object(members))
    }
}

/// Reads a value that stands at a pointer, strictly; what is wrong in it is named by its own
/// pointer.
pub(crate) fn strict<T: DeserializeOwned>(text: &str, pointer: &str) -> Result<T, FieldError> {
    // First: a key given twice could hide the other value.
    tree(text).map_err(|error| FieldError::at(pointer, error.to_string()))?;
    let mut json = serde_json::Deserializer::from_str(text);
    serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let place = error.path().iter().fold(pointer.to_owned(), |place, segment| match segment {
            Segment::Map { key } => join(&place, key),
            Segment::Seq { index } => join(&place, &index.to_string()),
            Segment::Enum { .. } | Segment::Unknown => place,
        });
        // It may quote a name of the client's.
        FieldError::at(place, shorten(&error.inner().to_string(), 500))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn depth_counts_brackets_outside_strings_only() {
        let nested = |levels: usize| format!("{}{}", "[".repeat(levels), "]".repeat(levels));
        assert!(checked(nested(MAX_DEPTH).as_bytes()).is_ok());
        let rule = checked(nested(MAX_DEPTH + 1).as_bytes()).unwrap_err();
        assert!(rule.contains("line 1 column 101"), "{rule}");
        let quoted = format!(r#"{{"a":"\"{}"}}"#, "[".repeat(1000));
        assert!(checked(quoted.as_bytes()).is_ok());
    }

    #[test]
    fn what_readers_would_not_agree_on_is_refused() {
        for (bad, word) in [
            (r#"{"n":1,"n":2}"#, "twice"),
            (r#"[{"a":{"b":1,"b":1}}]"#, "twice"),
            ("1e999", "range"),
            (r#""\ud800""#, "hex escape"),
        ] {
            let error = tree(bad).unwrap_err().to_string();
            assert!(error.contains(word), "{bad}: {error}");
        }
        assert_eq!(
            tree(r#"{"a":[1,-2,0.5,"x",null,true]}"#).unwrap(),
            serde_json::json!({"a":[1,-2,0.5,"x",null,true]})
        );
    }

    #[test]
    fn pointers_escape_their_tokens() {
        assert_eq!(join("/input", "a/b~c"), "/input/a~1b~0c");
    }
}
