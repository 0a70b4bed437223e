//! Header fields: folded, and encoded wherever a reader would take them for something else.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use lettre::message::header::{HeaderName, HeaderValue, Headers};

use super::{MailError, address::Mailbox};

/// Where a line is folded, in characters (RFC 5322, 2.1.1), and the longest word that is left
/// whole; lines may have 998.
const FOLD: usize = 76;
const LONGEST_WORD: usize = 900;

/// The longest value of a header of the handler's own, and how many there may be.
const MAX_VALUE: usize = 10_000;
const MAX_HEADERS: usize = 50;

/// Bytes in one encoded word: with all around it, it fits into a line (RFC 2047, 2).
const ENCODED: usize = 39;

/// Fields that the rest of the message decides, or the host, or the servers on the way.
const RESERVED: [&str; 15] = [
    "from",
    "sender",
    "to",
    "cc",
    "bcc",
    "reply-to",
    "subject",
    "date",
    "message-id",
    "mime-version",
    "return-path",
    "received",
    "dkim-signature",
    "delivered-to",
    "x-original-to",
];
const RESERVED_FAMILIES: [&str; 3] = ["content-", "resent-", "arc-"];

/// A line break in what becomes a header would start another header.
pub(super) fn one_line(field: &str, text: &str) -> Result<(), MailError> {
    if text.chars().any(|c| c.is_control() || matches!(c, '\u{2028}' | '\u{2029}')) {
        return Err(MailError::invalid(format!(
            "{field} contains a line break or another control character"
        )));
    }
    Ok(())
}

/// Sets a field that is free text.
pub(super) fn set_text(headers: &mut Headers, name: &'static str, text: &str) {
    set(headers, HeaderName::new_from_ascii_str(name), unstructured(name, text));
}

/// Sets a field that lists addresses; none of them, no field.
pub(super) fn set_mailboxes(headers: &mut Headers, name: &'static str, list: &[&Mailbox]) {
    if !list.is_empty() {
        let list: Vec<String> = list.iter().map(|mailbox| written(mailbox)).collect();
        set(headers, HeaderName::new_from_ascii_str(name), list.join(",\r\n "));
    }
}

/// Sets the handler's own fields.
pub(super) fn set_own(headers: &mut Headers, own: &[(String, String)]) -> Result<(), MailError> {
    if own.len() > MAX_HEADERS {
        let count = own.len();
        let text = format!("the message has {count} headers of its own; {MAX_HEADERS} are allowed");
        return Err(MailError::invalid(text));
    }
    let mut seen: Vec<String> = Vec::new();
    for (name, value) in own {
        let shown = crate::log::cut(name, 100);
        let refuse = |why: &str| Err(MailError::invalid(format!("header {shown:?}: {why}")));
        one_line(&format!("header {shown:?}"), value)?;
        let lower = name.to_ascii_lowercase();
        let is_token = |b: u8| b.is_ascii_graphic() && b != b':';
        if name.is_empty() || name.len() > 76 || !name.bytes().all(is_token) {
            return refuse("a name is up to 76 letters, digits and signs other than a colon");
        }
        let family = RESERVED_FAMILIES.iter().any(|family| lower.starts_with(family));
        if family || RESERVED.contains(&lower.as_str()) {
            return refuse("this header is not the handler's to write");
        }
        if seen.contains(&lower) {
            return refuse("it is there twice");
        }
        if value.len() > MAX_VALUE {
            return refuse("it is longer than 10,000 bytes");
        }
        let value = unstructured(name, value);
        match HeaderName::new_from_ascii(name.clone()) {
            Ok(name) => set(headers, name, value),
            Err(_) => return refuse("this is not the name of a header"),
        }
        seen.push(lower);
    }
    Ok(())
}

fn set(headers: &mut Headers, name: HeaderName, encoded: String) {
    let value = HeaderValue::dangerous_new_pre_encoded(name, encoded.clone(), encoded);
    headers.insert_raw(value);
}

