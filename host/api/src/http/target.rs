//! Where a request goes: its target and its `Host`, which every reader must understand alike.

use std::net::Ipv6Addr;

use axum::extract::Request;
use http::{HeaderMap, Uri, Version, header};

use crate::{Problem, ProblemKind};

/// Checks what HTTP asks of a request's head and hyper leaves to its user (RFC 9112, section 3.2),
/// and that the target is text without control characters, however it is written. `route` is the
/// path's pattern, whose parameters give their names.
///
/// # Errors
/// A problem that names the header or the parameter.
pub(crate) fn check(route: &str, request: &Request) -> Result<(), Problem> {
    let authority = host(request.headers(), request.version())?;
    if let Some(named) = request.uri().authority() {
        is_ours(request.uri(), named.as_str(), authority)?;
    }
    path(route, request.uri().path())?;
    request.uri().query().map_or(Ok(()), query)
}

/// The value of `Host`, if there is one and it may be one.
pub(crate) fn host(headers: &HeaderMap, version: Version) -> Result<Option<&str>, Problem> {
    let mut given = headers.get_all(header::HOST).iter();
    let Some(host) = given.next() else {
        return match version {
            Version::HTTP_11 => Err(bad("The Host header is missing.")),
            _ => Ok(None),
        };
    };
    if given.next().is_some() {
        return Err(bad("The Host header is given twice."));
    }
    let text = host.to_str().ok().filter(|text| is_authority(text));
    text.map(Some)
        .ok_or_else(|| bad("The Host header is not a name or an address, with or without a port."))
}

fn bad(detail: &'static str) -> Problem {
    Problem::new(ProblemKind::BadRequest, detail)
}

/// A target in absolute form names a server too. It goes before `Host` (RFC 9112), so both must say
/// the same: otherwise a proxy and we could disagree on whom the request is for.
fn is_ours(uri: &Uri, named: &str, host: Option<&str>) -> Result<(), Problem> {
    let is_http = uri.scheme_str().is_none_or(|scheme| matches!(scheme, "http" | "https"));
    if !is_http || !is_authority(named) {
        return Err(bad("The request's target is no http:// address of this server."));
    }
    match host {
        Some(host) if !host.eq_ignore_ascii_case(named) => {
            Err(bad("The request's target and its Host header name different servers."))
        }
        _ => Ok(()),
    }
}

/// Whether a text is a host's name or address, with or without a port. User information, percent
/// signs and whatever else a URI might have there never name a server.
fn is_authority(text: &str) -> bool {
    let (host, port) = match split_port(text) {
        Some(parts) => parts,
        None => return false,
    };
    let is_port = port.is_none_or(|port| {
        let is_number = port.bytes().all(|byte| byte.is_ascii_digit());
        // RFC 3986 allows an empty port.
        is_number && (port.is_empty() || port.parse::<u16>().is_ok())
    });
    is_port && is_host(host)
}

/// The host and the port of an authority; an IPv6 address keeps its brackets.
pub(crate) fn split_port(text: &str) -> Option<(&str, Option<&str>)> {
    if text.starts_with('[') {
        let end = text.find(']')? + 1;
        let (host, rest) = text.split_at(end);
        return match rest.strip_prefix(':') {
            Some(port) => Some((host, Some(port))),
            None => rest.is_empty().then_some((host, None)),
        };
    }
    match text.split_once(':') {
        Some((host, port)) => Some((host, Some(port))),
        None => Some((text, None)),
    }
}

fn is_host(host: &str) -> bool {
    if let Some(address) = host.strip_prefix('[') {
        let address = address.strip_suffix(']');
        return address.is_some_and(|address| address.parse::<Ipv6Addr>().is_ok());
    }
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    (1..=255).contains(&host.len()) && host.bytes().all(is_name)
}

/// Checks what stands for the parameters of a route. Whatever else a path may hold leads nowhere.
fn path(route: &str, path: &str) -> Result<(), Problem> {
    for (name, text) in route.split('/').zip(path.split('/')) {
        let name = name.strip_prefix('{').and_then(|name| name.strip_suffix('}'));
        if let Some(name) = name {
            decoded(text)
                .map_err(|detail| Problem::parameter(name.trim_start_matches('*'), detail))?;
        }
    }
    Ok(())
}

fn query(query: &str) -> Result<(), Problem> {
    for pair in query.split('&') {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let name = decoded(name).map_err(|detail| Problem::parameter("query", detail))?;
        decoded(value).map_err(|detail| Problem::parameter(&name, detail))?;
    }
    Ok(())
}

/// The text that percent signs stand for, which has no control character.
fn decoded(text: &str) -> Result<String, &'static str> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        let byte = match byte {
            b'%' => {
                let digits = (rest.next(), rest.next());
                let digit =
                    |digit: Option<u8>| digit.and_then(|digit| char::from(digit).to_digit(16));
                let (high, low) = (digit(digits.0), digit(digits.1));
                let value = high.zip(low).map(|(high, low)| high * 16 + low);
                let value = value.ok_or("has a % without two hexadecimal digits")?;
                u8::try_from(value).unwrap_or_default()
            }
            byte => byte,
        };
        bytes.push(byte);
    }
    let text = String::from_utf8(bytes).map_err(|_| "is not UTF-8")?;
    match text.contains(char::is_control) {
        true => Err("has a control character"),
        false => Ok(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_a_name_or_an_address() {
        for good in
            ["localhost", "a.example:8000", "127.0.0.1:80", "[::1]", "[::1]:8000", "a_b.c:", "x"]
        {
            assert!(is_authority(good), "{good}");
        }
        for bad in [
            "",
            ":80",
            "a b",
            "a@b",
            "a/b",
            "a:b",
            "a:99999",
            "[::1",
            "[::1]x",
            "[1.2.3.4]",
            "a%00",
            "é",
            "a:1:2",
            "a,b",
        ] {
            assert!(!is_authority(bad), "{bad}");
        }
    }

    #[test]
    fn what_percent_signs_stand_for_is_text() {
        let task = |id: &str| path("/tasks/{id}/logs", &format!("/tasks/{id}/logs"));
        assert!(task("a%20b%C3%A9").is_ok());
        for bad in ["a%00b", "%zz", "%", "%4", "%ff", "a%0Ab", "%C2%85", "%1b"] {
            let problem = task(bad).unwrap_err();
            assert!(problem.detail().starts_with("id: "), "{}", problem.detail());
        }
        assert!(query("a=%7B%20%7D&b=1+2&c").is_ok());
        for bad in ["a=%00", "a=%0A", "a=%zz", "a=%ff", "%00=1", "%0a=1", "a=1&b=%"] {
            assert!(query(bad).is_err(), "{bad}");
        }
    }
}
