//! Addresses that a page or a server names: resolved as browsers resolve them.

use std::borrow::Cow;

use encoding_rs::Encoding;
use taskforge_sdk::http::{Url, take_credentials};

/// Resolves an address that stands in a page: what is beyond ASCII in its query is sent in the
/// page's own encoding (HTML, "encoding-parse a URL").
#[must_use]
pub fn join(base: &Url, href: &str, encoding: &'static Encoding) -> Option<Url> {
    let output = encoding.output_encoding();
    Url::options()
        .base_url(Some(base))
        .encoding_override(Some(&|query| Cow::Owned(encoded(query, output))))
        .parse(href)
        .ok()
}

/// What the encoding has no bytes for becomes a character reference, percent-encoded.
fn encoded(query: &str, encoding: &'static Encoding) -> Vec<u8> {
    let (bytes, _, unmappable) = encoding.encode(query);
    if !unmappable {
        return bytes.into_owned();
    }
    let mut bytes = Vec::new();
    let mut buffer = [0; 4];
    for c in query.chars() {
        match encoding.encode(c.encode_utf8(&mut buffer)) {
            (_, _, true) => bytes.extend(format!("%26%23{}%3B", u32::from(c)).bytes()),
            (mapped, _, false) => bytes.extend_from_slice(&mapped),
        }
    }
    bytes
}

/// Only http and https, and without user and password: nobody is to read them in a result.
#[must_use]
pub fn web(mut url: Url) -> Option<Url> {
    take_credentials(&mut url);
    is_web(&url).then_some(url)
}

/// Whether it can be asked for.
#[must_use]
pub fn is_web(url: &Url) -> bool {
    matches!(url.scheme(), "http" | "https")
}

/// The text of a `Location` header. What is beyond ASCII in it is opaque (RFC 9110, 5.5) and goes
/// back to the server as the bytes that it sent.
#[must_use]
pub fn location(value: &[u8]) -> String {
    let mut text = String::new();
    for &byte in value.trim_ascii() {
        if byte.is_ascii() {
            text.push(char::from(byte));
        } else {
            text.push_str(&format!("%{byte:02X}"));
        }
    }
    text
}

/// Resolves a redirect. It takes the fragment along, unless it has one of its own.
///
/// # Errors
/// Why the text is no address.
pub fn redirect(from: &Url, location: &str) -> Result<Url, String> {
    let mut next = from.join(location).map_err(|error| error.to_string())?;
    if next.fragment().is_none() {
        next.set_fragment(from.fragment());
    }
    Ok(next)
}

/// What is really asked for.
#[must_use]
pub fn without_fragment(url: &Url) -> &str {
    url.as_str().split('#').next().unwrap_or_default()
}

/// Whether what was meant for one address may be sent to another: the same origin, or the same
/// host and default port with TLS instead of without.
#[must_use]
pub fn same_site(one: &Url, other: &Url) -> bool {
    let secured = one.scheme() == "http"
        && other.scheme() == "https"
        && one.port().is_none()
        && other.port().is_none();
    one.host() == other.host() && (one.origin() == other.origin() || secured)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> Url {
        Url::parse(text).unwrap()
    }

    #[test]
    fn a_query_is_sent_in_the_pages_encoding() {
        let base = url("https://example.com/");
        let joined = |href: &str, label: &str| {
            let encoding = Encoding::for_label(label.as_bytes()).unwrap();
            join(&base, href, encoding).unwrap().as_str()[20..].to_owned()
        };
        assert_eq!(joined("é?q=é#é", "windows-1252"), "%C3%A9?q=%E9#%C3%A9");
        assert_eq!(joined("?q=é", "utf-8"), "?q=%C3%A9");
        assert_eq!(joined("?q=é", "utf-16le"), "?q=%C3%A9");
        assert_eq!(joined("?q=жé", "windows-1252"), "?q=%26%231078%3B%E9");
    }

    #[test]
    fn a_location_keeps_its_bytes_and_the_fragment_stays() {
        let from = url("https://example.com/a#top");
        for (value, expected) in [
            (&b"/caf\xe9"[..], "https://example.com/caf%E9#top"),
            ("/café".as_bytes(), "https://example.com/caf%C3%A9#top"),
            (b" /b#end ", "https://example.com/b#end"),
            (b"//xn--bcher-kva.example", "https://xn--bcher-kva.example/#top"),
            ("https://bücher.example/".as_bytes(), "https://xn--bcher-kva.example/#top"),
        ] {
            assert_eq!(redirect(&from, &location(value)).unwrap().as_str(), expected);
        }
        assert!(redirect(&from, "http://").is_err());
    }

    #[test]
    fn what_is_meant_for_one_site_goes_to_no_other() {
        let from = url("http://example.com/a");
        assert!(same_site(&from, &url("http://example.com/b")));
        assert!(same_site(&from, &url("https://example.com/")));
        for other in
            ["http://example.com:81/", "https://example.com:444/", "http://www.example.com/"]
        {
            assert!(!same_site(&from, &url(other)), "{other}");
        }
        assert!(!same_site(&url("https://example.com/"), &from));
    }
}
