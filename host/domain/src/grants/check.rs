//! Whether grants may be given as they are written: each part can take effect, and reads as it
//! looks.

use std::collections::HashSet;

use super::{Grants, HostRule, HttpGrant, KeyValueGrant, MailGrant, network};

/// The most bytes and keys that a quota may have: what both databases count.
const QUOTA: u64 = i64::MAX as u64;

/// A grant that may not be given.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {why}")]
pub struct InvalidGrant {
    /// Where it stands, such as `http.hosts`.
    pub field: &'static str,
    /// One sentence, which names the part and says what to write instead.
    pub why: String,
}

fn invalid(field: &'static str, why: impl Into<String>) -> InvalidGrant {
    InvalidGrant { field, why: why.into() }
}

impl Grants {
    /// Whether they may be given.
    ///
    /// # Errors
    /// Which part can match nothing, is named twice, or is read otherwise than it looks.
    pub fn check(&self) -> Result<(), InvalidGrant> {
        self.http.check()?;
        self.mail.check()?;
        self.keyvalue.check()?;
        match twice(&self.secrets) {
            Some(name) => Err(invalid("secrets", format!("{name:?} is named twice"))),
            None => Ok(()),
        }
    }
}

impl HttpGrant {
    fn check(&self) -> Result<(), InvalidGrant> {
        const FIELD: &str = "http.hosts";
        for rule in &self.hosts {
            rule.host.check().map_err(|error| invalid(FIELD, error.to_string()))?;
            let Some(methods) = &rule.methods else { continue };
            let host = &rule.host;
            if methods.is_empty() {
                let why = format!("{host} has no methods: name some, or leave the host out");
                return Err(invalid(FIELD, why));
            }
            if methods.iter().any(|method| method == "CONNECT") {
                let why =
                    format!("{host} has the method CONNECT, which no plugin may use: leave it out");
                return Err(invalid(FIELD, why));
            }
            if let Some(method) = twice(methods) {
                return Err(invalid(FIELD, format!("{host} has the method {method} twice")));
            }
        }
        let hosts: Vec<_> = self.hosts.iter().map(|rule| rule.host.to_string()).collect();
        if let Some(host) = twice(&hosts) {
            let why = format!("{host} is named twice: write one entry with all its methods");
            return Err(invalid(FIELD, why));
        }
        self.check_shadows()?;
        const NETWORKS: &str = "http.private_networks";
        for network in &self.private_networks {
            network::check(network).map_err(|why| invalid(NETWORKS, why))?;
        }
        match twice(&self.private_networks) {
            Some(network) => Err(invalid(NETWORKS, format!("{network} is named twice"))),
            None => Ok(()),
        }
    }
}

impl HttpGrant {
    /// A limit to methods that another entry lifts again looks like a limit and is none.
    fn check_shadows(&self) -> Result<(), InvalidGrant> {
        let open: Vec<_> = self.hosts.iter().filter(|rule| rule.methods.is_none()).collect();
        for limited in self.hosts.iter().filter(|rule| rule.methods.is_some()) {
            let ports = limited.host.by_port();
            let lifts = |rule: &&&HostRule| ports.iter().any(|port| rule.host.covers(port));
            if let Some(rule) = open.iter().find(lifts) {
                let why = format!(
                    "{} is limited to methods, and {} allows it all of them: leave one of the two out",
                    limited.host, rule.host
                );
                return Err(invalid("http.hosts", why));
            }
        }
        Ok(())
    }
}

impl MailGrant {
    fn check(&self) -> Result<(), InvalidGrant> {
        if self.recipients.as_ref().is_some_and(Vec::is_empty) {
            let why = "an empty list allows no recipient at all: write `mail = false`, or leave the list out";
            return Err(invalid("mail.recipients", why));
        }
        for (field, list) in
            [("mail.senders", &self.senders), ("mail.recipients", &self.recipients)]
        {
            let list = list.as_deref().unwrap_or_default();
            for pattern in list {
                pattern.check().map_err(|why| invalid(field, why))?;
            }
            let texts: Vec<_> = list.iter().map(ToString::to_string).collect();
            if let Some(domain) = twice(&texts) {
                return Err(invalid(field, format!("{domain} is named twice")));
            }
        }
        Ok(())
    }
}

impl KeyValueGrant {
    fn check(&self) -> Result<(), InvalidGrant> {
        if !self.allowed {
            return Ok(());
        }
        for (field, value) in [("keyvalue.bytes", self.bytes), ("keyvalue.keys", self.keys)] {
            if value == 0 {
                return Err(invalid(field, "nothing can be kept with 0: write `keyvalue = false`"));
            }
            if value > QUOTA {
                return Err(invalid(
                    field,
                    format!("{value} is more than {QUOTA}, the most that is counted"),
                ));
            }
        }
        Ok(())
    }
}

fn twice<T: Eq + std::hash::Hash>(list: &[T]) -> Option<&T> {
    let mut seen = HashSet::new();
    list.iter().find(|item| !seen.insert(*item))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(grants: serde_json::Value) -> Result<(), InvalidGrant> {
        serde_json::from_value::<Grants>(grants).unwrap().check()
    }

    #[test]
    fn what_can_never_match_or_is_said_twice_is_refused() {
        for (grants, expected) in [
            (json!({"http": {"hosts": ["a.test", "127.1"]}}), "write 127.0.0.1"),
            (
                json!({"http": {"hosts": [{"host": "A.test", "methods": ["GET"]}]}}),
                "write \"a.test\"",
            ),
            (
                json!({"http": {"hosts": [{"host": "a.test", "methods": []}]}}),
                "a.test has no methods",
            ),
            (json!({"http": {"hosts": [{"host": "a.test", "methods": ["CONNECT"]}]}}), "CONNECT"),
            (
                json!({"http": {"hosts": [{"host": "a.test", "methods": ["GET", "GET"]}]}}),
                "GET twice",
            ),
            (
                json!({"http": {"hosts": ["a.test", {"host": "a.test", "methods": ["GET"]}]}}),
                "a.test is named twice: write one entry",
            ),
            (json!({"http": {"private_networks": ["10.0.0.1/8"]}}), "write 10.0.0.0/8"),
            (json!({"http": {"private_networks": ["10.0.0.0/8", "10.0.0.0/8"]}}), "named twice"),
            (json!({"mail": {"recipients": []}}), "write `mail = false`"),
            (json!({"mail": {"recipients": ["a@b.test"]}}), "write \"b.test\""),
            (json!({"mail": {"senders": ["a.test", "a.test"]}}), "a.test is named twice"),
            (json!({"keyvalue": {"bytes": 0}}), "write `keyvalue = false`"),
            (json!({"keyvalue": {"keys": 0}}), "write `keyvalue = false`"),
            (json!({"keyvalue": {"bytes": u64::MAX}}), "the most that is counted"),
            (json!({"secrets": ["a", "b", "a"]}), "\"a\" is named twice"),
        ] {
            let error = check(grants.clone()).unwrap_err().to_string();
            assert!(error.contains(expected), "{grants}: {error}");
        }
        let all = json!({
            "http": {
                "hosts": ["*", {"host": "a.test:8080", "methods": ["GET", "POST"]}],
                "private_networks": ["10.0.0.0/8", "fd00::/8"]
            },
            "mail": {"senders": [], "recipients": ["a.test"]}, "keyvalue": true, "secrets": ["a", "b"]
        });
        assert_eq!(check(all), Ok(()));
    }
}
