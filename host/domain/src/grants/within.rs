//! Whether what is granted stays within an upper bound.

use std::fmt;

use super::{DomainPattern, Grants, HostRule, HttpGrant, KeyValueGrant, MailGrant};

/// A grant that goes beyond its bound.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {what}")]
pub struct Excess {
    /// Which grant: `grants.http.hosts`, for example.
    pub field: &'static str,
    /// What of it goes beyond.
    pub what: String,
}

impl Excess {
    fn of(field: &'static str, what: impl fmt::Display) -> Self {
        Self { field, what: what.to_string() }
    }
}

// Each grant is taken apart field by field, without `..`: one that is new does not compile before
// somebody has decided what its bound means.
impl Grants {
    /// Whether everything that these grants allow is allowed by `bound` too.
    ///
    /// The answer is exact for names, ports, methods, domains and quotas. Networks must each lie
    /// within one network of the bound.
    ///
    /// # Errors
    /// The first grant that goes beyond.
    pub fn within(&self, bound: &Self) -> Result<(), Excess> {
        let Self { http, mail, secrets, keyvalue } = self;
        http_within(http, &bound.http)?;
        mail_within(mail, &bound.mail)?;
        if let Some(secret) = secrets.iter().find(|secret| !bound.secrets.contains(secret)) {
            return Err(Excess::of("grants.secrets", format_args!("{secret:?}")));
        }
        keyvalue_within(*keyvalue, bound.keyvalue)
    }
}

fn http_within(grant: &HttpGrant, bound: &HttpGrant) -> Result<(), Excess> {
    let HttpGrant { hosts, private_networks } = grant;
    for rule in hosts {
        rule_within(rule, &bound.hosts)?;
    }
    let is_outside = |network: &&ipnet::IpNet| {
        let mut bounds = bound.private_networks.iter();
        !bounds.any(|outer| outer.contains(*network))
    };
    match private_networks.iter().find(is_outside) {
        Some(network) => Err(Excess::of("grants.http.private_networks", network)),
        None => Ok(()),
    }
}

fn rule_within(rule: &HostRule, bounds: &[HostRule]) -> Result<(), Excess> {
    let HostRule { host, methods } = rule;
    for part in host.by_port() {
        let covering = || bounds.iter().filter(|bound| bound.host.covers(&part));
        match methods {
            None if covering().any(|bound| bound.methods.is_none()) => {}
            None => return Err(Excess::of("grants.http.hosts", &part)),
            Some(methods) => {
                let is_outside =
                    |method: &&String| !covering().any(|bound| bound.allows_method(method));
                if let Some(method) = methods.iter().find(is_outside) {
                    let what = format_args!("{method} {part}");
                    return Err(Excess::of("grants.http.hosts", what));
                }
            }
        }
    }
    Ok(())
}

fn mail_within(grant: &MailGrant, bound: &MailGrant) -> Result<(), Excess> {
    let MailGrant { allowed, senders, recipients } = grant;
    if !*allowed {
        return Ok(());
    }
    if !bound.allowed {
        return Err(Excess::of("grants.mail", "mail at all"));
    }
    domains_within("grants.mail.senders", senders.as_deref(), bound.senders.as_deref())?;
    let outer = bound.recipients.as_deref();
    domains_within("grants.mail.recipients", recipients.as_deref(), outer)
}

/// `None` stands for every domain.
fn domains_within(
    field: &'static str,
    domains: Option<&[DomainPattern]>,
    bound: Option<&[DomainPattern]>,
) -> Result<(), Excess> {
    let Some(bound) = bound else { return Ok(()) };
    let Some(domains) = domains else {
        return Err(Excess::of(field, "every domain"));
    };
    let is_outside = |domain: &&DomainPattern| !bound.iter().any(|outer| outer.covers(domain));
    match domains.iter().find(is_outside) {
        Some(domain) => Err(Excess::of(field, domain)),
        None => Ok(()),
    }
}

