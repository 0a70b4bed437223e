//! Patterns of hosts and ports.

use std::{fmt, net::IpAddr, str::FromStr};

use serde::{Deserialize, Serialize};

/// A host that may be asked: `example.com`, `*.example.com` (any name below it, not itself) or `*`, each with `:port` for that
/// port only. Without a port: 80 and 443.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct HostPattern {
    name: NamePattern,
    port: PortPattern,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum NamePattern {
    Any,
    Exactly(String),
    Below(String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum PortPattern {
    Web,
    Any,
    Exactly(u16),
}

impl HostPattern {
    /// Whether this pattern covers a host (lower case, no brackets) and port.
    #[must_use]
    pub fn matches(&self, host: &str, port: u16) -> bool {
        let host = host.strip_suffix('.').unwrap_or(host);
        let name = match &self.name {
            NamePattern::Any => true,
            NamePattern::Exactly(name) => name == host,
            NamePattern::Below(domain) => is_below(host, domain),
        };
        name && match self.port {
            PortPattern::Web => matches!(port, 80 | 443),
            PortPattern::Any => true,
            PortPattern::Exactly(only) => only == port,
        }
    }
}

impl HostPattern {
    /// The same as patterns of one port each, where it is for ports that can be told one by one.
    pub(super) fn by_port(&self) -> Vec<Self> {
        let on = |port| Self {
            name: self.name.clone(),
            port: PortPattern::Exactly(port),
        };
        match self.port {
            PortPattern::Web => vec![on(80), on(443)],
            PortPattern::Any | PortPattern::Exactly(_) => vec![self.clone()],
        }
    }

    /// Whether this pattern matches whatever the other one, which [`HostPattern::by_port`] made,
    /// matches.
    pub(super) fn covers(&self, other: &Self) -> bool {
        let name = match (&self.name, &other.name) {
            (NamePattern::Any, _) => true,
            (_, NamePattern::Any) => false,
            (NamePattern::Exactly(name), NamePattern::Exactly(other)) => name == other,
            (NamePattern::Exactly(_), NamePattern::Below(_)) => false,
            (NamePattern::Below(domain), NamePattern::Exactly(other)) => is_below(other, domain),
            (NamePattern::Below(domain), NamePattern::Below(other)) => {
                other == domain || is_below(other, domain)
            }
        };
        name && match (self.port, other.port) {
            (PortPattern::Any, _) => true,
            (PortPattern::Web, PortPattern::Exactly(port)) => matches!(port, 80 | 443),
            (own, other) => own == other,
        }
    }
}

/// Whether a name is one below a domain.
fn is_below(name: &str, domain: &str) -> bool {
    name.strip_suffix(domain)
        .is_some_and(|rest| rest.len() > 1 && rest.ends_with('.'))
}

/// A host pattern that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not a host pattern: use example.com, *.example.com or *, and :8080 or :* for other ports than 80 and 443"
)]
pub struct InvalidHostPattern(String);

impl FromStr for HostPattern {
    type Err = InvalidHostPattern;

    fn from_str(text: &str) -> Result<Self, InvalidHostPattern> {
        let invalid = || InvalidHostPattern(text.to_owned());
        let (name, port) = split_port(text);
        let port = match port {
            None => PortPattern::Web,
            Some("*") => PortPattern::Any,
            Some(port) => PortPattern::Exactly(port.parse().ok().filter(|p| *p != 0).ok_or_else(invalid)?),
        };
        let name = name.to_ascii_lowercase();
        let valid = |name: &str| {
            name.parse::<IpAddr>().is_ok()
                || !name.is_empty()
                    && name.split('.').all(|label| {
                        !label.is_empty()
                            && label
                                .bytes()
                                .all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b))
                    })
        };
        let name = match name.strip_prefix("*.") {
            _ if name == "*" => NamePattern::Any,
            Some(domain) if valid(domain) => NamePattern::Below(domain.to_owned()),
            None if valid(&name) => NamePattern::Exactly(name),
            _ => return Err(invalid()),
        };
        Ok(Self { name, port })
    }
}

/// Splits `host:port`, `[v6]:port`, `host` and bare `v6`.
fn split_port(text: &str) -> (&str, Option<&str>) {
    if let Some(rest) = text.strip_prefix('[') {
        return match rest.split_once(']') {
            Some((name, "")) => (name, None),
            Some((name, port)) => (name, port.strip_prefix(':').or(Some(port))),
            None => (text, None),
        };
    }
    match text.split_once(':') {
        Some((name, port)) if !port.contains(':') => (name, Some(port)),
        _ => (text, None),
    }
}

impl TryFrom<String> for HostPattern {
    type Error = InvalidHostPattern;
    fn try_from(text: String) -> Result<Self, InvalidHostPattern> {
        text.parse()
    }
}

impl From<HostPattern> for String {
    fn from(pattern: HostPattern) -> Self {
        pattern.to_string()
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.name {
            NamePattern::Any => f.write_str("*")?,
            NamePattern::Exactly(name) if name.contains(':') => write!(f, "[{name}]")?,
            NamePattern::Exactly(name) => f.write_str(name)?,
            NamePattern::Below(domain) => write!(f, "*.{domain}")?,
        }
        match self.port {
            PortPattern::Web => Ok(()),
            PortPattern::Any => f.write_str(":*"),
            PortPattern::Exactly(port) => write!(f, ":{port}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(text: &str) -> HostPattern {
        text.parse().unwrap()
    }

    #[test]
    fn patterns_match_names_and_ports() {
        assert!(pattern("example.com").matches("example.com", 443));
        assert!(pattern("example.com").matches("example.com.", 80));
        assert!(!pattern("example.com").matches("example.com", 8080));
        assert!(!pattern("example.com").matches("evil-example.com", 443));
        assert!(pattern("*.example.com").matches("a.b.example.com", 443));
        assert!(!pattern("*.example.com").matches("example.com", 443));
        assert!(!pattern("*.example.com").matches("badexample.com", 443));
        assert!(pattern("*:*").matches("anything", 9999));
        assert!(pattern("[::1]:8080").matches("::1", 8080));
        assert!(!pattern("127.0.0.1:8080").matches("127.0.0.1", 8081));
    }

    #[test]
    fn patterns_read_back_from_their_text() {
        for text in [
            "*",
            "*:*",
            "example.com",
            "*.example.com:8443",
            "[::1]:80",
            "10.0.0.1:*",
        ] {
            assert_eq!(pattern(text).to_string(), text);
        }
        for bad in [
            "", "*.", "a..b", "http://a", "a:0", "a:70000", "a/b", "*a.com", "[::1", "[::1]x",
        ] {
            assert!(bad.parse::<HostPattern>().is_err(), "{bad}");
        }
    }
}
