//! Domain types into statement parameters.

use std::{fmt::Write, time::Duration};

use taskforge_domain::{TaskId, Timestamp, VersionId, WorkerId};
use uuid::Uuid;

/// One row of a batch, as the text of a JSON array. It is built by the caller that wants it
/// written, so that the one writer has nothing left to do but run the statement.
///
/// Ids travel as hexadecimal text for `unhex`, because JSON has no bytes.
pub(super) struct RowText(String);

impl RowText {
    pub(super) fn new() -> Self {
        let mut text = String::with_capacity(192);
        text.push('[');
        Self(text)
    }

    fn separate(&mut self) {
        if self.0.len() > 1 {
            self.0.push(',');
        }
    }

    pub(super) fn int(mut self, value: i64) -> Self {
        self.separate();
        // Writing to a String cannot fail.
        write!(self.0, "{value}").ok();
        self
    }

    pub(super) fn optional_int(self, value: Option<i64>) -> Self {
        match value {
            Some(value) => self.int(value),
            None => self.null(),
        }
    }

    /// A number that does not fit is stored as the largest that does.
    pub(super) fn count(self, value: u64) -> Self {
        self.int(count(value))
    }

    pub(super) fn real(mut self, value: f64) -> Self {
        self.separate();
        // `{:?}` always has a point or an exponent, which keeps it a real. JSON has no infinities
        // and no NaN.
        if value.is_finite() {
            write!(self.0, "{value:?}").ok();
        } else {
            self.0.push_str("null");
        }
        self
    }

    pub(super) fn text(mut self, value: &str) -> Self {
        self.separate();
        push_json_text(&mut self.0, value);
        self
    }

    pub(super) fn optional_text(self, value: Option<&str>) -> Self {
        match value {
            Some(value) => self.text(value),
            None => self.null(),
        }
    }

    pub(super) fn id(self, id: &Uuid) -> Self {
        self.hex(id.as_bytes())
    }

    pub(super) fn hex(mut self, bytes: &[u8]) -> Self {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        self.separate();
        self.0.push('"');
        for byte in bytes {
            self.0.push(char::from(DIGITS[usize::from(byte >> 4)]));
            self.0.push(char::from(DIGITS[usize::from(byte & 15)]));
        }
        self.0.push('"');
        self
    }

    pub(super) fn null(mut self) -> Self {
        self.separate();
        self.0.push_str("null");
        self
    }

    pub(super) fn finish(mut self) -> String {
        self.0.push(']');
        self.0
    }
}

/// Appends a JSON string. U+0000 would end the text in the database, which takes it for a
/// terminator, so it is replaced by U+FFFD; it is only ever found in what a guest said, never in
/// JSON text.
fn push_json_text(out: &mut String, value: &str) {
    out.push('"');
    let mut plain = 0;
    for (at, byte) in value.bytes().enumerate() {
        let escape: &str = match byte {
            b'"' => "\\\"",
            b'\\' => "\\\\",
            b'\n' => "\\n",
            b'\r' => "\\r",
            b'\t' => "\\t",
            0 => "\u{fffd}",
            1..=0x1f => "",
            _ => continue,
        };
        out.push_str(&value[plain..at]);
        plain = at + 1;
        if escape.is_empty() {
            write!(out, "\\u{byte:04x}").ok();
        } else {
            out.push_str(escape);
        }
    }
    out.push_str(&value[plain..]);
    out.push('"');
}

/// The statements that many rows take: JSON arrays of at most this much text, unless one row alone
/// is longer. SQLite refuses a value over 1 GB, and holds a parameter several times while it works
/// on it.
const PARAMETER_BYTES: usize = 8 << 20;

/// Joins rows into JSON arrays.
pub(super) fn arrays<'a>(rows: impl IntoIterator<Item = &'a str>) -> Vec<String> {
    let mut arrays = Vec::new();
    let mut array = String::new();
    for row in rows {
        if !array.is_empty() && array.len() + row.len() > PARAMETER_BYTES {
            array.push(']');
            arrays.push(std::mem::take(&mut array));
        }
        array.push(if array.is_empty() { '[' } else { ',' });
        array.push_str(row);
    }
    if !array.is_empty() {
        array.push(']');
        arrays.push(array);
    }
    arrays
}

/// A JSON array of ids.
pub(super) fn id_array<'a>(ids: impl IntoIterator<Item = &'a TaskId>) -> String {
    ids.into_iter().fold(RowText::new(), |row, id| row.id(id.as_uuid())).finish()
}

/// The same of versions.
pub(super) fn version_array(ids: &[VersionId]) -> String {
    ids.iter().fold(RowText::new(), |row, id| row.id(id.as_uuid())).finish()
}

/// A JSON array of words.
pub(super) fn word_array<'a>(words: impl IntoIterator<Item = &'a str>) -> String {
    words.into_iter().fold(RowText::new(), RowText::text).finish()
}

pub(super) fn task_id(id: TaskId) -> Vec<u8> {
    id.as_uuid().as_bytes().to_vec()
}

pub(super) fn worker_id(id: WorkerId) -> Vec<u8> {
    id.as_uuid().as_bytes().to_vec()
}

pub(super) fn version_id(id: VersionId) -> Vec<u8> {
    id.as_uuid().as_bytes().to_vec()
}

/// A number that does not fit is stored as the largest that does.
pub(super) fn count(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// Text as a row's text is kept: without U+0000.
pub(super) fn text(value: &str) -> String {
    value.replace('\0', "\u{fffd}")
}

/// Microseconds since the Unix epoch.
pub(super) fn time(time: Timestamp) -> i64 {
    time.as_microsecond()
}

pub(super) fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

/// `now - timeout`, in microseconds since the Unix epoch.
pub(super) fn time_before(now: Timestamp, timeout: Duration) -> i64 {
    time(now).saturating_sub(i64::try_from(timeout.as_micros()).unwrap_or(i64::MAX))
}

/// `now + ttl`, in microseconds since the Unix epoch.
pub(super) fn time_after(now: Timestamp, ttl: Duration) -> i64 {
    time(now).saturating_add(i64::try_from(ttl.as_micros()).unwrap_or(i64::MAX))
}

/// A time as the database keeps it.
pub(super) fn rounded(time: Timestamp) -> Timestamp {
    Timestamp::from_microsecond(time.as_microsecond()).unwrap_or(time)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_the_json_that_serde_would_write() {
        let text = "plain \"quoted\" back\\slash\nline\ttab\r\u{1}\u{1f}\u{7f} äß 🦀";
        let row = RowText::new()
            .int(-5)
            .text(text)
            .null()
            .real(0.5)
            .optional_text(Some(""))
            .hex(&[0, 0xab])
            .finish();
        let value: serde_json::Value = serde_json::from_str(&row).unwrap();
        assert_eq!(value, serde_json::json!([-5, text, null, 0.5, "", "00ab"]));
    }

    #[test]
    fn a_nul_becomes_a_replacement_character() {
        assert_eq!(RowText::new().text("a\0b").finish(), "[\"a\u{fffd}b\"]");
    }

    #[test]
    fn a_large_batch_is_cut_between_rows() {
        let row = format!("[{}]", "1".repeat(PARAMETER_BYTES / 3));
        let arrays = arrays(std::iter::repeat_n(row.as_str(), 7));
        assert_eq!(arrays.len(), 4);
        assert!(arrays.iter().all(|array| array.len() <= PARAMETER_BYTES + 2
            && array.starts_with("[[")
            && array.ends_with("]]")));
        assert!(super::arrays([]).is_empty());
    }
}
