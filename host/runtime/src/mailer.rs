//! Mail, to the outbox folder or an SMTP server.
//!
//! Both mailers compose the message the same way ([`compose`]), so what the outbox shows in
//! development is what an SMTP server would get.

mod address;
mod admission;
mod body;
mod compose;
mod header;
mod outbox;
mod smtp;

use async_trait::async_trait;

pub(crate) use admission::Admission;
pub use admission::{MailAmount, MailCounter, MemoryMailCounter};
pub use outbox::OutboxMailer;
pub use smtp::SmtpMailer;

/// Recipients that one message may have, `to`, `cc` and `bcc` together.
pub const MAX_RECIPIENTS: usize = 100;

/// Bytes of one address with its name, or of the subject.
const MAX_TEXT: usize = 10_000;

/// A message as a handler hands it over, unchecked.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MailMessage {
    /// Names the task and the number of this message among those that it sends. Key and content
    /// decide the `Message-ID`: a task that runs again sends the same message under the same id, so
    /// that receivers can recognize it.
    pub key: String,
    /// Sender; `None`: the mailer's default.
    pub from: Option<String>,
    /// Recipients.
    pub to: Vec<String>,
    /// Recipients of a copy.
    pub cc: Vec<String>,
    /// Recipients whom the message does not name.
    pub bcc: Vec<String>,
    /// Where answers go.
    pub reply_to: Vec<String>,
    /// Subject line.
    pub subject: String,
    /// Further headers: name and value.
    pub headers: Vec<(String, String)>,
    /// Plain text body.
    pub text: Option<String>,
    /// HTML body.
    pub html: Option<String>,
    /// Files that go with it.
    pub attachments: Vec<MailAttachment>,
}

impl MailMessage {
    /// Checks the sizes, before addresses are parsed and headers encoded word by word.
    ///
    /// # Errors
    /// When a part is longer than it may be.
    pub(crate) fn check(&self) -> Result<(), MailError> {
        let recipients = self.to.len() + self.cc.len() + self.bcc.len();
        for (what, count) in
            [("recipients", recipients), ("addresses for replies", self.reply_to.len())]
        {
            if count > MAX_RECIPIENTS {
                return Err(MailError::invalid(format!(
                    "the message has {count} {what}; {MAX_RECIPIENTS} are allowed"
                )));
            }
        }
        let lists = [&self.to, &self.cc, &self.bcc, &self.reply_to];
        let addresses = lists.into_iter().flatten().chain(&self.from);
        for text in addresses.chain([&self.subject]) {
            if text.len() > MAX_TEXT {
                return Err(MailError::invalid(format!(
                    "an address or a subject has {} bytes; {MAX_TEXT} are allowed",
                    text.len()
                )));
            }
        }
        Ok(())
    }

    /// The bytes of its addresses, headers, bodies and attachments.
    pub(crate) fn size(&self) -> u64 {
        let lists = [&self.to, &self.cc, &self.bcc, &self.reply_to];
        let optional = [&self.from, &self.text, &self.html];
        let headers = self.headers.iter().flat_map(|(name, value)| [name, value]);
        let texts = lists.into_iter().flatten().chain(optional.into_iter().flatten());
        let texts = texts.chain(headers).chain([&self.subject]);
        let attached = self.attachments.iter().map(|file| {
            let id = file.content_id.as_ref().map_or(0, String::len);
            file.name.len() + file.content_type.len() + file.content.len() + id
        });
        texts.map(String::len).chain(attached).map(|bytes| bytes as u64).sum()
    }
}

/// A file that goes with a message.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MailAttachment {
    /// Its name.
    pub name: String,
    /// Media type.
    pub content_type: String,
    /// Its bytes.
    pub content: Vec<u8>,
    /// Its name in the HTML body, after `cid:`, if it is shown there.
    pub content_id: Option<String>,
}

/// The mailer's receipt for a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MailReceipt {
    /// The `Message-ID`, with its angle brackets.
    pub message_id: String,
    /// The addresses that the mailer accepted the message for.
    pub accepted: Vec<String>,
    /// The recipients whom the server refused while it accepted others.
    pub refused: Vec<MailRefusal>,
    /// Lines for the task's log.
    pub log: Vec<String>,
}

/// A recipient whom the server refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MailRefusal {
    /// The address.
    pub address: String,
    /// The server's reply code: 4yz for now, 5yz for good.
    pub code: u16,
    /// Its message.
    pub message: String,
}

/// The class of an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MailErrorKind {
    /// The message itself is wrong.
    Invalid,
    /// The server refused it for good.
    Rejected,
    /// The mailer cannot take it now.
    Unavailable,
}

/// Why a message was not sent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct MailError {
    /// The class, which decides whether trying again makes sense.
    pub kind: MailErrorKind,
    /// One sentence.
    pub message: String,
}

impl MailError {
    fn invalid(message: impl Into<String>) -> Self {
        Self { kind: MailErrorKind::Invalid, message: message.into() }
    }

    /// The mailer cannot take it now.
    #[must_use]
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self { kind: MailErrorKind::Unavailable, message: message.into() }
    }
}

/// The domain of an address, read as it is when the message is composed.
///
/// # Errors
/// When it is no address.
pub(crate) fn domain(field: &str, address: &str) -> Result<String, MailError> {
    address::Mailbox::parse(field, address).map(|mailbox| mailbox.domain)
}

/// Takes messages.
#[async_trait]
pub trait Mailer: Send + Sync + 'static {
    /// Takes one message. Once this returns `Ok`, the message survives a crash of this process.
    ///
    /// # Errors
    /// When the message is not valid, is refused, or cannot be taken now.
    async fn send(&self, message: MailMessage) -> Result<MailReceipt, MailError>;
}
