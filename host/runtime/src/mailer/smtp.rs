//! The mailer for production: an SMTP server.
//!
//! The transaction is our own, on the library's connections: the library's transport gives a
//! message up at the first refused recipient, and does not fall back to HELO.

mod connect;
mod transaction;

use std::{
    fmt,
    future::Future,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use async_trait::async_trait;
use lettre::transport::smtp::{self, client::AsyncSmtpConnection};
use tokio::time::timeout;

use self::{connect::Server, transaction::transact};
use super::{
    MailError, MailErrorKind, MailMessage, MailReceipt, Mailer,
    address::Mailbox,
    compose::{Bcc, compose_apart},
};
use crate::authorities::Authorities;

/// How long one step of the conversation may take.
const TIMEOUT: Duration = Duration::from_secs(30);

/// How long a connection may be idle before it is dropped, and how many may be. Servers close
/// theirs after some minutes (RFC 5321, 4.5.3.2.7).
const IDLE: Duration = Duration::from_secs(60);
const IDLE_CONNECTIONS: usize = 10;

/// Replies about our credentials and not about the message (RFC 4954). The operator can correct
/// those, so the task may try again.
const AUTHENTICATION: [u16; 4] = [530, 534, 535, 538];

/// Sends messages to one SMTP server over pooled connections.
pub struct SmtpMailer {
    server: Server,
    idle: Mutex<Vec<(Instant, AsyncSmtpConnection)>>,
    from: Mailbox,
}

impl fmt::Debug for SmtpMailer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SmtpMailer").field("from", &self.from).finish_non_exhaustive()
    }
}

impl SmtpMailer {
    /// A mailer for a server: `smtps://user:password@host` (TLS from the start, port 465),
    /// `smtp://user:password@host?tls=required` (STARTTLS, port 587), `?tls=opportunistic`
    /// (STARTTLS if offered), or `smtp://host:25` (no TLS). `from` is the sender of messages that
    /// name none. Connects with the first message.
    ///
    /// # Errors
    /// When the URL cannot be used, or `from` is not an address.
    pub fn new(url: &str, from: &str) -> Result<Self, MailError> {
        Self::trusting(url, from, &Authorities::public())
    }

    /// [`SmtpMailer::new`] with other certificate authorities than the public ones.
    ///
    /// # Errors
    /// As [`SmtpMailer::new`].
    pub fn trusting(url: &str, from: &str, authorities: &Authorities) -> Result<Self, MailError> {
        Ok(Self {
            server: Server::from_url(url, authorities)?,
            idle: Mutex::default(),
            from: Mailbox::parse("from", from)?,
        })
    }

    /// A connection that answers; the last one that was used if there is one.
    async fn connection(&self) -> Result<AsyncSmtpConnection, Failed> {
        while let Some(mut connection) = self.idle_one() {
            if step(async { Ok(connection.test_connected().await) }).await.unwrap_or(false) {
                return Ok(connection);
            }
        }
        self.server.connect().await
    }

    fn idle_one(&self) -> Option<AsyncSmtpConnection> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|(since, _)| since.elapsed() < IDLE);
        idle.pop().map(|(_, connection)| connection)
    }

    fn keep(&self, connection: AsyncSmtpConnection) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if !connection.has_broken() && idle.len() < IDLE_CONNECTIONS {
            idle.push((Instant::now(), connection));
        }
    }
}

#[async_trait]
impl Mailer for SmtpMailer {
    async fn send(&self, mail: MailMessage) -> Result<MailReceipt, MailError> {
        let (mail, composed) = compose_apart(mail, self.from.clone(), Bcc::Drop).await?;
        let log = vec![format!("{}, handed to the mail server", composed.summary(&mail.subject))];
        let mut connection = self.connection().await.map_err(Failed::unconnected)?;
        let taken = transact(&mut connection, &composed).await?;
        if !taken.is_out_of_step {
            self.keep(connection);
        }
        Ok(MailReceipt {
            message_id: format!("<{}>", composed.id),
            accepted: taken.accepted,
            refused: taken.refused,
            log,
        })
    }
}

/// Why a step did not succeed.
enum Failed {
    Smtp(smtp::Error),
    Silent,
}

/// One step of the conversation, within its time.
async fn step<T>(doing: impl Future<Output = Result<T, smtp::Error>>) -> Result<T, Failed> {
    match timeout(TIMEOUT, doing).await {
        Ok(done) => done.map_err(Failed::Smtp),
        Err(_) => Err(Failed::Silent),
    }
}

impl Failed {
    /// The server's reply code, if it is one that refuses.
    fn code(&self) -> Option<u16> {
        match self {
            Self::Smtp(error) => error.status().map(u16::from),
            Self::Silent => None,
        }
    }

    /// What the server said.
    fn said(&self) -> String {
        use std::error::Error as _;
        match self {
            Self::Smtp(error) => error.source().map_or_else(String::new, ToString::to_string),
            Self::Silent => String::new(),
        }
    }

    /// The error when there is no connection. No message was offered, so none was refused, and a
    /// later attempt may succeed.
    fn unconnected(self) -> MailError {
        match self {
            Self::Smtp(error) if error.is_permanent() && !is_authentication(&error) => {
                let why = format!("the mail server takes no mail from this host: {error}");
                tracing::warn!("{why}");
                MailError::unavailable(why)
            }
            other => other.classified(),
        }
    }

    /// The error for the message as a whole.
    fn classified(self) -> MailError {
        let Self::Smtp(error) = self else {
            let seconds = TIMEOUT.as_secs();
            tracing::warn!("the mail server was silent for {seconds} s");
            return MailError::unavailable(format!("the mail server was silent for {seconds} s"));
        };
        if error.is_permanent() && !is_authentication(&error) {
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
}

fn is_authentication(error: &smtp::Error) -> bool {
    error.status().is_some_and(|code| AUTHENTICATION.contains(&u16::from(code)))
}

#[cfg(test)]
mod tests {
    use taskforge_testing::{smtp::Postbox, tls};

    use super::*;

    #[tokio::test]
    async fn a_server_of_a_private_authority_gets_mail_from_whoever_trusts_it() {
        let postbox = Postbox::start_secure().await;
        let mail = || MailMessage {
            key: "1".to_owned(),
            to: vec!["ann@example.com".to_owned()],
            subject: "s".to_owned(),
            text: Some("t".to_owned()),
            ..MailMessage::default()
        };
        let mailer = |authorities: &Authorities| {
            SmtpMailer::trusting(&postbox.url(), "bob@example.com", authorities).unwrap()
        };
        let refused = mailer(&Authorities::public()).send(mail()).await.unwrap_err();
        assert_eq!(refused.kind, MailErrorKind::Unavailable, "{refused:?}");
        let trusting = Authorities::read(Some(&tls::authority())).unwrap();
        mailer(&trusting).send(mail()).await.unwrap();
        assert_eq!(postbox.letters().len(), 1);
    }
}
