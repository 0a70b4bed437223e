//! Text of strangers, made safe to look at.
//!
//! A terminal obeys control characters, and a reader is fooled by characters that show nothing or
//! turn the direction of writing around. Whatever people read (tables, log lines, errors) goes
//! through here; programs get the same escapes inside JSON strings, where they mean the same text.

use std::borrow::Cow;

/// Whether a character acts on a terminal or hides from a reader: control characters (C0 and C1),
/// line and paragraph separators, bidirectional controls, characters without width, tags and
/// invisible operators, and the supplementary variation selectors, which can carry hidden text.
#[must_use]
pub const fn is_hidden(character: char) -> bool {
    matches!(
        character,
        '\0'..='\u{1f}'
            | '\u{7f}'..='\u{9f}'
            | '\u{ad}'
            | '\u{34f}'
            | '\u{61c}'
            | '\u{115f}'..='\u{1160}'
            | '\u{17b4}'..='\u{17b5}'
            | '\u{180b}'..='\u{180f}'
            | '\u{200b}'..='\u{200f}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}'
            | '\u{3164}'
            | '\u{feff}'
            | '\u{ffa0}'
            | '\u{fff0}'..='\u{fffb}'
            | '\u{1bca0}'..='\u{1bca3}'
            | '\u{1d173}'..='\u{1d17a}'
            | '\u{e0000}'..='\u{e0fff}'
    )
}

/// The text with every hidden character but line feed and tab written as JSON writes it:
/// `\u001b`, `\u202e`, and a surrogate pair beyond U+FFFF. For text that may have several lines.
///
/// In JSON text hidden characters occur inside strings only, so there the result is the same JSON.
#[must_use]
pub fn visible(text: &str) -> Cow<'_, str> {
    escape(text, |character| is_hidden(character) && !matches!(character, '\n' | '\t'))
}

/// [`visible`] on one line: line feeds and tabs are written as `\n` and `\t`. For text that must
/// not pass for a line of its own.
#[must_use]
pub fn one_line(text: &str) -> Cow<'_, str> {
    escape(text, is_hidden)
}

fn escape(text: &str, must_escape: impl Fn(char) -> bool) -> Cow<'_, str> {
    // Nearly all text is printable ASCII.
    let Some(first) = text.find(&must_escape) else {
        return Cow::Borrowed(text);
    };
    let (clean, rest) = text.split_at(first);
    let mut escaped = String::with_capacity(text.len() + 16);
    escaped.push_str(clean);
    for character in rest.chars() {
        match character {
            plain if !must_escape(plain) => escaped.push(plain),
            '\n' => escaped.push_str("\\n"),
            '\t' => escaped.push_str("\\t"),
            '\r' => escaped.push_str("\\r"),
            hidden => {
                for unit in hidden.encode_utf16(&mut [0; 2]) {
                    escaped.push_str(&format!("\\u{unit:04x}"));
                }
            }
        }
    }
    Cow::Owned(escaped)
}

#[cfg(test)]
mod tests {
    use super::*;

    const WILD: &str =
        "a\u{1b}[31m\r\u{9b}2J\u{7f}\u{202e}\u{2066}\u{2028}\u{200b}\u{61c}\u{e0041}\u{feff}z";

    #[test]
    fn nothing_hidden_is_left() {
        for text in [visible(WILD), one_line(WILD)] {
            assert!(!text.contains(is_hidden), "{text:?}");
            assert!(text.starts_with("a\\u001b[31m\\r\\u009b2J\\u007f\\u202e"), "{text}");
            assert!(text.contains("\\udb40\\udc41"), "{text}");
        }
    }

    #[test]
    fn lines_stay_lines_only_where_they_may() {
        assert_eq!(visible("a\n\tb\r"), "a\n\tb\\r");
        assert_eq!(one_line("a\n\tb"), "a\\n\\tb");
    }

    #[test]
    fn ordinary_text_of_any_script_is_left_alone() {
        for text in ["plain", "Grüße 日本 مرحبا שלום 🦀 ❤️", ""] {
            assert!(matches!(visible(text), Cow::Borrowed(same) if same == text));
        }
    }

    #[test]
    fn json_text_stays_the_same_json() {
        let value = serde_json::json!({ WILD: [WILD, "\u{e007f}\n"] });
        let pretty = format!("{value:#}");
        let shown = visible(&pretty);
        assert!(!shown.contains(|c| is_hidden(c) && c != '\n'), "{shown:?}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&shown).unwrap(), value);
    }
}
