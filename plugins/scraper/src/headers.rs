//! The headers of an answer: several lines of one name, values that need not be UTF-8.

/// Names and values as they came.
#[derive(Debug, Clone, Default)]
pub struct Headers(Vec<(String, Vec<u8>)>);

impl Headers {
    /// The values of all lines of a name, in order.
    pub fn lines(&self, name: &str) -> impl Iterator<Item = &[u8]> {
        self.0
            .iter()
            .filter(move |(header, _)| header.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_slice())
    }

    /// All lines of a name as one list (RFC 9110, 5.3); `None` when they say nothing.
    #[must_use]
    pub fn list(&self, name: &str) -> Option<String> {
        let lines: Vec<String> = self.lines(name).map(text).collect();
        let list = lines.join(", ").trim().to_owned();
        (!list.is_empty()).then_some(list)
    }
}

impl<N: Into<String>, V: Into<Vec<u8>>> FromIterator<(N, V)> for Headers {
    fn from_iter<T: IntoIterator<Item = (N, V)>>(headers: T) -> Self {
        let owned = headers.into_iter().map(|(name, value)| (name.into(), value.into()));
        Self(owned.collect())
    }
}

/// A value as text: UTF-8 where it is, and each byte a character of ISO-8859-1 where it is not.
#[must_use]
pub fn text(value: &[u8]) -> String {
    std::str::from_utf8(value)
        .map_or_else(|_| value.iter().map(|&byte| char::from(byte)).collect(), str::to_owned)
}

/// Splits a list at a separator, which does not count within quotes.
pub fn split(list: &str, separator: char) -> Vec<&str> {
    let (mut parts, mut start) = (Vec::new(), 0);
    let (mut quoted, mut escaped) = (false, false);
    for (at, c) in list.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            _ if c == separator && !quoted => {
                parts.push(list[start..at].trim());
                start = at + c.len_utf8();
            }
            _ => {}
        }
    }
    parts.push(list[start..].trim());
    parts
}

/// A value without its quotes and what they escape; a token as it is.
#[must_use]
pub fn unquote(value: &str) -> String {
    let Some(quoted) = value.strip_prefix('"') else {
        return value.to_owned();
    };
    let mut text = String::new();
    let mut rest = quoted.chars();
    while let Some(c) = rest.next() {
        match c {
            '"' => break,
            '\\' => text.extend(rest.next()),
            _ => text.push(c),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_one_name_are_one_list() {
        let headers = Headers::from_iter([("A", "x"), ("b", "other"), ("a", "y")]);
        assert_eq!(headers.list("a").as_deref(), Some("x, y"));
        assert_eq!(headers.list("c"), None);
        assert_eq!(text(b"caf\xe9"), "café");
        assert_eq!(text("café".as_bytes()), "café");
    }

    #[test]
    fn a_separator_within_quotes_separates_nothing() {
        assert_eq!(split(r#"a="x,\"y", b"#, ','), [r#"a="x,\"y""#, "b"]);
        assert_eq!(unquote(r#""x\"y" z"#), "x\"y");
        assert_eq!(unquote("x"), "x");
    }
}
