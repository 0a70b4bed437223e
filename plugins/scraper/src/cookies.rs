//! Cookies within one fetch (RFC 6265, 5): many sites set one and redirect to see whether it comes
//! back. Nothing outlives the attempt.

use std::time::{Duration, SystemTime};

use taskforge_sdk::http::{Url, parse_date};

/// Cookies that are kept at once, and the longest one, in bytes; the figures of RFC 6265, 6.1.
const MAX_COOKIES: usize = 50;
const MAX_LENGTH: usize = 4096;

/// What servers asked to get back.
#[derive(Debug, Default)]
pub struct Jar(Vec<Cookie>);

/// Name and value are the bytes that came, in whatever encoding: the server compares what comes
/// back.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Cookie {
    name: Vec<u8>,
    value: Vec<u8>,
    domain: String,
    /// Subdomains get it too.
    shared: bool,
    path: String,
    secure: bool,
}

impl Jar {
    /// Keeps what a `Set-Cookie` line of an answer from `url` says; a date in the past removes.
    pub fn set(&mut self, url: &Url, line: &[u8], now: SystemTime) {
        let Some((cookie, expired)) = Cookie::parse(url, line, now) else {
            return;
        };
        let place = |other: &Cookie| {
            (&other.name, &other.domain, &other.path)
                == (&cookie.name, &cookie.domain, &cookie.path)
        };
        let kept = self.0.iter().position(place);
        match kept {
            Some(at) if expired => _ = self.0.remove(at),
            Some(at) => self.0[at] = cookie,
            None if expired || self.0.len() >= MAX_COOKIES => {}
            None => self.0.push(cookie),
        }
    }

    /// The `Cookie` header of a request; longer paths first.
    #[must_use]
    pub fn header(&self, url: &Url) -> Option<Vec<u8>> {
        let mut sent: Vec<&Cookie> = self.0.iter().filter(|cookie| cookie.matches(url)).collect();
        sent.sort_by_key(|cookie| std::cmp::Reverse(cookie.path.len()));
        let pairs: Vec<Vec<u8>> = sent.into_iter().map(Cookie::pair).collect();
        (!pairs.is_empty()).then(|| pairs.join(&b"; "[..]))
    }
}

impl Cookie {
    fn parse(url: &Url, line: &[u8], now: SystemTime) -> Option<(Self, bool)> {
        let mut parts = line.split(|byte| *byte == b';');
        let pair = parts.next()?;
        let (name, value) = split_once(pair).unwrap_or((b"", pair));
        let (name, value) = (name.trim_ascii(), value.trim_ascii());
        let long = name.len() + value.len() > MAX_LENGTH;
        if long || (name.is_empty() && value.is_empty()) || line.iter().any(is_control) {
            return None;
        }
        let host = url.host_str()?.to_owned();
        let mut cookie = Self {
            name: name.to_vec(),
            value: value.to_vec(),
            domain: host.clone(),
            shared: false,
            path: default_path(url),
            secure: false,
        };
        let (mut expires, mut max_age) = (None, None);
        for attribute in parts {
            let (name, value) = split_once(attribute).unwrap_or((attribute, b""));
            // A path with other bytes is none that an address has, which is ASCII.
            let value = std::str::from_utf8(value.trim_ascii()).unwrap_or_default();
            match &*name.trim_ascii().to_ascii_lowercase() {
                b"expires" => expires = parse_date(value).or(expires),
                b"max-age" => max_age = value.parse::<i64>().ok().or(max_age),
                b"domain" => {
                    let domain = value.trim_start_matches('.').to_ascii_lowercase();
                    if domain.is_empty() || domain == host {
                        cookie.shared = !domain.is_empty() && url.domain().is_some();
                        continue;
                    }
                    // No list of public suffixes is kept; what has no dot is always one.
                    if !domain.contains('.') || url.domain().is_none() || !is_within(&host, &domain)
                    {
                        return None;
                    }
                    (cookie.domain, cookie.shared) = (domain, true);
                }
                b"path" if value.starts_with('/') => cookie.path = value.to_owned(),
                b"path" => cookie.path = default_path(url),
                b"secure" => cookie.secure = true,
                _ => {}
            }
        }
        if cookie.breaks_its_prefix(url) {
            return None;
        }
        let expired = match max_age {
            Some(seconds) => seconds <= 0,
            None => expires.is_some_and(|at| at <= now + Duration::ZERO),
        };
        Some((cookie, expired))
    }

    /// `__Secure-` and `__Host-` promise where a cookie comes from.
    fn breaks_its_prefix(&self, url: &Url) -> bool {
        let begins = |prefix: &[u8]| {
            let start = self.name.get(..prefix.len());
            start.is_some_and(|start| start.eq_ignore_ascii_case(prefix))
        };
        let secure = self.secure && url.scheme() == "https";
        (self.secure && url.scheme() != "https")
            || (begins(b"__Secure-") && !secure)
            || (begins(b"__Host-") && !(secure && !self.shared && self.path == "/"))
    }

