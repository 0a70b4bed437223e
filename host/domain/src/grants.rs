//! What a plugin may reach outside its sandbox.

use std::{fmt, net::IpAddr, str::FromStr};

use ipnet::IpNet;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The operator's permissions for one plugin. The default is none.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Grants {
    /// Outgoing HTTP.
    pub http: HttpGrant,
    /// Sending e-mail through the host's mailer.
    pub mail: MailGrant,
    /// Which of the plugin's secrets it reads through `wasi:config`, by name.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub secrets: Vec<String>,
    /// Keeping values in `wasi:keyvalue`.
    pub keyvalue: KeyValueGrant,
}

/// Where a plugin may send HTTP requests.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HttpGrant {
    /// Names, ports and methods; a request to any other is refused before its name is resolved.
    pub hosts: Vec<HostRule>,
    /// Exceptions from the rule that private, loopback, link-local and metadata addresses are refused.
    pub private_networks: Vec<IpNet>,
}

/// A host that may be asked, and with which methods. As text it is the pattern alone and stands for every method; otherwise
/// `{host = "api.example.com", methods = ["POST"]}`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostRule {
    /// Which hosts and ports.
    pub host: HostPattern,
    /// Only these methods, in upper case. `None`: all.
    pub methods: Option<Vec<String>>,
}

impl From<HostPattern> for HostRule {
    fn from(host: HostPattern) -> Self {
        Self { host, methods: None }
    }
}

impl FromStr for HostRule {
    type Err = InvalidHostPattern;
    fn from_str(text: &str) -> Result<Self, InvalidHostPattern> {
        text.parse::<HostPattern>().map(Self::from)
    }
}

