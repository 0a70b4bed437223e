//! User and password of an address: sent, and never shown. Path and query: sent as they are given.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use percent_encoding::{AsciiSet, CONTROLS, percent_decode_str, utf8_percent_encode};
use url::{Position, Url};

/// What stands in no request's target. Where the standard of the web encodes more, as it does with
/// braces, most servers understand both, and signatures one only.
const NEVER: &AsciiSet = &CONTROLS.add(b' ').add(b'<').add(b'>').add(b'`').add(b'#');

/// What stands in no query: hosts take a quotation mark in a path and refuse it here.
const NEVER_IN_QUERY: &AsciiSet = &NEVER.add(b'"');

/// Path and query of an address as it is written. `None`: it is written in a way that only the
/// rules of browsers can read.
pub(super) fn target(address: &str) -> Option<String> {
    if address.contains(['\t', '\r', '\n']) {
        return None;
    }
    let address = address.trim_matches(|c: char| c <= ' ');
    let (scheme, rest) = address.split_once("://")?;
    let is_web = ["http", "https"].iter().any(|web| scheme.eq_ignore_ascii_case(web));
    let rest = rest.split('#').next().filter(|rest| is_web && !rest.starts_with(['/', '\\']))?;
    let end = rest.find(['/', '?', '\\']).unwrap_or(rest.len());
    let (path, query) = rest[end..].split_at(rest[end..].find('?').unwrap_or(rest.len() - end));
    let target = format!(
        "{}{}",
        utf8_percent_encode(path, NEVER),
        utf8_percent_encode(query, NEVER_IN_QUERY)
    );
    match target.chars().next() {
        Some('/') => Some(target),
        Some('?') => Some(format!("/{target}")),
        Some(_) => None,
        None => Some("/".to_owned()),
    }
}

/// Path and query as the rules of browsers have them.
pub(super) fn normal_target(url: &Url) -> String {
    url[Position::BeforePath..Position::AfterQuery].to_owned()
}

/// The value of an `Authorization` header for Basic authentication (RFC 7617), in UTF-8.
#[must_use]
pub fn basic_credentials(user: &str, password: &str) -> String {
    basic(user.as_bytes(), password.as_bytes())
}

fn basic(user: &[u8], password: &[u8]) -> String {
    let pair = [user, b":", password].concat();
    format!("Basic {}", STANDARD.encode(pair))
}

/// Cuts user and password out of an address, as the value of an `Authorization` header.
pub fn take_credentials(url: &mut Url) -> Option<String> {
    if url.username().is_empty() && url.password().is_none() {
        return None;
    }
    let decoded = |text: &str| percent_decode_str(text).collect::<Vec<u8>>();
    let header = basic(&decoded(url.username()), &decoded(url.password().unwrap_or_default()));
    // Addresses that have them are ones where they can be removed.
    url.set_username("").ok()?;
    url.set_password(None).ok()?;
    Some(header)
}

/// An address without user and password, for messages. Where it cannot be read as an address,
/// everything before its last `@` is taken for them.
#[must_use]
pub fn without_credentials(address: &str) -> String {
    if let Ok(mut url) = Url::parse(address)
        && url.has_host()
    {
        if take_credentials(&mut url).is_some() {
            return url.into();
        }
        return address.to_owned();
    }
    let Some(at) = address.rfind('@') else {
        return address.to_owned();
    };
    let scheme = address[..at].find("//").map_or("", |slashes| &address[..slashes + 2]);
    format!("{scheme}…{}", &address[at..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_shown_without_user_and_password() {
        for (address, shown) in [
            ("https://ann:secret@example.com/a", "https://example.com/a"),
            ("https://secret@example.com", "https://example.com/"),
            ("https://example.com/@ann", "https://example.com/@ann"),
            ("http://ann:sec/ret@example.com", "http://…@example.com"),
            ("ann:secret@example.com", "…@example.com"),
            ("nothing", "nothing"),
        ] {
            assert_eq!(without_credentials(address), shown);
        }
    }

    #[test]
    fn path_and_query_are_sent_as_they_are_written() {
        for (address, sent) in [
            ("https://example.com/a/../b", "/a/../b"),
            ("https://ann:secret@example.com/%2E%2e?q='#x", "/%2E%2e?q='"),
            ("HTTP://example.com?a=b c", "/?a=b%20c"),
            ("https://example.com", "/"),
            ("  https://example.com/a\\b{c}|d\"^  ", "/a\\b{c}|d\"^"),
            ("https://example.com/\u{fc}/<>`", "/%C3%BC/%3C%3E%60"),
            ("https://example.com?filter={\"a\":1}", "/?filter={%22a%22:1}"),
            ("https://example.com/\"a\"?b=\"?\"#\"", "/\"a\"?b=%22?%22"),
            ("https://example.com/@a:b//c", "/@a:b//c"),
        ] {
            assert_eq!(target(address).as_deref(), Some(sent), "{address}");
        }
        for odd in [
            "https:/example.com/a",
            "https:\\\\example.com\\a",
            "https://example.com\\a",
            "https:///a",
            "ht\ntps://a/b",
        ] {
            assert_eq!(target(odd), None, "{odd}");
        }
    }

    #[test]
    fn user_and_password_are_sent_as_the_bytes_that_they_stand_for() {
        let mut url = Url::parse("https://%C3%A4:x%3Ay@example.com/").unwrap();
        let header = take_credentials(&mut url).unwrap();
        assert_eq!(header, basic_credentials("ä", "x:y"));
        assert_eq!(take_credentials(&mut url), None);
        let mut user = Url::parse("https://key@example.com/").unwrap();
        assert_eq!(take_credentials(&mut user).unwrap(), basic_credentials("key", ""));
    }
}
