//! From a handler's message to RFC 5322.

use std::collections::HashSet;

use lettre::{
    address::Envelope,
    message::header::{Date, HeaderName, HeaderValue, Headers},
};
use sha2::{Digest as _, Sha256};

use super::{
    MailError, MailMessage,
    address::Mailbox,
    body,
    header::{one_line, set_mailboxes, set_own, set_text},
};

/// A message that may be sent.
pub(super) struct Composed {
    /// Headers and body, line breaks as they go over the wire.
    pub(super) bytes: Vec<u8>,
    pub(super) envelope: Envelope,
    /// Without angle brackets.
    pub(super) id: String,
    pub(super) recipients: Vec<String>,
    /// Only a server with SMTPUTF8 accepts it (RFC 6531, 3.2).
    pub(super) beyond_ascii: bool,
}

impl Composed {
    /// Sender, recipients and subject, for a log.
    pub(super) fn summary(&self, subject: &str) -> String {
        let from = self.envelope.from().map_or_else(String::new, ToString::to_string);
        format!("from {from} to {}: {subject:?}", self.recipients.join(", "))
    }
}

/// Whether the composed message names the `bcc` recipients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Bcc {
    Keep,
    Drop,
}

/// [`compose`] on a thread that does nothing else, because it passes over megabytes several times.
pub(super) async fn compose_apart(
    mail: MailMessage,
    default_from: Mailbox,
    bcc: Bcc,
) -> Result<(MailMessage, Composed), MailError> {
    let composing = move || {
        let composed = compose(&mail, &default_from, bcc)?;
        Ok((mail, composed))
    };
    let composed = tokio::task::spawn_blocking(composing).await;
    composed.unwrap_or_else(|_| Err(MailError::unavailable("the message could not be composed")))
}

/// Checks every part that becomes a header, and builds the message.
fn compose(mail: &MailMessage, default_from: &Mailbox, bcc: Bcc) -> Result<Composed, MailError> {
    mail.check()?;
    let from = mail
        .from
        .as_deref()
        .map_or_else(|| Ok(default_from.clone()), |from| Mailbox::parse("from", from))?;
    let [to, cc, blind] = recipients(mail)?;
    let reply_to = mail.reply_to.iter().map(|text| Mailbox::parse("reply-to", text));
    let reply_to = reply_to.collect::<Result<Vec<_>, _>>()?;
    one_line("subject", &mail.subject)?;

    let id = message_id(mail, &from);
    let mut headers = Headers::new();
    let raw = |name, value: String| {
        let name = HeaderName::new_from_ascii_str(name);
        HeaderValue::dangerous_new_pre_encoded(name, value.clone(), value)
    };
    headers.insert_raw(raw("Message-ID", format!("<{id}>")));
    headers.set(Date::now());
    set_mailboxes(&mut headers, "From", &[&from]);
    set_mailboxes(&mut headers, "To", &to.iter().collect::<Vec<_>>());
    set_mailboxes(&mut headers, "Cc", &cc.iter().collect::<Vec<_>>());
    if bcc == Bcc::Keep {
        set_mailboxes(&mut headers, "Bcc", &blind.iter().collect::<Vec<_>>());
    }
    set_mailboxes(&mut headers, "Reply-To", &reply_to.iter().collect::<Vec<_>>());
    set_text(&mut headers, "Subject", &mail.subject);
    set_own(&mut headers, &mail.headers)?;
    headers.insert_raw(raw("MIME-Version", "1.0".to_owned()));

    let mut bytes = headers.to_string().into_bytes();
    bytes.extend(body::formatted(mail)?);
    let named: Vec<&Mailbox> = to.iter().chain(&cc).chain(&blind).collect();
    let envelope = Envelope::new(
        Some(from.envelope()),
        named.iter().map(|mailbox| mailbox.envelope()).collect(),
    );
    let everybody = || named.iter().copied().chain(&reply_to).chain([&from]);
    Ok(Composed {
        bytes,
        envelope: envelope.map_err(|error| MailError::invalid(error.to_string()))?,
        id,
        recipients: named.iter().map(|mailbox| mailbox.address()).collect(),
        beyond_ascii: everybody().any(Mailbox::is_beyond_ascii),
    })
}

