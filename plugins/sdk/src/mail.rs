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
    /// Sender, as `user@example.com` or `Name <user@example.com>`. None: the host's configured sender.
    pub from: Option<String>,
    /// Recipients, each as for the sender. At least one of `to`, `cc` and `bcc`; at most 100 together.
    pub to: Vec<String>,
    /// Recipients of a copy.
    pub cc: Vec<String>,
    /// Recipients whom the message does not name.
    pub bcc: Vec<String>,
    /// Where answers are to go.
    pub reply_to: Option<String>,
    /// One line.
    pub subject: String,
    /// Plain text body. At least one of `text` and `html`; with both the message is `multipart/alternative`.
    pub text: Option<String>,
    /// HTML body.
    pub html: Option<String>,
}

/// Proof that the mailer took a message, which is not yet that it arrived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receipt {
    /// The `Message-ID` header, with its angle brackets.
    pub message_id: String,
    /// The addresses that the mailer accepted the message for.
    pub accepted: Vec<String>,
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

/// Why a message was not taken. Returned from a handler by `?` it is retried if it is [`ErrorKind::Unavailable`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    kind: ErrorKind,
    message: String,
}

impl Error {
    /// An error, for unit tests of handlers.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
        }
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
    use crate::__private::bindings::taskforge::plugin::mail as wit;

    let message = message.clone();
    let sent = wit::send(&wit::Message {
        from: message.from,
        to: message.to,
        cc: message.cc,
        bcc: message.bcc,
        reply_to: message.reply_to,
        subject: message.subject,
        text: message.text,
        html: message.html,
    });
    sent.map(|receipt| Receipt {
        message_id: receipt.message_id,
        accepted: receipt.accepted,
    })
    .map_err(|error| {
        let kind = match error.code {
            wit::ErrorCode::Denied => ErrorKind::Denied,
            wit::ErrorCode::Invalid => ErrorKind::Invalid,
            wit::ErrorCode::Rejected => ErrorKind::Rejected,
            wit::ErrorCode::Unavailable => ErrorKind::Unavailable,
        };
        Error {
            kind,
            message: error.message,
        }
    })
}

/// Hands one message to the mailer and returns when the mailer has taken it.
///
/// # Errors
/// When it has not: see [`ErrorKind`].
#[cfg(not(target_family = "wasm"))]
pub fn send(_message: &Message) -> Result<Receipt, Error> {
    Err(Error::new(
        ErrorKind::Denied,
        "there is no mailer outside a TaskForge host",
    ))
}
