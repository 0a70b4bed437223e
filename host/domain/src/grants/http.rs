//! Where a plugin may send HTTP requests.

use std::{fmt, net::IpAddr, str::FromStr};

use ipnet::IpNet;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{
    address::{canonical, is_public},
    host::{HostPattern, InvalidHostPattern},
    network,
};

/// Where a plugin may send HTTP requests.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HttpGrant {
    /// Names, ports and methods; a request to any other is refused before its name is resolved.
    pub hosts: Vec<HostRule>,
    /// Exceptions from the rule that private, loopback, link-local and metadata addresses are
    /// refused.
    #[serde(deserialize_with = "networks")]
    pub private_networks: Vec<IpNet>,
}

impl HttpGrant {
    /// Whether a request to this host and port may be made at all, with some method. `host` is a
    /// name in lower case or an IP address without brackets.
    #[must_use]
    pub fn allows(&self, host: &str, port: u16) -> bool {
        self.hosts.iter().any(|rule| rule.host.matches(host, port))
    }

    /// Whether a request with this method (in upper case) may be made to this host and port.
    #[must_use]
    pub fn allows_method(&self, method: &str, host: &str, port: u16) -> bool {
        self.hosts.iter().any(|rule| rule.host.matches(host, port) && rule.allows_method(method))
    }

    /// Whether a resolved address may be connected to: it is public, or the operator made an
    /// exception for it.
    #[must_use]
    pub fn allows_address(&self, address: IpAddr) -> bool {
        let address = canonical(address);
        is_public(address) || self.private_networks.iter().any(|network| network.contains(&address))
    }
}

fn networks<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<IpNet>, D::Error> {
    let texts = Vec::<String>::deserialize(deserializer)?;
    let read = texts.iter().map(|text| network::read(text));
    read.collect::<Result<_, _>>().map_err(serde::de::Error::custom)
}

/// A host that may be asked, and with which methods. As text it is the pattern alone and stands for
/// every method; otherwise `{host = "api.example.com", methods = ["POST"]}`.
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
    pub(super) fn allows_method(&self, method: &str) -> bool {
        self.methods.as_ref().is_none_or(|methods| methods.iter().any(|allowed| allowed == method))
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
            Some(methods) => HostTable { host: self.host.clone(), methods: methods.clone() }
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
                Ok(HostPattern::from(text.to_owned()).into())
            }

            fn visit_map<A: serde::de::MapAccess<'de>>(self, map: A) -> Result<HostRule, A::Error> {
                let table =
                    HostTable::deserialize(serde::de::value::MapAccessDeserializer::new(map))?;
                for method in &table.methods {
                    let is_method =
                        !method.is_empty() && method.bytes().all(|byte| byte.is_ascii_uppercase());
                    if !is_method {
                        return Err(serde::de::Error::custom(format!(
                            "{method:?} is not an HTTP method in upper case, such as \"POST\""
                        )));
                    }
                }
                Ok(HostRule { host: table.host, methods: Some(table.methods) })
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
        for address in ["1.1.1.1", "172.32.0.1", "100.128.0.1", "2606:4700::1111", "::ffff:8.8.8.8"]
        {
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
}
