//! The mailer for production: an SMTP server.

use std::time::Duration;

use async_trait::async_trait;
use lettre::{AsyncSmtpTransport, AsyncTransport, Tokio1Executor, message::Mailbox, transport::smtp};

use super::{
    MailError, MailErrorKind, MailMessage, MailReceipt, Mailer,
    admission::SENDS,
    compose::{Bcc, compose, mailbox},
};

/// How long one step of the conversation may take.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Connections at once: as many as messages.
const CONNECTIONS: u32 = SENDS as u32;

/// Replies that speak of our credentials and not of the message (RFC 4954): the operator can put them right, so the
/// task may try again.
const AUTHENTICATION: [u16; 4] = [530, 534, 535, 538];

/// Hands messages to one SMTP server over pooled connections.
#[derive(Debug)]
pub struct SmtpMailer {
    transport: AsyncSmtpTransport<Tokio1Executor>,
    from: Mailbox,
}

impl SmtpMailer {
    /// A mailer for a server: `smtps://user:password@host` (TLS from the start, port 465),
    /// `smtp://user:password@host?tls=required` (STARTTLS, port 587), `?tls=opportunistic` (STARTTLS if offered), or
    /// `smtp://host:25` (no TLS). `from` is the sender of messages that name none. Connects with the first message.
    ///
    /// # Errors
    /// When the URL cannot be used, or `from` is not an address.
    pub fn new(url: &str, from: &str) -> Result<Self, MailError> {
        // The URL may carry a password, so the message does not repeat it.
        let transport = AsyncSmtpTransport::<Tokio1Executor>::from_url(url)
            .map_err(|error| MailError::invalid(format!("the SMTP URL cannot be used: {error}")))?
            .timeout(Some(TIMEOUT))
            .pool_config(smtp::PoolConfig::new().max_size(CONNECTIONS))
            .build();
        Ok(Self {
            transport,
            from: mailbox("from", from)?,
        })
    }
}

#[async_trait]
impl Mailer for SmtpMailer {
    async fn send(&self, mail: MailMessage) -> Result<MailReceipt, MailError> {
        let composed = compose(&mail, &self.from, Bcc::Drop)?;
        let log = vec![format!(
            "{}, handed to the mail server",
            composed.summary(&mail.subject)
        )];
        self.transport
            .send(composed.message)
            .await
            .map_err(|error| classify(&error))?;
        Ok(MailReceipt {
            message_id: format!("<{}>", composed.id),
            accepted: composed.recipients,
            log,
        })
    }
}

fn classify(error: &smtp::Error) -> MailError {
    let authentication = error
        .status()
        .is_some_and(|code| AUTHENTICATION.contains(&u16::from(code)));
    if error.is_permanent() && !authentication {
        return MailError {
            kind: MailErrorKind::Rejected,
            message: format!("the mail server refused the message: {error}"),
        };
    }
    tracing::warn!(error = %error, "the mail server did not take a message");
    if error.is_transient() {
        return MailError::unavailable(format!("the mail server asks to try later: {error}"));
    }
    MailError::unavailable("the mail server cannot be reached")
}
