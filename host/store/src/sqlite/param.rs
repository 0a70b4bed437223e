//! Domain types into statement parameters.

use std::borrow::Borrow;

use serde::{Serialize, Serializer, ser::Error as _};
use taskforge_domain::Timestamp;
use uuid::Uuid;

pub(super) use crate::param::{count, millis, text, time, time_after, time_before};

/// One row of a batch, or a list, as a JSON array. It is built by the caller that wants it written,
/// so that the one writer has nothing left to do but run the statement.
pub(super) fn json(row: &impl Serialize) -> String {
    // Text, numbers and bytes can always be written.
    serde_json::to_string(row).unwrap_or_default()
}

/// Bytes as hexadecimal text for `unhex`, because JSON has no bytes.
pub(super) struct Hex<'a>(pub(super) &'a [u8]);

/// An id or a digest needs no text on the heap.
const SHORT: usize = 32;

impl Serialize for Hex<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.0.len() > SHORT {
            return serializer.serialize_str(&hex::encode(self.0));
        }
        let mut digits = [0; 2 * SHORT];
        let digits = &mut digits[..2 * self.0.len()];
        hex::encode_to_slice(self.0, digits).map_err(S::Error::custom)?;
        serializer.serialize_str(str::from_utf8(digits).map_err(S::Error::custom)?)
    }
}

/// An id for `unhex`.
pub(super) fn id(id: &Uuid) -> Hex<'_> {
    Hex(id.as_bytes())
}

/// The statements that many rows take: JSON arrays of at most this much text, unless one row alone
/// is longer. SQLite refuses a value over 1 GB, and holds a parameter several times while it works
/// on it.
const PARAMETER_BYTES: usize = 8 << 20;

/// Joins rows into JSON arrays.
pub(super) fn arrays(rows: impl IntoIterator<Item = impl Borrow<str>>) -> Vec<String> {
    let mut arrays = Vec::new();
    let mut array = String::new();
    for row in rows {
        let row: &str = row.borrow();
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

/// A time as the database keeps it.
pub(super) fn rounded(time: Timestamp) -> Timestamp {
    Timestamp::from_microsecond(time.as_microsecond()).unwrap_or(time)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_of_any_length_travel_as_hexadecimal_digits() {
        let long = [0xab; SHORT + 1];
        for bytes in [&[][..], &[0, 0xab], &long[..SHORT], &long] {
            assert_eq!(json(&(Hex(bytes), 1)), format!("[\"{}\",1]", hex::encode(bytes)));
        }
    }

    #[test]
    fn a_large_batch_is_cut_between_rows() {
        let row = format!("[{}]", "1".repeat(PARAMETER_BYTES / 3));
        let arrays = arrays(std::iter::repeat_n(row.as_str(), 7));
        assert_eq!(arrays.len(), 4);
        assert!(arrays.iter().all(|array| array.len() <= PARAMETER_BYTES + 2
            && array.starts_with("[[")
            && array.ends_with("]]")));
        assert!(super::arrays(std::iter::empty::<&str>()).is_empty());
    }
}
