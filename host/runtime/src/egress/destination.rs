//! Where a request goes: the authority that is really dialled, and the addresses behind it.

use std::{
    io,
    net::{IpAddr, SocketAddr},
};

use http::{
    Method, Uri,
    uri::{Authority, PathAndQuery, Scheme},
};
use taskforge_domain::{HttpGrant, TenantId};
use url::{Host, Position, Url};

use super::resolver::Resolver;
use crate::log::cut;

/// Why a request does not leave.
#[derive(Debug)]
pub(super) enum Refusal {
    /// The URL of the request cannot be used.
    Uri(String),
    /// The operator has not granted this host and port.
    NotGranted(String),
    /// The host is granted, but its address is not.
    PrivateAddress(String),
    /// The name does not resolve.
    Lookup(String),
    /// The look-up of the name took too long.
    LookupTimeout,
}

/// A host and port that the plugin may reach.
#[derive(Debug)]
pub(super) struct Destination {
    pub(super) is_tls: bool,
    /// The client gets this very value, so what was checked is what is dialled.
    pub(super) authority: Authority,
    pub(super) port: u16,
    host: Host<String>,
}

impl Destination {
    /// Reads the authority of a URL, and checks the grant. The grant ignores path and query, which
    /// go out as the guest gave them ([`Destination::uri`]).
    ///
    /// `Url` applies the rules of browsers: `127.1`, `2130706433`, `0x7f.0.0.1` and
    /// `%31%32%37.0.0.1` all become `127.0.0.1`, and names become lower case and ASCII. The grant
    /// is checked against this form, whatever the guest's spelling, and the server sees it in
    /// `Host`.
    pub(super) fn granted(method: &Method, uri: &Uri, grant: &HttpGrant) -> Result<Self, Refusal> {
        let invalid = |why: &str| Refusal::Uri(format!("an HTTP request was refused: {why}"));
        let is_tls = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => return Err(invalid("its scheme is neither http nor https")),
        };
        let scheme = if is_tls { "https" } else { "http" };
        let given = uri.authority().map_or("", Authority::as_str);
        let url = Url::parse(&format!("{scheme}://{given}/"))
            .map_err(|error| invalid(&format!("its address is not valid: {error}")))?;
        if !url.username().is_empty() || url.password().is_some() {
            return Err(invalid(
                "its address carries a user name or password; send an Authorization header instead",
            ));
        }
        let (Some(host), Some(port)) =
            (url.host().map(|host| unmapped(host.to_owned())), url.port_or_known_default())
        else {
            return Err(invalid("its address names no host"));
        };
        // Only the authority of the URL that was read.
        let authority = &url[Position::BeforeHost..Position::AfterPort];
        let (Ok(authority), "/", None) = (authority.parse(), url.path(), url.query()) else {
            return Err(invalid("its address names no host"));
        };
        if port == 0 {
            return Err(invalid("nothing listens on port 0"));
        }
        let name = plain(&host);
        if !grant.allows(&name, port) {
            let pattern = pattern(&host, port);
            return Err(Refusal::NotGranted(format!(
                "a request to {pattern} was refused: grant it with `http.hosts = [\"{pattern}\"]` under [grants]"
            )));
        }
        if !grant.allows_method(method.as_str(), &name, port) {
            let pattern = pattern(&host, port);
            let method = cut(method.as_str(), 50);
            return Err(Refusal::NotGranted(format!(
                "a {method} request to {pattern} was refused: grant it with `http.hosts = [{{ host = \"{pattern}\", \
                 methods = [\"{method}\"] }}]` under [grants]"
            )));
        }
        Ok(Self { is_tls, authority, port, host })
    }

    /// The URL to request: the authority that was checked, and the guest's path and query byte for
    /// byte, because signatures cover these.
    pub(super) fn uri(&self, given: &Uri) -> Result<Uri, http::Error> {
        let path = given.path_and_query().cloned();
        Uri::builder()
            .scheme(if self.is_tls { Scheme::HTTPS } else { Scheme::HTTP })
            .authority(self.authority.clone())
            .path_and_query(path.unwrap_or_else(|| PathAndQuery::from_static("/")))
            .build()
    }

    /// The address, if the host is one and not a name.
    pub(super) fn literal_address(&self) -> Option<SocketAddr> {
        let address = match self.host {
            Host::Ipv4(v4) => IpAddr::V4(v4),
            Host::Ipv6(v6) => IpAddr::V6(v6),
            Host::Domain(_) => return None,
        };
        Some(SocketAddr::new(address, self.port))
    }

    /// Asks the resolver, once.
    pub(super) async fn look_up(
        &self,
        resolver: &Resolver,
        tenant: &TenantId,
    ) -> Result<Vec<SocketAddr>, Refusal> {
        let name = plain(&self.host);
        let found = resolver.resolve(tenant, name.clone(), self.port).await;
        found.map_err(|error| match error.kind() {
            io::ErrorKind::TimedOut => Refusal::LookupTimeout,
            _ => Refusal::Lookup(format!("{name}: {error}")),
        })
    }

    /// Drops the addresses that the grants do not allow. The rest is sorted, so that the same set
    /// has the same pool.
    pub(super) fn allowed(
        &self,
        found: &[SocketAddr],
        grants: &[&HttpGrant],
    ) -> Result<Vec<SocketAddr>, Refusal> {
        if found.is_empty() {
            return Err(Refusal::Lookup(format!("{}: no address", plain(&self.host))));
        }
        let mut allowed: Vec<_> = found
            .iter()
            .copied()
            .filter(|found| grants.iter().any(|grant| grant.allows_address(found.ip())))
            .collect();
        if allowed.is_empty() {
            return Err(Refusal::PrivateAddress(self.explain_private(found)));
        }
        allowed.sort_unstable();
        allowed.dedup();
        Ok(allowed)
    }

    fn explain_private(&self, found: &[SocketAddr]) -> String {
        let host = pattern(&self.host, self.port);
        let addresses: Vec<_> = found.iter().map(|found| found.ip().to_string()).collect();
        let addresses = addresses.join(", ");
        format!(
            "a request to {host} was refused: {addresses} is not a public address; if it is meant, grant its \
             network with `http.private_networks` under [grants]"
        )
    }
}