impl HostRule {
    fn allows_method(&self, method: &str) -> bool {
        self.methods
            .as_ref()
            .is_none_or(|methods| methods.iter().any(|allowed| allowed == method))
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct HostTable {
    host: HostPattern,
    methods: Vec<String>,
}

impl Serialize for HostRule {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match &self.methods {
            None => self.host.serialize(serializer),
            Some(methods) => HostTable {
                host: self.host.clone(),
                methods: methods.clone(),
            }
            .serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for HostRule {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> serde::de::Visitor<'de> for Visitor {
            type Value = HostRule;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a host such as \"api.example.com\", or a table with host and methods")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<HostRule, E> {
                text.parse().map_err(E::custom)
            }

            fn visit_map<A: serde::de::MapAccess<'de>>(self, map: A) -> Result<HostRule, A::Error> {
                let table = HostTable::deserialize(serde::de::value::MapAccessDeserializer::new(map))?;
                for method in &table.methods {
                    let is_method =
                        !method.is_empty() && method.bytes().all(|byte| byte.is_ascii_uppercase());
                    if !is_method {
                        return Err(serde::de::Error::custom(format!(
                            "{method:?} is not an HTTP method in upper case, such as \"POST\""
                        )));
                    }
                }
                Ok(HostRule {
                    host: table.host,
                    methods: Some(table.methods),
                })
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

/// Whether a plugin may send e-mail, from whom and to whom. As text for people: `true`, `false`, or a table with `senders` and
/// `recipients`, each a list of domains; a list that is left out allows every domain.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(from = "MailForm", into = "MailForm")]
pub struct MailGrant {
    /// Whether it may send at all.
    pub allowed: bool,
    /// Domains of senders. A message that names no sender has the host's own, which is always allowed. `None`: all.
    pub senders: Option<Vec<DomainPattern>>,
    /// Domains of recipients, `cc` and `bcc` included. `None`: all.
    pub recipients: Option<Vec<DomainPattern>>,
}

impl MailGrant {
    /// May send from and to anybody.
    #[must_use]
    pub const fn unlimited() -> Self {
        Self {
            allowed: true,
            senders: None,
            recipients: None,
        }
    }
}

#[derive(Clone, Serialize, Deserialize)]
#[serde(untagged)]
enum MailForm {
    Plain(bool),
    Domains(MailDomains),
}

#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct MailDomains {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    senders: Option<Vec<DomainPattern>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    recipients: Option<Vec<DomainPattern>>,
}

impl From<MailForm> for MailGrant {
    fn from(form: MailForm) -> Self {
        match form {
            MailForm::Plain(allowed) => Self {
                allowed,
                ..Self::default()
            },
            MailForm::Domains(MailDomains { senders, recipients }) => Self {
                allowed: true,
                senders,
                recipients,
            },
        }
    }
}

impl From<MailGrant> for MailForm {
    fn from(grant: MailGrant) -> Self {
        match grant {
            MailGrant {
                allowed: true,
                senders,
                recipients,
            } if senders.is_some() || recipients.is_some() => {
                Self::Domains(MailDomains { senders, recipients })
            }
            MailGrant { allowed, .. } => Self::Plain(allowed),
        }
    }
}

/// A domain of mail addresses: `example.com`, or `*.example.com` for any below it, not itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct DomainPattern(String);

impl DomainPattern {
    /// Whether it covers a domain, in any case of letters.
    #[must_use]
    pub fn matches(&self, domain: &str) -> bool {
        let domain = domain.to_ascii_lowercase();
        match self.0.strip_prefix("*.") {
            Some(above) => domain
                .strip_suffix(above)
                .is_some_and(|rest| rest.len() > 1 && rest.ends_with('.')),
            None => domain == self.0,
        }
    }
}

impl TryFrom<String> for DomainPattern {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        let lower = text.to_ascii_lowercase();
        let domain = lower.strip_prefix("*.").unwrap_or(&lower);
        let is_domain = !domain.is_empty()
            && domain.split('.').all(|label| {
                !label.is_empty()
                    && label
                        .bytes()
                        .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
            });
        if is_domain {
            Ok(Self(lower))
        } else {
            Err(format!(
                "{text:?} is not a domain of mail addresses: use example.com or *.example.com"
            ))
        }
    }
}

impl From<DomainPattern> for String {
    fn from(pattern: DomainPattern) -> Self {
        pattern.0
    }
}

impl fmt::Display for DomainPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Whether a plugin may keep values, and how much for each tenant. As text for people: `true`, `false`, or a table with `bytes` and `keys`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "KeyValueForm", into = "KeyValueForm")]
pub struct KeyValueGrant {
    /// Whether it may keep any.
    pub allowed: bool,
    /// Bytes of keys and values together, for each tenant.
    pub bytes: u64,
    /// Number of keys, for each tenant.
    pub keys: u64,
}

impl Default for KeyValueGrant {
    fn default() -> Self {
        Self {
            allowed: false,
            bytes: 1 << 20,
            keys: 1_000,
        }
    }
}

#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(untagged)]
enum KeyValueForm {
    Plain(bool),
    Quota(KeyValueQuota),
}

#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct KeyValueQuota {
    #[serde(with = "crate::limits::size")]
    bytes: u64,
    keys: u64,
}

impl Default for KeyValueQuota {
    fn default() -> Self {
        let KeyValueGrant { bytes, keys, .. } = KeyValueGrant::default();
        Self { bytes, keys }
    }
}

impl From<KeyValueForm> for KeyValueGrant {
    fn from(form: KeyValueForm) -> Self {
        match form {
            KeyValueForm::Plain(allowed) => Self {
                allowed,
                ..Self::default()
            },
            KeyValueForm::Quota(KeyValueQuota { bytes, keys }) => Self {
                allowed: true,
                bytes,
                keys,
            },
        }
    }
}

impl From<KeyValueGrant> for KeyValueForm {
    fn from(grant: KeyValueGrant) -> Self {
        if grant.allowed {
            Self::Quota(KeyValueQuota {
                bytes: grant.bytes,
                keys: grant.keys,
            })
        } else {
            Self::Plain(false)
        }
    }
}

