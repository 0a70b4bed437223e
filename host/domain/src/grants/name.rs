//! Names of hosts and domains as grants may spell them: one spelling for each, the one that a
//! request or an address has when it is checked.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The longest name and the longest label that the domain name system has, in bytes (RFC 1035).
const NAME: usize = 253;
const LABEL: usize = 63;

/// Top-level domains that nobody can register: a wildcard below one is a private matter
/// (RFC 6761, RFC 6762, and `internal`, which ICANN has reserved).
const PRIVATE: [&str; 9] =
    ["localhost", "local", "internal", "test", "example", "invalid", "lan", "home", "corp"];

/// Labels under which registries of countries sell names, such as `co.uk` and `com.au`.
const REGISTRIES: [&str; 12] =
    ["ac", "co", "com", "edu", "go", "gob", "gov", "mil", "ne", "net", "or", "org"];

/// What a pattern names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Name {
    Any,
    /// A name, or an address without brackets.
    Exactly(String),
    /// Everything below a domain.
    Below(String),
}

impl Name {
    /// Whether it covers a host in its only spelling: lower case, in ASCII, no brackets.
    pub(super) fn matches(&self, host: &str) -> bool {
        let host = host.strip_suffix('.').unwrap_or(host);
        match self {
            Self::Any => true,
            Self::Exactly(name) => name == host,
            Self::Below(domain) => is_below(host, domain),
        }
    }

    /// Whether it covers whatever another one covers.
    pub(super) fn covers(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Any, _) => true,
            (_, Self::Any) | (Self::Exactly(_), Self::Below(_)) => false,
            (Self::Exactly(name), Self::Exactly(other)) => name == other,
            (Self::Below(domain), Self::Exactly(other)) => is_below(other, domain),
            (Self::Below(domain), Self::Below(other)) => other == domain || is_below(other, domain),
        }
    }

    /// Why it covers more than anybody means.
    pub(super) fn excess(&self) -> Option<String> {
        let Self::Below(domain) = self else { return None };
        let labels: Vec<_> = domain.split('.').collect();
        let sold = match labels.as_slice() {
            [top] => !PRIVATE.contains(top),
            [second, top] => top.len() == 2 && REGISTRIES.contains(second),
            _ => false,
        };
        sold.then(|| {
            format!(
                "anybody can register a name below {domain}: name the domains that are meant, such as \
                 *.example.{domain}"
            )
        })
    }
}

/// Whether a name is one below a domain.
fn is_below(name: &str, domain: &str) -> bool {
    name.strip_suffix(domain).is_some_and(|rest| rest.len() > 1 && rest.ends_with('.'))
}

/// What is wrong with text that is about to be a name or a pattern, before it is taken apart.
pub(super) fn plain(text: &str) -> Result<(), String> {
    if text.is_empty() {
        return Err("it is empty".to_owned());
    }
    if let Some((scheme, rest)) = text.split_once("://") {
        let scheme: String = scheme.chars().take(20).collect();
        let host = rest.split(['/', '?', '#']).next().unwrap_or_default();
        let host = host.rsplit('@').next().unwrap_or_default();
        return Err(format!("a host has no scheme ({scheme}://): write {host:?}"));
    }
    if let Some((_, host)) = text.rsplit_once('@') {
        return Err(format!("a host has no user name: write {host:?}"));
    }
    if let Some(end) = text.find(['/', '?', '#', '\\']) {
        return Err(format!("a host has no path: write {:?}", &text[..end]));
    }
    if text.contains('%') {
        return Err("a host has no percent signs: write what they stand for".to_owned());
    }
    if text.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return Err("a host has no spaces or control characters".to_owned());
    }
    Ok(())
}

/// Reads `*`, `*.example.com` or a host. Brackets and port are off.
pub(super) fn pattern(text: &str) -> Result<Name, String> {
    if text == "*" {
        return Ok(Name::Any);
    }
    let (domain, is_below) = match text.strip_prefix("*.") {
        Some(domain) => (domain, true),
        None => (text, false),
    };
    if domain.contains('*') {
        return Err(
            "* stands for all hosts, or for the labels before a domain: write *, *.example.com or a host"
                .to_owned(),
        );
    }
    let host = host(domain)?;
    match (host.parse::<IpAddr>().is_ok(), is_below) {
        (true, true) => Err(format!("nothing is below the address {host}: write {host}")),
        (false, true) => Ok(Name::Below(host)),
        (_, false) => Ok(Name::Exactly(host)),
    }
}

/// Checks a name or an IPv4 address, which must be spelled as it is when a request is checked.
fn host(text: &str) -> Result<String, String> {
    if let Ok(v4) = text.parse::<Ipv4Addr>() {
        return Ok(v4.to_string());
    }
    if let Some(name) = text.strip_suffix('.') {
        return Err(format!("the dot at its end is left out: write {name:?}"));
    }
    if text.split('.').any(str::is_empty) {
        return Err("a label between its dots is empty".to_owned());
    }
    // As the client reads an address: names in lower case and in ASCII, numbers as IPv4 addresses.
    let read = match url::Host::parse(text) {
        Ok(url::Host::Domain(name)) => name,
        Ok(url::Host::Ipv4(v4)) => {
            return Err(format!("it is read as the address {v4}: write {v4}"));
        }
        Ok(url::Host::Ipv6(_)) | Err(_) => return Err("no host has such a name".to_owned()),
    };
    if read != text {
        return Err(format!("it is read as {read}: write {read:?}"));
    }
    let is_label =
        |label: &str| label.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b));
    if !text.split('.').all(is_label) {
        return Err("a name has letters, digits, '-' and '_' between its dots".to_owned());
    }
    if text.len() > NAME || text.split('.').any(|label| label.len() > LABEL) {
        return Err(format!("a name has at most {NAME} bytes, and {LABEL} between its dots"));
    }
    Ok(read)
}

/// Checks an IPv6 address, brackets off.
pub(super) fn v6(text: &str) -> Result<Name, String> {
    if let Ok(v4) = text.parse::<Ipv4Addr>() {
        return Err(format!("an IPv4 address has no brackets: write {v4}"));
    }
    let Ok(address) = text.parse::<Ipv6Addr>() else {
        return Err("brackets are for an IPv6 address, such as [2001:db8::1]".to_owned());
    };
    if let IpAddr::V4(v4) = super::address::embedded(address) {
        return Err(format!("it is another spelling of {v4}: write {v4}"));
    }
    let canonical = address.to_string();
    if canonical != text {
        return Err(format!("it is read as [{canonical}]: write [{canonical}]"));
    }
    Ok(Name::Exactly(canonical))
}
