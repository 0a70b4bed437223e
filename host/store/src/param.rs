//! Domain types into numbers and text, as every database keeps them.

use std::{borrow::Cow, time::Duration};

use taskforge_domain::Timestamp;

/// Times are stored in microseconds since the Unix epoch.
pub(crate) fn time(time: Timestamp) -> i64 {
    time.as_microsecond()
}

/// `duration` before a time, no further than the column goes.
pub(crate) fn time_before(now: Timestamp, duration: Duration) -> i64 {
    time(now).saturating_sub(micros(duration))
}

/// `duration` after a time, no further than the column goes.
pub(crate) fn time_after(now: Timestamp, duration: Duration) -> i64 {
    time(now).saturating_add(micros(duration))
}

fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

pub(crate) fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

/// A number that does not fit is stored as the largest that does.
pub(crate) fn count(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// Text that a database can hold: U+0000, which PostgreSQL refuses and SQLite takes for the end, is
/// replaced by U+FFFD. It is only ever found in what a guest said, never in JSON text.
pub(crate) fn text(value: &str) -> Cow<'_, str> {
    if value.contains('\0') {
        Cow::Owned(value.replace('\0', "\u{fffd}"))
    } else {
        Cow::Borrowed(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nul_becomes_a_replacement_character() {
        assert_eq!(text("a\0b"), "a\u{fffd}b");
    }
}
