//! Whether a plugin may send e-mail, from whom and to whom.

use std::fmt;

use serde::{Deserialize, Serialize};

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

    /// Whether this pattern matches whatever the other one matches.
    pub(super) fn covers(&self, other: &Self) -> bool {
        match other.0.strip_prefix("*.") {
            // Whatever is below the other's domain is below this one's if the domain itself is.
            Some(domain) => self.0 == other.0 || self.0.starts_with("*.") && self.matches(domain),
            None => self.matches(&other.0),
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

#[cfg(test)]
mod tests {
    use super::*;

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
}