fn keyvalue_within(grant: KeyValueGrant, bound: KeyValueGrant) -> Result<(), Excess> {
    let KeyValueGrant { allowed, bytes, keys } = grant;
    if !allowed {
        return Ok(());
    }
    if !bound.allowed {
        return Err(Excess::of("grants.keyvalue", "values at all"));
    }
    if bytes > bound.bytes {
        return Err(Excess::of("grants.keyvalue.bytes", bytes));
    }
    if keys > bound.keys {
        return Err(Excess::of("grants.keyvalue.keys", keys));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn grants(value: Value) -> Grants {
        serde_json::from_value(value).unwrap()
    }

    fn http(hosts: &Value) -> Grants {
        grants(json!({ "http": { "hosts": hosts } }))
    }

    #[test]
    fn hosts_stay_within_names_ports_and_methods() {
        for (inner, outer) in [
            (json!([]), json!([])),
            (json!(["a.test"]), json!(["*"])),
            (json!(["a.test"]), json!(["a.test:80", "a.test:443"])),
            (json!(["a.test:443"]), json!(["a.test"])),
            (json!(["a.test:8080"]), json!(["*.test:*"])),
            (json!(["*.b.test"]), json!(["*.test"])),
            (json!(["*.test"]), json!(["*.test"])),
            (
                json!([{"host": "a.test", "methods": ["GET", "POST"]}]),
                json!([{"host": "a.test", "methods": ["GET"]}, {"host": "*.test", "methods": ["POST"]}]),
            ),
            (json!([{"host": "a.test", "methods": []}]), json!([])),
            (json!([{"host": "a.test", "methods": ["GET"]}]), json!(["a.test"])),
        ] {
            assert_eq!(http(&inner).within(&http(&outer)), Ok(()), "{inner} in {outer}");
        }
        for (inner, outer) in [
            (json!(["a.test"]), json!([])),
            (json!(["*"]), json!(["*.test"])),
            (json!(["test"]), json!(["*.test"])),
            (json!(["evil-a.test"]), json!(["a.test"])),
            (json!(["*.a.test"]), json!(["a.test"])),
            (json!(["*.test"]), json!(["*.a.test"])),
            (json!(["*.xtest"]), json!(["*.test"])),
            (json!(["a.test"]), json!(["a.test:443"])),
            (json!(["a.test:*"]), json!(["a.test", "a.test:8080"])),
            (json!(["a.test:8080"]), json!(["a.test"])),
            (json!(["a.test"]), json!([{"host": "a.test", "methods": ["GET", "POST"]}])),
            (
                json!([{"host": "a.test", "methods": ["GET", "PUT"]}]),
                json!([{"host": "a.test", "methods": ["GET"]}, {"host": "b.test", "methods": ["PUT"]}]),
            ),
        ] {
            let excess = http(&inner).within(&http(&outer)).unwrap_err();
            assert_eq!(excess.field, "grants.http.hosts", "{inner} in {outer}");
        }
    }

    #[test]
    fn networks_mail_values_and_secrets_stay_within() {
        let bound = grants(json!({
            "http": {"private_networks": ["10.0.0.0/8"]},
            "mail": {"recipients": ["example.com", "*.example.org"]},
            "keyvalue": {"bytes": 100, "keys": 10},
            "secrets": ["key"],
        }));
        for value in [
            json!({}),
            json!({"http": {"private_networks": ["10.1.0.0/16", "10.0.0.1/32"]}}),
            json!({"mail": {"senders": ["x.test"], "recipients": ["example.com", "a.example.org"]}}),
            json!({"mail": {"recipients": ["*.b.example.org"]}}),
            json!({"keyvalue": {"bytes": 100, "keys": 10}}),
            json!({"secrets": ["key"]}),
        ] {
            assert_eq!(grants(value.clone()).within(&bound), Ok(()), "{value}");
        }
        for (value, field) in [
            (json!({"http": {"private_networks": ["0.0.0.0/0"]}}), "grants.http.private_networks"),
            (json!({"http": {"private_networks": ["::/0"]}}), "grants.http.private_networks"),
            (json!({"mail": true}), "grants.mail.recipients"),
            (json!({"mail": {"recipients": ["example.org"]}}), "grants.mail.recipients"),
            (json!({"mail": {"recipients": ["*.example.com"]}}), "grants.mail.recipients"),
            (json!({"keyvalue": {"bytes": 101, "keys": 10}}), "grants.keyvalue.bytes"),
            (json!({"keyvalue": {"bytes": 1, "keys": 11}}), "grants.keyvalue.keys"),
            (json!({"secrets": ["key", "Key"]}), "grants.secrets"),
        ] {
            let excess = grants(value.clone()).within(&bound).unwrap_err();
            assert_eq!(excess.field, field, "{value}");
        }
        let nothing = Grants::default();
        for value in [json!({"mail": true}), json!({"keyvalue": true}), json!({"secrets": ["key"]})]
        {
            assert!(grants(value.clone()).within(&nothing).is_err(), "{value}");
        }
    }
}
