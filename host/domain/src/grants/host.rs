//! Patterns of hosts and ports.

use std::{fmt, net::Ipv6Addr, str::FromStr};

use serde::{Deserialize, Serialize};

use super::name::{self, Name};

/// A host that may be asked: `example.com`, `*.example.com` (any name below it, not itself) or `*`,
/// each with `:port` for that port only. Without a port: 80 and 443.
///
/// A pattern has one spelling, in which it is kept and shown; any other is refused with the right
/// one named. One that was read from where such spellings were kept before matches nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub struct HostPattern {
    text: String,
    read: Result<(Name, PortPattern), String>,
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
        let Ok((name, ports)) = &self.read else {
            return false;
        };
        name.matches(host)
            && match *ports {
                PortPattern::Web => matches!(port, 80 | 443),
                PortPattern::Any => true,
                PortPattern::Exactly(only) => only == port,
            }
    }

    /// The same as patterns of one port each, where it is for ports that can be told one by one.
    #[must_use]
    pub fn by_port(&self) -> Vec<Self> {
        match &self.read {
            Ok((_, PortPattern::Web)) => {
                [80, 443].map(|port| Self::from(format!("{}:{port}", self.text))).into()
            }
            _ => vec![self.clone()],
        }
    }

    /// Whether this pattern matches whatever the other one, which [`HostPattern::by_port`] made,
    /// matches.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        match (&self.read, &other.read) {
            (Ok((name, ports)), Ok((other_name, other_ports))) => {
                name.covers(other_name)
                    && match (*ports, *other_ports) {
                        (PortPattern::Any, _) => true,
                        (PortPattern::Web, PortPattern::Exactly(port)) => matches!(port, 80 | 443),
                        (own, other) => own == other,
                    }
            }
            // What matches nothing is covered by everything.
            (_, Err(_)) => true,
            (Err(_), _) => false,
        }
    }

    /// Whether it may be granted.
    ///
    /// # Errors
    /// When it can match nothing, is read otherwise than it looks, or covers what anybody can
    /// register. The error says what to write instead.
    pub fn check(&self) -> Result<(), InvalidHostPattern> {
        let why = match &self.read {
            Ok((name, _)) => name.excess(),
            Err(why) => Some(why.clone()),
        };
        why.map_or(Ok(()), |why| {
            let pattern = self.text.chars().take(300).collect();
            Err(InvalidHostPattern { pattern, why })
        })
    }
}

/// A host pattern that may not be granted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{pattern:?} is not a host pattern such as example.com, *.example.com:8080 or *: {why}")]
pub struct InvalidHostPattern {
    pattern: String,
    why: String,
}

impl FromStr for HostPattern {
    type Err = InvalidHostPattern;

    fn from_str(text: &str) -> Result<Self, InvalidHostPattern> {
        let pattern = Self::from(text.to_owned());
        pattern.check().map(|()| pattern)
    }
}

impl From<String> for HostPattern {
    /// Reads a pattern that is [checked](HostPattern::check) later or was checked before.
    fn from(text: String) -> Self {
        let read = read(&text);
        Self { text, read }
    }
}

impl From<HostPattern> for String {
    fn from(pattern: HostPattern) -> Self {
        pattern.text
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

fn read(text: &str) -> Result<(Name, PortPattern), String> {
    name::plain(text)?;
    if let Some(rest) = text.strip_prefix('[') {
        let (address, after) = rest.split_once(']').ok_or("a bracket is not closed")?;
        let port = match after.strip_prefix(':') {
            Some(port) => Some(port),
            None if after.is_empty() => None,
            None => return Err("a port comes after a colon, as in [2001:db8::1]:8080".to_owned()),
        };
        let ports = ports(port)?;
        return Ok((name::v6(address)?, ports));
    }
    let (host, port) = match text.split_once(':') {
        Some((_, rest)) if rest.contains(':') => {
            return Err(match text.parse::<Ipv6Addr>() {
                Ok(address) => format!("an IPv6 address has brackets: write [{address}]"),
                Err(_) => "it has more than one colon".to_owned(),
            });
        }
        Some((host, port)) => (host, Some(port)),
        None => (text, None),
    };
    if host.is_empty() {
        return Err("it names no host: write * for all".to_owned());
    }
    let ports = ports(port)?;
    Ok((name::pattern(host)?, ports))
}

fn ports(text: Option<&str>) -> Result<PortPattern, String> {
    let text = match text {
        None => return Ok(PortPattern::Web),
        Some("*") => return Ok(PortPattern::Any),
        Some(text) => text,
    };
    let port = text.parse::<u16>().ok().filter(|port| *port != 0);
    let port = port.ok_or("a port is a number from 1 to 65535, or * for all")?;
    if port.to_string() != text {
        return Err(format!("the port is read as {port}: write {port}"));
    }
    Ok(PortPattern::Exactly(port))
}

#[cfg(test)]
mod tests;
