//! `Refresh`: a redirect that stands in a page, or in a header that HTTP never had (HTML, 4.2.5.3,
//! "shared declarative refresh steps").

/// The longest delay that is a redirect, in seconds. What reloads after longer is a page that
/// people are to read.
const MAX_DELAY: f64 = 10.0;

/// The address that a value such as `0; url=/next` leads to at once, as it is written.
#[must_use]
pub fn target(value: &str) -> Option<&str> {
    let value = value.trim_start();
    let digits = value.find(|c: char| !c.is_ascii_digit()).unwrap_or(value.len());
    if digits == 0 && !value.starts_with('.') {
        return None;
    }
    let (seconds, rest) = value.split_at(digits);
    let rest = rest.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.');
    if !rest.starts_with([';', ',']) && !rest.starts_with(|c: char| c.is_ascii_whitespace()) {
        return None;
    }
    let rest = rest.trim_start().trim_start_matches([';', ',']).trim_start();
    let named = rest
        .get(..3)
        .filter(|start| start.eq_ignore_ascii_case("url"))
        .and_then(|_| rest[3..].trim_start().strip_prefix('='));
    let address = named.map_or(rest, str::trim_start);
    let address = match address.chars().next() {
        Some(quote @ ('"' | '\'')) => {
            let quoted = &address[1..];
            quoted.split(quote).next().unwrap_or(quoted)
        }
        _ => address,
    };
    let delay: f64 = if seconds.is_empty() { 0.0 } else { seconds.parse().ok()? };
    let address = address.trim();
    (delay <= MAX_DELAY && !address.is_empty()).then_some(address)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refresh_leads_somewhere_at_once_or_is_none() {
        for (value, expected) in [
            ("0; url=/next", Some("/next")),
            ("0;URL='/next'", Some("/next")),
            ("5, Url = \"/a b\" junk", Some("/a b")),
            (" 0.5; /next", Some("/next")),
            ("0 url=/next", Some("/next")),
            (".5;url=/next", Some("/next")),
            ("0; url=http://other.example/?url=x", Some("http://other.example/?url=x")),
            ("0; urls", Some("urls")),
            ("0", None),
            ("0;", None),
            ("300; url=/next", None),
            ("x; url=/next", None),
            ("0x; url=/next", None),
            ("-1; url=/next", None),
            ("99999999999999999999999; url=/next", None),
            ("", None),
        ] {
            assert_eq!(target(value), expected, "{value}");
        }
    }
}
