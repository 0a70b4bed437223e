//! Addresses (RFC 5321, 4.1.2 and 4.1.3; RFC 6531 for what is beyond ASCII).

use std::net::{Ipv4Addr, Ipv6Addr};

use lettre::Address;
use url::Host;

use super::{MailError, header::one_line};

/// An address with a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mailbox {
    pub(crate) name: Option<String>,
    /// As written, quotes included.
    local: String,
    /// In ASCII: a domain beyond it as A-labels (RFC 5890), which need no extension of SMTP.
    pub(crate) domain: String,
}

impl Mailbox {
    /// Parses one address: `user@example.com` or `Name <user@example.com>`.
    ///
    /// # Errors
    /// When it is none, or two.
    pub(crate) fn parse(field: &str, text: &str) -> Result<Self, MailError> {
        one_line(field, text)?;
        read(text.trim()).ok_or_else(|| {
            let shown = crate::log::cut(text, 200);
            MailError::invalid(format!(
                "{field} {shown:?} is not an address: write user@example.com or Name <user@example.com>"
            ))
        })
    }

    /// Without the name.
    pub(super) fn address(&self) -> String {
        format!("{}@{}", self.local, self.domain)
    }

    /// For the envelope.
    pub(super) fn envelope(&self) -> Address {
        // The library's own check accepts fewer forms than the standard.
        Address::new_dangerous(&self.local, &self.domain)
    }

    /// The address for comparison: domains have no case, and the part before the `@` is compared as
    /// it is.
    pub(super) fn identity(&self) -> (String, String) {
        (self.local.clone(), self.domain.to_ascii_lowercase())
    }

    /// Whether only servers with SMTPUTF8 accept it.
    pub(super) fn is_beyond_ascii(&self) -> bool {
        !self.local.is_ascii()
    }
}

fn read(text: &str) -> Option<Mailbox> {
    let (name, address) = match text.strip_suffix('>') {
        Some(named) => {
            let open = unquoted(named, '<')?;
            (phrase(named[..open].trim())?, &named[open + 1..])
        }
        None => (None, text),
    };
    let (local, domain) = address.rsplit_once('@')?;
    is_local(local).then_some(())?;
    Some(Mailbox { name, local: local.to_owned(), domain: ascii_domain(domain)? })
}

/// The first position of a character outside quotes.
fn unquoted(text: &str, sought: char) -> Option<usize> {
    let (mut quoted, mut escaped) = (false, false);
    for (at, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            _ if c == sought && !quoted => return Some(at),
            _ => {}
        }
    }
    None
}

/// A name, which must be quoted if it has characters that separate addresses.
fn phrase(text: &str) -> Option<Option<String>> {
    if text.is_empty() {
        return Some(None);
    }
    let Some(quoted) = text.strip_prefix('"') else {
        return (!text.contains(['"', '<', '>', '@', ',', ';'])).then(|| Some(text.to_owned()));
    };
    let mut name = String::new();
    let mut rest = quoted.chars();
    loop {
        match rest.next()? {
            '"' => return rest.as_str().is_empty().then_some(Some(name)),
            '\\' => name.push(rest.next()?),
            c => name.push(c),
        }
    }
}

fn is_local(local: &str) -> bool {
    if local.is_empty() || local.len() > 64 {
        return false;
    }
    if local.len() > 1 && local.starts_with('"') {
        let Some(inside) = local[1..].strip_suffix('"') else {
            return false;
        };
        let mut rest = inside.chars();
        while let Some(c) = rest.next() {
            if c == '"' || (c == '\\' && rest.next().is_none()) {
                return false;
            }
        }
        return true;
    }
    local.split('.').all(|atom| {
        let is_atext = |c: char| {
            c.is_ascii_alphanumeric()
                || "!#$%&'*+-/=?^_`{|}~".contains(c)
                || (!c.is_ascii() && !c.is_whitespace())
        };
        !atom.is_empty() && atom.chars().all(is_atext)
    })
}

fn ascii_domain(domain: &str) -> Option<String> {
    if let Some(literal) = domain.strip_prefix('[') {
        let literal = literal.strip_suffix(']')?;
        let known = match literal.split_once(':') {
            Some((tag, address)) if tag.eq_ignore_ascii_case("ipv6") => {
                address.parse::<Ipv6Addr>().is_ok()
            }
            _ => literal.parse::<Ipv4Addr>().is_ok(),
        };
        return known.then(|| domain.to_owned());
    }
    let ascii = if domain.is_ascii() {
        domain.to_owned()
    } else {
        match Host::parse(domain).ok()? {
            Host::Domain(ascii) if !domain.contains('%') => ascii,
            _ => return None,
        }
    };
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    (ascii.len() <= 253 && ascii.split('.').all(is_label)).then_some(ascii)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_one_address() {
        for bad in [
            "",
            "ann",
            "ann@",
            "@example.com",
            "a@example.com, b@example.com",
            "a@example.com b",
            "<a@example.com> x",
            "a@b@example.com",
            "a..b@example.com",
            ".a@example.com",
            "Lee, Ann <a@example.com>",
            "\"a@example.com\" <",
            "\"open <a@example.com>",
            "a@-x.example",
            "a@exa mple.com",
            "a@[192.0.2.300]",
            "a@[example.com]",
            "\"a\"b@example.com",
            "a@x..example",
            "a b@example.com",
            "a@example.com.",
            "<a@example.com",
            "a@%65xämple.com",
            "\"@example.com",
        ] {
            let error = Mailbox::parse("to", bad).unwrap_err();
            assert!(error.message.contains("is not an address"), "{bad}: {error}");
        }
        for (good, name, address) in [
            ("ann@example.com", None, "ann@example.com"),
            (" <ann@example.com> ", None, "ann@example.com"),
            ("Ann Lee <ann@example.com>", Some("Ann Lee"), "ann@example.com"),
            ("demo@localhost", None, "demo@localhost"),
            ("\"Lee, \\\"Ann\\\"\" <ann@example.com>", Some("Lee, \"Ann\""), "ann@example.com"),
            ("\"a <b@c>\" <ann@example.com>", Some("a <b@c>"), "ann@example.com"),
            ("user@[192.0.2.1]", None, "user@[192.0.2.1]"),
            ("user@[IPv6:2001:db8::1]", None, "user@[IPv6:2001:db8::1]"),
            ("\"john doe\"@example.com", None, "\"john doe\"@example.com"),
            ("\"a@b\"@example.com", None, "\"a@b\"@example.com"),
            ("N <\"<x>\"@example.com>", Some("N"), "\"<x>\"@example.com"),
            ("user@bücher.example", None, "user@xn--bcher-kva.example"),
            ("user@BÜCHER.example", None, "user@xn--bcher-kva.example"),
            ("jörg@example.com", None, "jörg@example.com"),
            ("a+b/c=d@example.com", None, "a+b/c=d@example.com"),
        ] {
            let mailbox = Mailbox::parse("to", good).unwrap();
            assert_eq!((mailbox.name.as_deref(), mailbox.address().as_str()), (name, address));
        }
    }
}