impl HttpGrant {
    /// Whether a request to this host and port may be made at all, with some method. `host` is a name in lower case or an IP address without
    /// brackets.
    #[must_use]
    pub fn allows(&self, host: &str, port: u16) -> bool {
        self.hosts.iter().any(|rule| rule.host.matches(host, port))
    }

    /// Whether a request with this method (in upper case) may be made to this host and port.
    #[must_use]
    pub fn allows_method(&self, method: &str, host: &str, port: u16) -> bool {
        self.hosts
            .iter()
            .any(|rule| rule.host.matches(host, port) && rule.allows_method(method))
    }

    /// Whether a resolved address may be connected to: it is public, or the operator made an exception for it.
    #[must_use]
    pub fn allows_address(&self, address: IpAddr) -> bool {
        let address = canonical(address);
        is_public(address)
            || self
                .private_networks
                .iter()
                .any(|network| network.contains(&address))
    }
}

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
            NamePattern::Below(domain) => host
                .strip_suffix(domain.as_str())
                .is_some_and(|rest| rest.len() > 1 && rest.ends_with('.')),
        };
        name && match self.port {
            PortPattern::Web => matches!(port, 80 | 443),
            PortPattern::Any => true,
            PortPattern::Exactly(only) => only == port,
        }
    }
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

/// The IPv4 address inside an IPv6 spelling of one, so that no spelling walks around a rule: v4-mapped (`::ffff:0:0/96`),
/// v4-compatible (`::/96`), NAT64 (`64:ff9b::/96`) and 6to4 (`2002::/16`).
fn canonical(address: IpAddr) -> IpAddr {
    let IpAddr::V6(v6) = address else { return address };
    let s = v6.segments();
    let v4 = |high: u16, low: u16| {
        let [a, b] = high.to_be_bytes();
        let [c, d] = low.to_be_bytes();
        IpAddr::from([a, b, c, d])
    };
    match s {
        [0, 0, 0, 0, 0, 0xffff, high, low] | [0x64, 0xff9b, 0, 0, 0, 0, high, low] => v4(high, low),
        [0, 0, 0, 0, 0, 0, high, low] if high != 0 => v4(high, low),
        [0x2002, high, low, ..] => v4(high, low),
        _ => address,
    }
}