/// `to`, `cc` and `bcc`. An address that is named twice stays where it is named first.
fn recipients(mail: &MailMessage) -> Result<[Vec<Mailbox>; 3], MailError> {
    let count = mail.to.len() + mail.cc.len() + mail.bcc.len();
    if count == 0 {
        return Err(MailError::invalid("the message has no recipient"));
    }
    let mut seen = HashSet::new();
    let mut once = |field, list: &[String]| {
        let mut mailboxes = Vec::new();
        for text in list {
            let mailbox = Mailbox::parse(field, text)?;
            if seen.insert(mailbox.identity()) {
                mailboxes.push(mailbox);
            }
        }
        Ok::<_, MailError>(mailboxes)
    };
    Ok([once("to", &mail.to)?, once("cc", &mail.cc)?, once("bcc", &mail.bcc)?])
}

fn message_id(mail: &MailMessage, from: &Mailbox) -> String {
    let mut hash = Sha256::new();
    // Lengths keep two fields from being read as one.
    let mut add = |bytes: &[u8]| {
        hash.update((bytes.len() as u64).to_be_bytes());
        hash.update(bytes);
    };
    add(mail.key.as_bytes());
    for list in [&mail.to, &mail.cc, &mail.bcc, &mail.reply_to] {
        add(list.len().to_string().as_bytes());
        list.iter().for_each(|text| add(text.as_bytes()));
    }
    add(mail.subject.as_bytes());
    for body in [&mail.text, &mail.html] {
        add(body.as_deref().unwrap_or("\0").as_bytes());
    }
    for (name, value) in &mail.headers {
        add(name.as_bytes());
        add(value.as_bytes());
    }
    for file in &mail.attachments {
        add(file.name.as_bytes());
        add(&file.content);
    }
    add(from.name.as_deref().unwrap_or_default().as_bytes());
    add(from.address().as_bytes());
    // An address literal is no domain of an id, but a bracket within it is allowed (RFC 5322,
    // 3.6.4).
    format!("{}@{}", hex::encode(&hash.finalize()[..16]), from.domain)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mailer::{MailAttachment, MailErrorKind};

    fn mail() -> MailMessage {
        MailMessage {
            key: "task.1".to_owned(),
            to: vec!["Ann <ann@example.com>".to_owned()],
            subject: "Grüße".to_owned(),
            text: Some("hello".to_owned()),
            ..MailMessage::default()
        }
    }

    fn composed(mail: &MailMessage) -> Result<String, MailError> {
        let from = Mailbox::parse("from", "noreply@example.com").unwrap();
        compose(mail, &from, Bcc::Drop).map(|composed| String::from_utf8(composed.bytes).unwrap())
    }

    #[test]
    fn nothing_that_becomes_a_header_may_break_the_line() {
        let injected = "ann@example.com\r\nBcc: evil@example.com";
        let cases = [
            MailMessage { subject: "hi\r\nBcc: evil@example.com".to_owned(), ..mail() },
            MailMessage { subject: "hi\nX: y".to_owned(), ..mail() },
            MailMessage { to: vec![injected.to_owned()], ..mail() },
            MailMessage { cc: vec![injected.to_owned()], ..mail() },
            MailMessage { from: Some(injected.to_owned()), ..mail() },
            MailMessage { reply_to: vec!["\"a\nb\" <ann@example.com>".to_owned()], ..mail() },
        ];
        for case in cases {
            let error = composed(&case).unwrap_err();
            assert_eq!(error.kind, MailErrorKind::Invalid);
            assert!(error.message.contains("line break"), "{error}");
        }
    }

    #[test]
    fn a_message_needs_a_recipient_and_a_body() {
        assert!(composed(&MailMessage { to: vec![], ..mail() }).is_err());
        assert!(composed(&MailMessage { text: None, ..mail() }).is_err());
        assert!(
            composed(&MailMessage { to: vec!["a@example.com".to_owned(); 101], ..mail() }).is_err()
        );
    }

    #[test]
    fn the_same_message_of_the_same_task_has_the_same_id() {
        let id = |mail: &MailMessage| {
            let from = Mailbox::parse("from", "n@example.com").unwrap();
            compose(mail, &from, Bcc::Drop).unwrap().id
        };
        assert_eq!(id(&mail()), id(&mail()));
        assert_ne!(id(&mail()), id(&MailMessage { key: "task.2".to_owned(), ..mail() }));
        assert_ne!(id(&mail()), id(&MailMessage { text: Some("other".to_owned()), ..mail() }));
        assert!(id(&mail()).ends_with("@example.com"));
    }

    #[test]
    fn blind_copies_stay_blind() {
        let text = composed(&MailMessage { bcc: vec!["secret@example.com".to_owned()], ..mail() })
            .unwrap();
        assert!(!text.contains("secret"), "{text}");
    }

    #[test]
    fn a_domain_beyond_ascii_is_sent_as_a_labels_everywhere() {
        let text = composed(&MailMessage {
            from: Some("Info <info@bücher.example>".to_owned()),
            to: vec!["user@bücher.example".to_owned()],
            reply_to: vec!["a@example.com".to_owned(), "info@bücher.example".to_owned()],
            ..mail()
        })
        .unwrap();
        assert!(text.is_ascii(), "{text}");
        for field in [
            "From: Info <info@xn--bcher-kva.example>\r\n",
            "To: user@xn--bcher-kva.example\r\n",
            "Reply-To: a@example.com,\r\n info@xn--bcher-kva.example\r\n",
            "@xn--bcher-kva.example>\r\n",
        ] {
            assert!(text.contains(field), "{field} in {text}");
        }
    }

    #[test]
    fn who_is_named_twice_gets_it_once() {
        let from = Mailbox::parse("from", "n@example.com").unwrap();
        let mail = MailMessage {
            to: vec!["ann@example.com".to_owned(), "Ann <ann@EXAMPLE.com>".to_owned()],
            cc: vec!["bob@example.com".to_owned(), "ann@example.com".to_owned()],
            bcc: vec!["bob@example.com".to_owned()],
            ..mail()
        };
        let composed = compose(&mail, &from, Bcc::Keep).unwrap();
        assert_eq!(composed.recipients, ["ann@example.com", "bob@example.com"]);
        assert_eq!(composed.envelope.to().len(), 2);
    }

    #[test]
    fn no_body_holds_what_the_wire_cannot() {
        for text in ["progress 1%\rprogress 2%", "a\0b", "a\u{1b}[1mb", "x\n.\ny", "\r\r\n"] {
            for html in [None, Some(text.to_owned())] {
                let message =
                    composed(&MailMessage { text: Some(text.to_owned()), html, ..mail() });
                let message = message.unwrap().replace("\r\n", "");
                assert!(!message.contains(['\r', '\n', '\0', '\u{1b}']), "{text:?}: {message:?}");
            }
        }
    }

    #[test]
    fn attachments_and_own_headers_are_in_the_message() {
        let file = |name: &str, id: Option<&str>| MailAttachment {
            name: name.to_owned(),
            content_type: "image/png".to_owned(),
            content: vec![0, 1, 2],
            content_id: id.map(str::to_owned),
        };
        let with = |attachments: Vec<MailAttachment>, html: Option<&str>| {
            composed(&MailMessage {
                html: html.map(str::to_owned),
                headers: vec![("List-Unsubscribe".to_owned(), "<mailto:u@example.com>".to_owned())],
                attachments,
                ..mail()
            })
        };
        let text = with(vec![file("Größe.png", None), file("b.png", Some("b@x"))], Some("<p>"));
        let text = text.unwrap();
        for piece in [
            "List-Unsubscribe: <mailto:u@example.com>\r\n",
            "multipart/mixed",
            "multipart/related",
            "multipart/alternative",
            "Content-ID: <b@x>",
            "AAEC",
        ] {
            assert!(text.contains(piece), "{piece} in {text}");
        }
        let wrong = |file: MailAttachment| with(vec![file], None).unwrap_err().kind;
        let plain = || file("a.png", None);
        for file in [
            file("b.png", Some("b@x")),
            file("a\r\nb", None),
            file("", None),
            file("a.png", Some("<x>")),
            MailAttachment { content_type: "png".to_owned(), ..plain() },
            MailAttachment { content_type: "text/plain\r\nX: y".to_owned(), ..plain() },
            MailAttachment { content_type: "message/rfc822".to_owned(), ..plain() },
        ] {
            assert_eq!(wrong(file), MailErrorKind::Invalid);
        }
    }
}
