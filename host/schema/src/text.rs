//! Pointers and texts that strangers made up, kept short.

use std::borrow::Cow;

/// At most `max` characters of a text that a stranger made up.
#[must_use]
pub fn shorten(text: &str, max: usize) -> Cow<'_, str> {
    match text.char_indices().nth(max) {
        None => Cow::Borrowed(text),
        Some((end, _)) => Cow::Owned(format!("{}…", &text[..end])),
    }
}

/// Appends a member's name or an index to a JSON pointer (RFC 6901).
#[must_use]
pub fn join(pointer: &str, token: &str) -> String {
    format!("{pointer}/{}", shorten(token, 100).replace('~', "~0").replace('/', "~1"))
}
