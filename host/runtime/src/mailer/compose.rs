//! From a handler's message to RFC 5322.

use lettre::{
    Message,
    message::{Mailbox, MessageBuilder, MultiPart, SinglePart},
};
use sha2::{Digest as _, Sha256};

use super::{MAX_RECIPIENTS, MailError, MailMessage};

/// A message that may be sent.
pub(super) struct Composed {
    pub(super) message: Message,
    /// Without angle brackets.
    pub(super) id: String,
    pub(super) recipients: Vec<String>,
}

impl Composed {
    /// Sender, recipients and subject, for a log.
    pub(super) fn summary(&self, subject: &str) -> String {
        let from = self
            .message
            .envelope()
            .from()
            .map_or_else(String::new, ToString::to_string);
        format!("from {from} to {}: {subject:?}", self.recipients.join(", "))
    }
}

/// Whether the copy that is made still names the `bcc` recipients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Bcc {
    Keep,
    Drop,
}

/// Checks every part that becomes a header, and builds the message.
pub(super) fn compose(mail: &MailMessage, default_from: &Mailbox, bcc: Bcc) -> Result<Composed, MailError> {
    let from = mail
        .from
        .as_deref()
        .map_or_else(|| Ok(default_from.clone()), |from| mailbox("from", from))?;
    let id = message_id(mail, &from);
    let mut builder = Message::builder()
        .message_id(Some(format!("<{id}>")))
        .date_now()
        .from(from);
    if bcc == Bcc::Keep {
        builder = builder.keep_bcc();
    }
    let (builder, recipients) = address(builder, mail)?;
    let builder = match &mail.reply_to {
        Some(reply_to) => builder.reply_to(mailbox("reply-to", reply_to)?),
        None => builder,
    };
    one_line("subject", &mail.subject)?;
    let message = with_body(builder.subject(mail.subject.clone()), mail)?;
    Ok(Composed {
        message,
        id,
        recipients,
    })
}

fn address(
    mut builder: MessageBuilder,
    mail: &MailMessage,
) -> Result<(MessageBuilder, Vec<String>), MailError> {
    let count = mail.to.len() + mail.cc.len() + mail.bcc.len();
    if count == 0 {
        return Err(MailError::invalid("the message has no recipient"));
    }
    if count > MAX_RECIPIENTS {
        return Err(MailError::invalid(format!(
            "the message has {count} recipients; {MAX_RECIPIENTS} are allowed"
        )));
    }
    let mut recipients = Vec::with_capacity(count);
    for (field, list) in [("to", &mail.to), ("cc", &mail.cc), ("bcc", &mail.bcc)] {
        for text in list {
            let mailbox = mailbox(field, text)?;
            recipients.push(mailbox.email.to_string());
            builder = match field {
                "to" => builder.to(mailbox),
                "cc" => builder.cc(mailbox),
                _ => builder.bcc(mailbox),
            };
        }
    }
    Ok((builder, recipients))
}

fn with_body(builder: MessageBuilder, mail: &MailMessage) -> Result<Message, MailError> {
    let built = match (&mail.text, &mail.html) {
        (Some(text), None) => builder.singlepart(SinglePart::plain(text.clone())),
        (None, Some(html)) => builder.singlepart(SinglePart::html(html.clone())),
        (Some(text), Some(html)) => {
            builder.multipart(MultiPart::alternative_plain_html(text.clone(), html.clone()))
        }
        (None, None) => return Err(MailError::invalid("the message has neither text nor html")),
    };
    built.map_err(|error| MailError::invalid(error.to_string()))
}

/// Reads one address, all of it. The library's parser ignores what follows the first address.
pub(super) fn mailbox(field: &str, text: &str) -> Result<Mailbox, MailError> {
    one_line(field, text)?;
    let invalid = || {
        let shown = crate::log::cut(text, 200);
        MailError::invalid(format!(
            "{field} {shown:?} is not an address: write user@example.com or Name <user@example.com>"
        ))
    };
    let text = text.trim();
    let mailbox: Mailbox = text.parse().map_err(|_| invalid())?;
    let rest = text.strip_suffix('>').unwrap_or(text);
    if rest.ends_with(&mailbox.email.to_string()) {
        Ok(mailbox)
    } else {
        Err(invalid())
    }
}

