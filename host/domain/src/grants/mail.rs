//! Whether a plugin may send e-mail, from whom and to whom.

use std::{fmt, net::Ipv4Addr};

use serde::{Deserialize, Serialize};

use super::name::{self, Name};

/// Whether a plugin may send e-mail, from whom and to whom. As text for people: `true`, `false`, or
/// a table with `senders` and `recipients`, each a list of domains; a list that is left out allows
/// every domain.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(from = "MailForm", into = "MailForm")]
pub struct MailGrant {
    /// Whether it may send at all.
    pub allowed: bool,
    /// Domains of senders. A message that names no sender has the host's own, which is always
    /// allowed. `None`: all.
    pub senders: Option<Vec<DomainPattern>>,
    /// Domains of recipients, `cc` and `bcc` included. `None`: all.
    pub recipients: Option<Vec<DomainPattern>>,
}

impl MailGrant {
    /// May send from and to anybody.
    #[must_use]
    pub const fn unlimited() -> Self {
        Self { allowed: true, senders: None, recipients: None }
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
            MailForm::Plain(allowed) => Self { allowed, ..Self::default() },
            MailForm::Domains(MailDomains { senders, recipients }) => {
                Self { allowed: true, senders, recipients }
            }
        }
    }
}

impl From<MailGrant> for MailForm {
    fn from(grant: MailGrant) -> Self {
        match grant {
            MailGrant { allowed: true, senders, recipients }
                if senders.is_some() || recipients.is_some() =>
            {
                Self::Domains(MailDomains { senders, recipients })
            }
            MailGrant { allowed, .. } => Self::Plain(allowed),
        }
    }
}

/// A domain of mail addresses: `example.com`, or `*.example.com` for any below it, not itself.
///
/// It has one spelling, like a [host pattern](super::HostPattern).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub struct DomainPattern {
    text: String,
    read: Result<Name, String>,
}

impl DomainPattern {
    /// Whether it covers a domain, in any case of letters, in ASCII or not.
    #[must_use]
    pub fn matches(&self, domain: &str) -> bool {
        let (Ok(name), Ok(url::Host::Domain(domain))) = (&self.read, url::Host::parse(domain))
        else {
            return false;
        };
        // An address has no dot at its end, whatever a name may have.
        !domain.ends_with('.') && name.matches(&domain)
    }

    /// Whether this pattern matches whatever the other one matches.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        match (&self.read, &other.read) {
            (Ok(name), Ok(other)) => name.covers(other),
            (_, Err(_)) => true,
            (Err(_), _) => false,
        }
    }

    /// Whether it may be granted.
    ///
    /// # Errors
    /// When it can match nothing, is read otherwise than it looks, or covers what anybody can
    /// register. The error says what to write instead.
    pub fn check(&self) -> Result<(), String> {
        let why = match &self.read {
            Ok(name) => name.excess(),
            Err(why) => Some(why.clone()),
        };
        why.map_or(Ok(()), |why| {
            let shown: String = self.text.chars().take(300).collect();
            Err(format!(
                "{shown:?} is not a domain of mail addresses such as example.com or *.example.com: {why}"
            ))
        })
    }
}

fn read(text: &str) -> Result<Name, String> {
    name::plain(text)?;
    match name::pattern(text)? {
        Name::Any => Err("a list that allows every domain is left out".to_owned()),
        Name::Exactly(name) if name.parse::<Ipv4Addr>().is_ok() => {
            Err("an address of a machine is no domain".to_owned())
        }
        Name::Exactly(name) | Name::Below(name) if name.contains('_') => {
            Err("a domain of mail addresses has no '_'".to_owned())
        }
        name => Ok(name),
    }
}

impl From<String> for DomainPattern {
    /// Reads a pattern that is [checked](DomainPattern::check) later or was checked before.
    fn from(text: String) -> Self {
        let read = read(&text);
        Self { text, read }
    }
}

impl From<DomainPattern> for String {
    fn from(pattern: DomainPattern) -> Self {
        pattern.text
    }
}

impl fmt::Display for DomainPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mail_may_be_granted_as_a_whole_or_by_domain() {
        let read = |value| serde_json::from_value::<MailGrant>(value).unwrap();
        assert_eq!(read(serde_json::json!(false)), MailGrant::default());
        assert_eq!(read(serde_json::json!(true)), MailGrant::unlimited());
        let grant = read(
            serde_json::json!({"recipients": ["example.com", "*.example.org", "xn--bcher-kva.example"]}),
        );
        let allowed = |domain: &str| grant.recipients.iter().flatten().any(|p| p.matches(domain));
        assert!(grant.allowed && grant.senders.is_none());
        assert!(allowed("EXAMPLE.com") && allowed("a.example.org"));
        assert!(allowed("bücher.example") && allowed("xn--Bcher-kva.example"));
        assert!(!allowed("example.org") && !allowed("badexample.com") && !allowed("x.example.com"));
        let text = serde_json::to_string(&grant).unwrap();
        assert_eq!(serde_json::from_str::<MailGrant>(&text).unwrap(), grant);
    }

    #[test]
    fn a_wider_pattern_covers_a_narrower_one() {
        let pattern = |text: &str| DomainPattern::from(text.to_owned());
        for (wide, narrow) in
            [("a.test", "a.test"), ("*.a.test", "b.a.test"), ("*.a.test", "*.b.a.test")]
        {
            assert!(pattern(wide).covers(&pattern(narrow)), "{wide} {narrow}");
        }
        for (one, other) in [("a.test", "*.a.test"), ("*.a.test", "a.test"), ("b.test", "ab.test")]
        {
            assert!(!pattern(one).covers(&pattern(other)), "{one} {other}");
        }
    }

    #[test]
    fn a_domain_is_refused_with_what_to_write() {
        for (text, expected) in [
            ("", "it is empty"),
            ("a@b.test", r#"write "b.test""#),
            ("*", "is left out"),
            ("*.com", "anybody can register"),
            ("*.org.uk", "anybody can register"),
            ("Example.com", r#"write "example.com""#),
            ("example.com.", r#"write "example.com""#),
            ("bücher.example", r#"write "xn--bcher-kva.example""#),
            ("10.0.0.1", "no domain"),
            ("127.1", "127.0.0.1"),
            ("[10.0.0.1]", "no host has such a name"),
            ("a_b.test", "no '_'"),
            ("a.*.test", "write *, *.example.com"),
            ("a.test:25", "no host has such a name"),
        ] {
            let error = DomainPattern::from(text.to_owned()).check().unwrap_err();
            assert!(error.contains(expected), "{text:?}: {error}");
        }
    }
}