/// An IPv4 address in the form of an IPv6 address becomes that IPv4 address, the form of grants.
fn unmapped(host: Host<String>) -> Host<String> {
    match host {
        Host::Ipv6(v6) => v6.to_ipv4_mapped().map_or(Host::Ipv6(v6), Host::Ipv4),
        host => host,
    }
}

/// The host in the form of grants: without brackets.
fn plain(host: &Host<String>) -> String {
    match host {
        Host::Domain(name) => name.clone(),
        Host::Ipv4(v4) => v4.to_string(),
        Host::Ipv6(v6) => v6.to_string(),
    }
}

/// The host and port as an operator writes a grant for them.
fn pattern(host: &Host<String>, port: u16) -> String {
    match port {
        80 | 443 => host.to_string(),
        port => format!("{host}:{port}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grant(hosts: &[&str]) -> HttpGrant {
        HttpGrant {
            hosts: hosts.iter().map(|host| host.parse().unwrap()).collect(),
            ..HttpGrant::default()
        }
    }

    fn granted(uri: &str, hosts: &[&str]) -> Result<Destination, Refusal> {
        Destination::granted(&Method::GET, &uri.parse().unwrap(), &grant(hosts))
    }

    #[test]
    fn every_spelling_of_an_address_is_that_address() {
        for spelling in ["127.0.0.1", "2130706433", "127.1", "0x7f.1", "0177.0.0.1", "0x7f000001"] {
            let destination = granted(&format!("http://{spelling}/"), &["*"]).unwrap();
            let address = destination.literal_address().unwrap();
            assert_eq!(address.to_string(), "127.0.0.1:80", "{spelling}");
            assert!(matches!(
                destination.allowed(&[address], &[&grant(&["*"])]),
                Err(Refusal::PrivateAddress(_))
            ));
        }
    }

    #[test]
    fn a_mapped_address_is_not_public_either() {
        for spelling in ["[::1]", "[::ffff:127.0.0.1]", "[::ffff:a9fe:a9fe]", "[64:ff9b::7f00:1]"] {
            let destination = granted(&format!("http://{spelling}/"), &["*"]).unwrap();
            let address = destination.literal_address().unwrap();
            assert!(destination.allowed(&[address], &[&grant(&["*"])]).is_err(), "{spelling}");
        }
    }

    #[test]
    fn the_grant_sees_the_host_that_is_dialled() {
        assert!(granted("http://EXAMPLE.com/", &["example.com"]).is_ok());
        assert!(granted("http://example.com./", &["example.com"]).is_ok());
        assert!(matches!(
            granted("http://example.com:8080/", &["example.com"]),
            Err(Refusal::NotGranted(_))
        ));
        assert!(matches!(
            granted("http://example.com@evil.test/", &["example.com"]),
            Err(Refusal::Uri(_))
        ));
        assert!(matches!(
            granted("http://evil.test/@example.com", &["example.com"]),
            Err(Refusal::NotGranted(_))
        ));
        assert!(matches!(
            granted("http://evil.test?@example.com", &["example.com"]),
            Err(Refusal::NotGranted(_))
        ));
        assert!(matches!(granted("http://example.com:0/", &["*:*"]), Err(Refusal::Uri(_))));
    }

    #[test]
    fn what_is_sent_is_the_checked_authority_and_the_given_path() {
        for (given, sent) in [
            ("http://EXAMPLE.com:80/a/../b", "http://example.com/a/../b"),
            ("https://example.com:443/%2e/%2E?q='", "https://example.com/%2e/%2E?q='"),
            ("http://127.1/./a//b\\c", "http://127.0.0.1/./a//b\\c"),
            ("http://[::FFFF:127.0.0.1]:8080?x", "http://[::ffff:7f00:1]:8080/?x"),
            ("http://example.com", "http://example.com/"),
            ("http://example.com/{a}|\"^?`", "http://example.com/{a}|\"^?`"),
        ] {
            let uri: Uri = given.parse().unwrap();
            let destination = Destination::granted(&Method::GET, &uri, &grant(&["*:*"])).unwrap();
            assert_eq!(destination.uri(&uri).unwrap().to_string(), sent, "{given}");
        }
    }

    #[test]
    fn only_web_addresses_are_dialled() {
        for uri in ["ftp://example.com/", "example.com:80", "/path", "*"] {
            let refused = granted(uri, &["*:*"]);
            assert!(matches!(refused, Err(Refusal::Uri(_))), "{uri}: {refused:?}");
        }
    }

    #[test]
    fn a_refusal_says_what_to_grant() {
        let Err(Refusal::NotGranted(text)) = granted("http://api.test:8080/x", &[]) else {
            panic!()
        };
        assert!(text.contains(r#"http.hosts = ["api.test:8080"]"#), "{text}");
        let Err(Refusal::NotGranted(text)) = granted("http://[2001:db8::1]:81/x", &[]) else {
            panic!()
        };
        assert!(text.contains(r#"["[2001:db8::1]:81"]"#), "{text}");
    }

    #[test]
    fn a_method_may_need_a_grant_of_its_own() {
        let rule =
            serde_json::json!({"hosts": [{"host": "api.test:8080", "methods": ["POST", "PUT"]}]});
        let grant: HttpGrant = serde_json::from_value(rule).unwrap();
        let uri = "http://api.test:8080/x".parse().unwrap();
        assert!(Destination::granted(&Method::POST, &uri, &grant).is_ok());
        let Err(Refusal::NotGranted(text)) = Destination::granted(&Method::GET, &uri, &grant)
        else {
            panic!()
        };
        let expected = r#"http.hosts = [{ host = "api.test:8080", methods = ["GET"] }]"#;
        assert!(text.contains(expected), "{text}");
    }

    #[test]
    fn the_hosts_own_exceptions_add_to_the_plugins() {
        let destination = granted("http://mixed.test/", &["*"]).unwrap();
        let house = HttpGrant {
            private_networks: vec!["10.0.0.0/8".parse().unwrap()],
            ..HttpGrant::default()
        };
        let found = ["10.0.0.1:80", "127.0.0.1:80"].map(|address| address.parse().unwrap());
        let allowed = destination.allowed(&found, &[&grant(&["*"]), &house]).unwrap();
        assert_eq!(allowed, ["10.0.0.1:80".parse().unwrap()]);
    }

    #[test]
    fn a_name_keeps_only_its_allowed_addresses() {
        let destination = granted("http://mixed.test/", &["*"]).unwrap();
        let found = ["10.0.0.1:80", "8.8.8.8:80", "127.0.0.1:80"]
            .map(|address| address.parse().unwrap())
            .to_vec();
        let allowed = destination.allowed(&found, &[&grant(&["*"])]).unwrap();
        assert_eq!(allowed, ["8.8.8.8:80".parse().unwrap()]);
    }
}