    fn matches(&self, url: &Url) -> bool {
        let host = url.host_str().unwrap_or_default();
        let domain = host == self.domain || (self.shared && is_within(host, &self.domain));
        let path = url.path().strip_prefix(self.path.as_str()).is_some_and(|rest| {
            rest.is_empty() || rest.starts_with('/') || self.path.ends_with('/')
        });
        domain && path && (!self.secure || url.scheme() == "https")
    }

    fn pair(&self) -> Vec<u8> {
        match self.name.as_slice() {
            b"" => self.value.clone(),
            name => [name, b"=", &self.value].concat(),
        }
    }
}

/// Both sides of the first `=`.
fn split_once(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let at = text.iter().position(|byte| *byte == b'=')?;
    Some((&text[..at], &text[at + 1..]))
}

/// What no `Set-Cookie` line may have; a tab may stand in it (RFC 6265bis, 5.6).
const fn is_control(byte: &u8) -> bool {
    matches!(byte, 0..=8 | 0x0a..=0x1f | 0x7f)
}

fn is_within(host: &str, domain: &str) -> bool {
    host.strip_suffix(domain).is_some_and(|rest| rest.ends_with('.'))
}

fn default_path(url: &Url) -> String {
    match url.path().rfind('/') {
        None | Some(0) => "/".to_owned(),
        Some(last) => url.path()[..last].to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: SystemTime = SystemTime::UNIX_EPOCH;

    fn sent(from: &str, lines: &[&str], to: &str) -> Option<String> {
        let mut jar = Jar::default();
        for line in lines {
            jar.set(
                &Url::parse(from).unwrap(),
                line.as_bytes(),
                NOW + Duration::from_secs(1 << 30),
            );
        }
        let header = jar.header(&Url::parse(to).unwrap());
        header.map(|bytes| String::from_utf8(bytes).unwrap())
    }

    #[test]
    fn a_cookie_goes_back_byte_for_byte() {
        let url = Url::parse("http://example.com/").unwrap();
        for (line, back) in [
            (&b"n=caf\xe9; path=/"[..], Some(&b"n=caf\xe9"[..])),
            (b"n=caf\xc3\xa9", Some(b"n=caf\xc3\xa9")),
            (b"n\xe9=\x80\x9f\xff", Some(b"n\xe9=\x80\x9f\xff")),
            (b"n=a\tb \t; path=\xe9", Some(b"n=a\tb")),
            (b"n=a\x0bb", None),
            (b"n=a\x7f", None),
            (b"n=a; x=\x01", None),
        ] {
            let mut jar = Jar::default();
            jar.set(&url, line, NOW);
            assert_eq!(jar.header(&url).as_deref(), back, "{}", line.escape_ascii());
        }
    }

    #[test]
    fn a_cookie_goes_back_to_where_it_came_from() {
        let from = "http://www.example.com/a/b";
        for (line, to, expected) in [
            ("x=1", "http://www.example.com/a/c", Some("x=1")),
            ("x=1", "http://www.example.com/", None),
            ("x=1; Path=/", "http://www.example.com:8080/c", Some("x=1")),
            ("x=1; path=/", "http://example.com/", None),
            ("x=1; path=/; domain=.Example.com", "https://example.com/", Some("x=1")),
            ("x=1; path=/; domain=example.com", "http://a.example.com/", Some("x=1")),
            ("x=1; path=/; domain=example.com", "http://badexample.com/", None),
            ("x=1; path=/; domain=com", "http://www.example.com/", None),
            ("x=1; path=/; domain=other.example", "http://other.example/", None),
            ("x=1; path=/a", "http://www.example.com/ab", None),
            ("x=1; path=/; secure", "http://www.example.com/", None),
            ("__Host-x=1; path=/", "https://www.example.com/", None),
            ("x=1; path=/; Max-Age=0", "http://www.example.com/", None),
            ("x=a=b; path=/; HttpOnly; SameSite=Lax", "http://www.example.com/", Some("x=a=b")),
            ("lone; path=/", "http://www.example.com/", Some("lone")),
            ("=; path=/", "http://www.example.com/", None),
        ] {
            assert_eq!(sent(from, &[line], to).as_deref(), expected, "{line}");
        }
    }

    #[test]
    fn a_later_cookie_replaces_or_removes_an_earlier_one() {
        let from = "http://example.com/";
        assert_eq!(sent(from, &["x=1", "x=2", "y=3"], from).as_deref(), Some("x=2; y=3"));
        let past = "x=; Expires=Thu, 01 Jan 1970 00:00:00 GMT";
        assert_eq!(sent(from, &["x=1", past], from), None);
        let many: Vec<String> = (0..100).map(|n| format!("n{n}={n}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert_eq!(sent(from, &many, from).unwrap().split(';').count(), MAX_COOKIES);
    }
}