/// Whether an address belongs to the public internet: none of the special-purpose blocks of the IANA registries (RFC 6890 and
/// its updates), which cover loopback, private and shared networks, link-local with the cloud metadata address, benchmarking,
/// documentation, multicast and what is reserved.
fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            let [a, b, c, _] = v4.octets();
            !(a == 0
                || a == 10
                || a == 127
                || a >= 224
                || (a == 100 && (64..128).contains(&b))
                || (a == 169 && b == 254)
                || (a == 172 && (16..32).contains(&b))
                || (a == 192 && b == 168)
                || (a == 192 && b == 0 && (c == 0 || c == 2))
                || (a == 192 && b == 88 && c == 99)
                || (a == 198 && (b == 18 || b == 19))
                || (a == 198 && b == 51 && c == 100)
                || (a == 203 && b == 0 && c == 113))
        }
        IpAddr::V6(v6) => {
            let s = v6.segments();
            // Only 2000::/3 is handed out to the public; out of it come Teredo and the other protocol assignments (2001::/23) and
            // the documentation blocks (2001:db8::/32, 3fff::/20).
            (s[0] & 0xe000) == 0x2000
                && !(s[0] == 0x2001 && s[1] < 0x200)
                && !(s[0] == 0x2001 && s[1] == 0xdb8)
                && !(s[0] == 0x3fff && s[1] < 0x1000)
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

    #[test]
    fn nothing_private_is_public_in_any_spelling() {
        let grant = HttpGrant::default();
        for address in [
            "127.0.0.1",
            "127.9.9.9",
            "0.0.0.0",
            "10.1.2.3",
            "172.16.0.1",
            "172.31.255.255",
            "192.168.1.1",
            "169.254.169.254",
            "100.64.0.1",
            "192.0.0.1",
            "198.18.0.1",
            "224.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
            "::127.0.0.1",
            "64:ff9b::7f00:1",
            "2002:7f00:1::",
            "fe80::1",
            "fc00::1",
            "fd00:ec2::254",
            "ff02::1",
            "2001:db8::1",
            "2001::1",
            "3fff::1",
        ] {
            assert!(!grant.allows_address(address.parse().unwrap()), "{address}");
        }
        for address in [
            "1.1.1.1",
            "172.32.0.1",
            "100.128.0.1",
            "2606:4700::1111",
            "::ffff:8.8.8.8",
        ] {
            assert!(grant.allows_address(address.parse().unwrap()), "{address}");
        }
    }

    #[test]
    fn an_exception_covers_its_network_and_no_other() {
        let grant = HttpGrant {
            private_networks: vec!["127.0.0.0/8".parse().unwrap()],
            ..HttpGrant::default()
        };
        assert!(grant.allows_address("127.0.0.1".parse().unwrap()));
        assert!(grant.allows_address("::ffff:127.0.0.1".parse().unwrap()));
        assert!(!grant.allows_address("10.0.0.1".parse().unwrap()));
        assert!(!grant.allows_address("::1".parse().unwrap()));
    }

    #[test]
    fn a_host_may_be_limited_to_methods() {
        let grant: HttpGrant = serde_json::from_value(serde_json::json!({
            "hosts": ["example.com", {"host": "api.test:8080", "methods": ["POST"]}]
        }))
        .unwrap();
        assert!(grant.allows_method("DELETE", "example.com", 443));
        assert!(grant.allows_method("POST", "api.test", 8080));
        assert!(grant.allows("api.test", 8080) && !grant.allows_method("GET", "api.test", 8080));
        let text = serde_json::to_string(&grant).unwrap();
        assert_eq!(serde_json::from_str::<HttpGrant>(&text).unwrap(), grant);
        for bad in [
            serde_json::json!({"hosts": [{"host": "a.test", "methods": ["post"]}]}),
            serde_json::json!({"hosts": [{"host": "a.test", "method": ["POST"]}]}),
            serde_json::json!({"hosts": [7]}),
        ] {
            assert!(serde_json::from_value::<HttpGrant>(bad.clone()).is_err(), "{bad}");
        }
    }

    #[test]
    fn mail_may_be_granted_as_a_whole_or_by_domain() {
        let read = |value| serde_json::from_value::<MailGrant>(value).unwrap();
        assert_eq!(read(serde_json::json!(false)), MailGrant::default());
        assert_eq!(read(serde_json::json!(true)), MailGrant::unlimited());
        let grant = read(serde_json::json!({"recipients": ["Example.com", "*.example.org"]}));
        let allowed = |domain: &str| grant.recipients.iter().flatten().any(|p| p.matches(domain));
        assert!(grant.allowed && grant.senders.is_none());
        assert!(allowed("EXAMPLE.com") && allowed("a.example.org"));
        assert!(!allowed("example.org") && !allowed("badexample.com") && !allowed("x.example.com"));
        let text = serde_json::to_string(&grant).unwrap();
        assert_eq!(serde_json::from_str::<MailGrant>(&text).unwrap(), grant);
        assert!(serde_json::from_value::<MailGrant>(serde_json::json!({"recipients": ["a@b.c"]})).is_err());
    }

    #[test]
    fn values_may_be_kept_within_a_quota() {
        let read = |value| serde_json::from_value::<KeyValueGrant>(value).unwrap();
        assert!(!read(serde_json::json!(false)).allowed);
        let quota = read(serde_json::json!({"bytes": "2 KiB"}));
        assert_eq!((quota.allowed, quota.bytes, quota.keys), (true, 2048, 1_000));
        let text = serde_json::to_string(&quota).unwrap();
        assert_eq!(serde_json::from_str::<KeyValueGrant>(&text).unwrap(), quota);
    }
}