/// Free text as it goes over the wire. What looks like an encoded word is one to every reader
/// (RFC 2047, 2), so it is encoded itself.
fn unstructured(name: &str, text: &str) -> String {
    let long = text.split(' ').any(|word| word.len() > LONGEST_WORD);
    if !text.is_ascii() || text.contains("=?") || long {
        return encoded_words(text);
    }
    let mut folded = String::new();
    let mut line = name.len() + 2;
    for (index, word) in text.split(' ').enumerate() {
        if index > 0 {
            // A line of blanks alone would end the header for some readers.
            if line + word.len() >= FOLD && !word.is_empty() && !folded.trim().is_empty() {
                folded.push_str("\r\n");
                line = 0;
            }
            folded.push(' ');
            line += 1;
        }
        folded.push_str(word);
        line += word.len();
    }
    folded
}

/// RFC 2047, in base64; characters are not split.
fn encoded_words(text: &str) -> String {
    let mut words = Vec::new();
    let mut word = String::new();
    for c in text.chars() {
        if word.len() + c.len_utf8() > ENCODED {
            words.push(std::mem::take(&mut word));
        }
        word.push(c);
    }
    words.push(word);
    let words = words.iter().map(|word| format!("=?utf-8?b?{}?=", STANDARD.encode(word)));
    words.collect::<Vec<_>>().join("\r\n ")
}

fn written(mailbox: &Mailbox) -> String {
    let address = mailbox.address();
    let Some(name) = &mailbox.name else {
        return address;
    };
    let name = if !name.is_ascii() || name.contains("=?") || name.len() > FOLD / 2 {
        encoded_words(name)
    } else if name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b' ') {
        name.clone()
    } else {
        format!("\"{}\"", name.replace('\\', "\\\\").replace('"', "\\\""))
    };
    format!("{name} <{address}>")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_looks_like_an_encoded_word_is_encoded() {
        let text = "=?utf-8?q?Hi=0D=0ABcc:_x@example.com?=";
        let encoded = unstructured("Subject", text);
        assert!(!encoded.contains("Bcc") && encoded.starts_with("=?utf-8?b?"), "{encoded}");
        let mailbox = Mailbox::parse("to", "\"=?utf-8?q?x?=\" <a@example.com>").unwrap();
        assert!(written(&mailbox).starts_with("=?utf-8?b?"));
    }

    #[test]
    fn no_line_is_too_long_and_none_is_blank() {
        for text in ["word ".repeat(500), "x".repeat(5000), "ä".repeat(500), " ".repeat(500)] {
            let folded = format!("Subject: {}", unstructured("Subject", &text));
            for line in folded.split("\r\n") {
                let blank = line.trim().is_empty();
                assert!(line.len() < 998 && !blank, "{} {line:?}", line.len());
            }
        }
        assert_eq!(unstructured("Subject", "as it is"), "as it is");
    }

    #[test]
    fn own_headers_are_checked_by_name() {
        let set = |name: &str, value: &str| {
            let mut headers = Headers::new();
            set_own(&mut headers, &[(name.to_owned(), value.to_owned())])?;
            Ok::<_, MailError>(headers.to_string())
        };
        let unsubscribe =
            set("List-Unsubscribe", "<mailto:u@example.com>, <https://example.com/u>");
        assert_eq!(
            unsubscribe.unwrap(),
            "List-Unsubscribe: <mailto:u@example.com>, <https://example.com/u>\r\n"
        );
        for (name, value) in [
            ("Bcc", "x@example.com"),
            ("content-TYPE", "text/html"),
            ("Resent-To", "x"),
            ("a:b", "x"),
            ("a b", "x"),
            ("", "x"),
            ("X-ä", "x"),
            ("X-A", "x\r\nBcc: y"),
            ("X-A", "x\ry"),
            ("X-A", "\0"),
        ] {
            assert_eq!(
                set(name, value).unwrap_err().kind,
                crate::mailer::MailErrorKind::Invalid,
                "{name}"
            );
        }
    }
}