/// A line break in what becomes a header would start another header.
fn one_line(field: &str, text: &str) -> Result<(), MailError> {
    if text
        .chars()
        .any(|c| c.is_control() || matches!(c, '\u{2028}' | '\u{2029}'))
    {
        return Err(MailError::invalid(format!(
            "{field} contains a line break or another control character"
        )));
    }
    Ok(())
}

fn message_id(mail: &MailMessage, from: &Mailbox) -> String {
    let mut hash = Sha256::new();
    // Lengths keep two fields from being read as one.
    let mut add = |text: &str| {
        hash.update((text.len() as u64).to_be_bytes());
        hash.update(text);
    };
    add(&mail.key);
    for list in [&mail.to, &mail.cc, &mail.bcc] {
        add(&list.len().to_string());
        list.iter().for_each(|text| add(text));
    }
    add(&mail.subject);
    for body in [&mail.text, &mail.html, &mail.reply_to] {
        add(body.as_deref().unwrap_or("\0"));
    }
    add(&from.to_string());
    format!("{}@{}", hex::encode(&hash.finalize()[..16]), from.email.domain())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mailer::MailErrorKind;

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
        let from = "noreply@example.com".parse().unwrap();
        compose(mail, &from, Bcc::Drop)
            .map(|composed| String::from_utf8(composed.message.formatted()).unwrap())
    }

    #[test]
    fn nothing_that_becomes_a_header_may_break_the_line() {
        let injected = "ann@example.com\r\nBcc: evil@example.com";
        let cases = [
            MailMessage {
                subject: "hi\r\nBcc: evil@example.com".to_owned(),
                ..mail()
            },
            MailMessage {
                subject: "hi\nX: y".to_owned(),
                ..mail()
            },
            MailMessage {
                to: vec![injected.to_owned()],
                ..mail()
            },
            MailMessage {
                cc: vec![injected.to_owned()],
                ..mail()
            },
            MailMessage {
                from: Some(injected.to_owned()),
                ..mail()
            },
            MailMessage {
                reply_to: Some("\"a\nb\" <ann@example.com>".to_owned()),
                ..mail()
            },
        ];
        for case in cases {
            let error = composed(&case).unwrap_err();
            assert_eq!(error.kind, MailErrorKind::Invalid);
            assert!(error.message.contains("line break"), "{error}");
        }
    }

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
        ] {
            let error = composed(&MailMessage {
                to: vec![bad.to_owned()],
                ..mail()
            })
            .unwrap_err();
            assert!(error.message.contains("is not an address"), "{bad}: {error}");
        }
        for good in [
            "ann@example.com",
            "<ann@example.com>",
            "Ann Lee <ann@example.com>",
            "demo@localhost",
            "\"Lee, Ann\" <ann@example.com>",
        ] {
            assert!(
                composed(&MailMessage {
                    to: vec![good.to_owned()],
                    ..mail()
                })
                .is_ok(),
                "{good}"
            );
        }
    }

    #[test]
    fn a_message_needs_a_recipient_and_a_body() {
        assert!(composed(&MailMessage { to: vec![], ..mail() }).is_err());
        assert!(composed(&MailMessage { text: None, ..mail() }).is_err());
        assert!(
            composed(&MailMessage {
                to: vec!["a@example.com".to_owned(); 101],
                ..mail()
            })
            .is_err()
        );
    }

    #[test]
    fn the_same_message_of_the_same_task_has_the_same_id() {
        let id = |mail: &MailMessage| {
            compose(mail, &"n@example.com".parse().unwrap(), Bcc::Drop)
                .unwrap()
                .id
        };
        assert_eq!(id(&mail()), id(&mail()));
        assert_ne!(
            id(&mail()),
            id(&MailMessage {
                key: "task.2".to_owned(),
                ..mail()
            })
        );
        assert_ne!(
            id(&mail()),
            id(&MailMessage {
                text: Some("other".to_owned()),
                ..mail()
            })
        );
        assert!(id(&mail()).ends_with("@example.com"));
    }

    #[test]
    fn blind_copies_stay_blind() {
        let text = composed(&MailMessage {
            bcc: vec!["secret@example.com".to_owned()],
            ..mail()
        })
        .unwrap();
        assert!(!text.contains("secret"), "{text}");
    }
}
