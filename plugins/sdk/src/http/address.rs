//! User and password of an address: sent, and never shown.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use percent_encoding::percent_decode_str;
use url::Url;

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
    let header = basic(
        &decoded(url.username()),
        &decoded(url.password().unwrap_or_default()),
    );
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
    let scheme = address[..at]
        .find("//")
        .map_or("", |slashes| &address[..slashes + 2]);
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
    fn user_and_password_are_sent_as_the_bytes_that_they_stand_for() {
        let mut url = Url::parse("https://%C3%A4:x%3Ay@example.com/").unwrap();
        let header = take_credentials(&mut url).unwrap();
        assert_eq!(header, basic_credentials("ä", "x:y"));
        assert_eq!(take_credentials(&mut url), None);
        let mut user = Url::parse("https://key@example.com/").unwrap();
        assert_eq!(take_credentials(&mut user).unwrap(), basic_credentials("key", ""));
    }
}
