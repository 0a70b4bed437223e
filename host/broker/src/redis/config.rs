//! Where Redis is, and how it is used.

use std::time::Duration;

use redis::{Client, IntoConnectionInfo, RedisResult, TlsCertificates};
use taskforge_domain::{Clock, FleetId};

use crate::{
    BrokerError, BrokerResult,
    queue::{AGEING_AFTER, LANE_CAPACITY},
};

/// How a [`RedisBroker`](super::RedisBroker) reaches Redis or Valkey, and what it keeps there.
#[derive(Clone)]
pub struct RedisConfig {
    /// `redis://[user][:password]@host[:port][/db]`, in which a slash in user or password is
    /// written `%2F`, or `rediss://` for TLS. For a cluster `redis-cluster://` or
    /// `rediss-cluster://`, where more hosts may follow: `redis-cluster://one:6379,two:6379`. All
    /// have the same user and password.
    pub url: String,
    /// Whether the server is part of a cluster although the scheme does not say so.
    pub cluster: bool,
    /// Every key begins with it, as a hash tag. Each fleet on a server needs its own.
    pub prefix: String,
    /// The fleet that owns the queues. If another fleet has queues under this prefix the broker
    /// leaves them alone: it is away, and says why. `None`: the owner is not checked.
    pub fleet: Option<FleetId>,
    /// The most hints in a lane.
    pub lane_capacity: usize,
    /// A hint is overdue once its task is older than this.
    pub ageing_after: Duration,
    /// Judges the age of tasks: the store's clock.
    pub clock: Clock,
    /// A command without an answer fails after this.
    pub timeout: Duration,
    /// Trusted certificate authorities, as PEM. `None`: the system's, or those that `SSL_CERT_FILE`
    /// and `SSL_CERT_DIR` name.
    pub authorities: Option<String>,
}

impl RedisConfig {
    /// The defaults, for this URL.
    #[must_use]
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            cluster: false,
            prefix: "taskforge".into(),
            fleet: None,
            lane_capacity: LANE_CAPACITY,
            ageing_after: AGEING_AFTER,
            clock: Clock::default(),
            timeout: Duration::from_secs(1),
            authorities: None,
        }
    }

    /// The settings of TLS where they are not the defaults.
    pub(super) fn certificates(&self) -> Option<TlsCertificates> {
        let pem = self.authorities.as_ref()?;
        Some(TlsCertificates { client_tls: None, root_cert: Some(pem.clone().into_bytes()) })
    }

    /// Whether this is a cluster, and the URLs of its first servers.
    pub(super) fn servers(&self) -> BrokerResult<(bool, Vec<String>)> {
        let invalid = |why: &str| BrokerError(format!("the URL of Redis is not valid: {why}"));
        if self.prefix.is_empty() || self.prefix.contains(['{', '}']) {
            return Err(BrokerError(
                "the prefix of keys must not be empty nor contain braces".into(),
            ));
        }
        let (scheme, rest) =
            self.url.split_once("://").ok_or_else(|| invalid("it has no scheme"))?;
        let plain = scheme.strip_suffix("-cluster");
        let is_cluster = self.cluster || plain.is_some();
        let scheme = plain.unwrap_or(scheme);
        // User and password end before the first slash; every other character may be part of them.
        let head = rest.find('/').unwrap_or(rest.len());
        let (user, hosts) = match rest.get(..head).and_then(|head| head.rfind('@')) {
            Some(at) => {
                (escape(rest.get(..at).unwrap_or_default()), rest.get(at + 1..).unwrap_or_default())
            }
            None => (String::new(), rest),
        };
        let at = if user.is_empty() { "" } else { "@" };
        let hosts: Vec<_> = if is_cluster { hosts.split(',').collect() } else { vec![hosts] };
        let urls: Vec<_> =
            hosts.iter().map(|host| format!("{scheme}://{user}{at}{host}")).collect();
        for url in &urls {
            // The error may quote the URL, and with it the password.
            url.as_str().into_connection_info().map_err(|_| invalid("it cannot be parsed"))?;
        }
        Ok((is_cluster, urls))
    }
}

/// A client of one server.
pub(super) fn client(url: &str, certificates: Option<&TlsCertificates>) -> RedisResult<Client> {
    match certificates {
        Some(certificates) if url.starts_with("rediss:") => {
            Client::build_with_tls(url, certificates.clone())
        }
        _ => Client::open(url),
    }
}

/// Escapes the characters of user and password that mean something in a URL as `%XX`. The first
/// colon divides the two.
fn escape(credentials: &str) -> String {
    let escape = |text: &str| -> String {
        text.chars()
            .map(|c| match c {
                '#' | '?' | '@' | '[' | ']' | ':' => format!("%{:02X}", u32::from(c)),
                c => c.to_string(),
            })
            .collect()
    };
    match credentials.split_once(':') {
        Some((user, password)) => format!("{}:{}", escape(user), escape(password)),
        None => escape(credentials),
    }
}

impl std::fmt::Debug for RedisConfig {
    /// Without the password.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let host = self.url.rsplit_once('@').map_or(self.url.as_str(), |(_, host)| host);
        f.debug_struct("RedisConfig")
            .field("host", &host)
            .field("cluster", &self.cluster)
            .field("prefix", &self.prefix)
            .field("fleet", &self.fleet)
            .field("lane_capacity", &self.lane_capacity)
            .field("ageing_after", &self.ageing_after)
            .field("timeout", &self.timeout)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cluster_is_a_list_of_servers() {
        let servers = |url: &str| RedisConfig::new(url).servers();
        let expected = ["rediss://u:p@one:1", "rediss://u:p@two:2"].map(String::from).to_vec();
        assert_eq!(servers("rediss-cluster://u:p@one:1,two:2").unwrap(), (true, expected));
        let expected = vec!["redis://one/3".to_owned()];
        assert_eq!(servers("redis://one/3").unwrap(), (false, expected));
        for bad in ["", "one:6379", "http://one", "redis://"] {
            assert!(servers(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn unusual_characters_and_addresses_arrive_as_they_are() {
        for (url, host, password) in [
            ("redis://u:p#a?s@s:w%2Fo%25@[::1]:7/3", "::1", "p#a?s@s:w/o%"),
            ("rediss://:p[w]@h.example:7", "h.example", "p[w]"),
            ("redis-cluster://u:p#w@[::1]:7,two:8", "::1", "p#w"),
        ] {
            let (_, urls) = RedisConfig::new(url).servers().unwrap();
            let info = urls[0].as_str().into_connection_info().unwrap();
            assert!(info.addr().to_string().contains(host), "{url}: {}", info.addr());
            assert_eq!(info.redis_settings().password(), Some(password), "{url}");
        }
    }

    #[test]
    fn neither_errors_nor_debug_show_the_password() {
        let config = RedisConfig::new("redis://u:secret@:x:y");
        let shown = format!("{config:?} {:?}", config.servers());
        assert!(!shown.contains("secret"), "{shown}");
    }
}
