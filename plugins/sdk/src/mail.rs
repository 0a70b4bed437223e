//! Sending e-mail through the host's mailer. Needs the grant `mail`.
//!
//! ```
//! use taskforge_sdk::{Failure, mail};
//!
//! fn notify(address: &str) -> Result<String, Failure> {
//!     let receipt = mail::send(&mail::Message {
//!         to: vec![address.to_owned()],
//!         subject: "Done".to_owned(),
//!         text: Some("Your report is ready.".to_owned()),
//!         ..mail::Message::default()
//!     })?;
//!     Ok(receipt.message_id)
//! }
//! ```

use std::fmt;

/// A message. The host adds `Date`, `Message-ID` and MIME structure.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Message {
    /// Sender, as `user@example.com` or `Name <user@example.com>`. None: the host's configured
    /// sender.
    pub from: Option<String>,
    /// Recipients, each as for the sender. At least one of `to`, `cc` and `bcc`; at most 100
    /// together.
    pub to: Vec<String>,
    /// Recipients of a copy.
    pub cc: Vec<String>,
    /// Recipients whom the message does not name.
    pub bcc: Vec<String>,
    /// Where answers are to go.
    pub reply_to: Vec<String>,
    /// One line.
    pub subject: String,
    /// Further headers, such as `List-Unsubscribe`: name and value. Those that other fields become
    /// and those that the host writes are refused.
    pub headers: Vec<(String, String)>,
    /// Plain text body. At least one of `text` and `html`; with both the message is
    /// `multipart/alternative`.
    pub text: Option<String>,
    /// HTML body.
    pub html: Option<String>,
    /// Files that go with it.
    pub attachments: Vec<Attachment>,
}

/// A file that goes with a message.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Attachment {
    /// What it is called.
    pub name: String,
    /// Media type, for example `application/pdf`.
    pub content_type: String,
    /// Its bytes.
    pub content: Vec<u8>,
    /// Set: the HTML body shows the file, as `cid:` and this.
    pub content_id: Option<String>,
}

/// Proof that the mailer took a message, which is not yet that it arrived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receipt {
    /// The `Message-ID` header, with its angle brackets.
    pub message_id: String,
    /// The addresses that the mailer accepted the message for; at least one.
    pub accepted: Vec<String>,
    /// The recipients whom the mail server refused while it took others.
    pub refused: Vec<Refusal>,
}

/// A recipient whom the mail server did not take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The address.
    pub address: String,
    /// The server's reply code: 4yz for now, 5yz for good.
    pub code: u16,
    /// What it said.
    pub message: String,
}

/// What class of error it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The operator has not granted `mail` to this plugin.
    Denied,
    /// The message itself is wrong: an address, a header, no recipient, no body.
    Invalid,
    /// The mail server refused the message for good.
    Rejected,
    /// The mail server could not be reached, or asked to try later.
    Unavailable,
}

/// Why a message was not taken. Returned from a handler by `?` it is retried if it is
/// [`ErrorKind::Unavailable`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    kind: ErrorKind,
    message: String,
}

impl Error {
    /// An error, for unit tests of handlers.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }

    /// What class of error it is.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// Whether another attempt may succeed.
    #[must_use]
    pub const fn is_retryable(&self) -> bool {
        matches!(self.kind, ErrorKind::Unavailable)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

/// Hands one message to the mailer and returns when the mailer has taken it.
///
/// # Errors
/// When it has not: see [`ErrorKind`].
#[cfg(target_family = "wasm")]
pub fn send(message: &Message) -> Result<Receipt, Error> {
    use crate::__private::bindings::taskforge::plugin::{mail, mail_mime as wit};

    let message = message.clone();
    let attachments = message.attachments.into_iter().map(|file| wit::Attachment {
        name: file.name,
        content_type: file.content_type,
        content: file.content,
        content_id: file.content_id,
    });
    let sent = wit::send(&wit::Message {
        from: message.from,
        to: message.to,
        cc: message.cc,
        bcc: message.bcc,
        reply_to: message.reply_to,
        subject: message.subject,
        headers: message.headers,
        text: message.text,
        html: message.html,
        attachments: attachments.collect(),
    });
    let refusal = |refusal: wit::Refusal| Refusal {
        address: refusal.address,
        code: refusal.code,
        message: refusal.message,
    };
    sent.map(|receipt| Receipt {
        message_id: receipt.message_id,
        accepted: receipt.accepted,
        refused: receipt.refused.into_iter().map(refusal).collect(),
    })
    .map_err(|error| {
        let kind = match error.code {
            mail::ErrorCode::Denied => ErrorKind::Denied,
            mail::ErrorCode::Invalid => ErrorKind::Invalid,
            mail::ErrorCode::Rejected => ErrorKind::Rejected,
            mail::ErrorCode::Unavailable => ErrorKind::Unavailable,
        };
        Error { kind, message: error.message }
    })
}

/// Hands one message to the mailer and returns when the mailer has taken it.
///
/// # Errors
/// When it has not: see [`ErrorKind`].
#[cfg(not(target_family = "wasm"))]
pub fn send(_message: &Message) -> Result<Receipt, Error> {
    Err(Error::new(ErrorKind::Denied, "there is no mailer outside a TaskForge host"))
}
